"""The command line: `sdlearn course | book | generate | models | doctor | bench | train`.

Every command imports what it needs when it runs, so `sdlearn --help` answers at once. What a user can cause (a wrong
value, a missing file, a full disk) ends in one sentence on stderr and exit status 1; anything else is a bug and keeps
its traceback.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence

from .. import __version__

CONTINUES = 130  # what a shell reports for a program stopped by Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = _parser(with_training=argv[:1] == ["train"]).parse_args(argv)
    try:
        return args.run(args) or 0
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        print(f"sdlearn: {error}", file=sys.stderr)
    except RuntimeError as error:
        if "out of memory" not in str(error) and "allocate memory" not in str(error):
            raise
        cure = "take a smaller --batch-size or --height and --width, --dtype float16 on a GPU, or --low-memory."
        print(f"sdlearn: the device ran out of memory; {cure}", file=sys.stderr)
    except KeyboardInterrupt:
        print("sdlearn: stopped.", file=sys.stderr)
        return CONTINUES
    return 1


def _parser(with_training: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sdlearn", description="Learn Stable Diffusion by running it, anywhere.")
    parser.add_argument("--version", action="version", version=f"sdlearn {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name, run, text, description=None) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=description)
        added.set_defaults(run=run)
        return added

    course = command("course", _course, "open the notebooks in JupyterLab")
    course.add_argument("--dir", help="the folder to work in; the notebooks are copied there, yours are left alone")
    course.add_argument("--port", type=int, help="JupyterLab's port (it takes the next free one from 8888)")
    course.add_argument("--no-browser", action="store_true", help="print the address instead of opening a browser")
    course.add_argument("options", nargs="*", metavar="-- OPTION", help="further options of JupyterLab, after --")

    description = (
        "Execute the notebooks that changed and build the site in _build/html. Needs a clone of the repository "
    )
    description += 'and pip install -e ".[book]".'
    book = command("book", _book, "build the course as a site, complete without internet", description)
    book.add_argument("--cover", action="store_true", help="only draw the README's picture anew")

    description = (
        "Draw a picture for every line of a file, as PNGs that carry their settings, with a JSON lines index. The same "
        "command continues an interrupted run. `accelerate launch -m sdlearn generate ...` shares the work between "
        "processes and GPUs."
    )
    text = "draw many pictures from a file of prompts; an interrupted run continues"
    generate = command("generate", _generate, text, description)
    text = "text, one prompt a line; or .csv, .jsonl with a prompt a row"
    generate.add_argument("--prompts", required=True, help=text)
    generate.add_argument("--out", required=True, help="the folder for the pictures and index.jsonl")
    generate.add_argument("--pictures", type=int, default=1, help="pictures for each prompt (default: %(default)s)")
    generate.add_argument("--seed", type=int, default=0, help="of each prompt's first picture; the next ones count up")
    generate.add_argument("--fast", action="store_true", help="the fast path (sdlearn.optimize)")
    _add_options(generate)

    command("models", _models, "list the models that load() knows by name")
    command("doctor", _doctor, "check this machine: OK or FAIL, and the cure")

    bench = command("bench", _bench, "time the loop against diffusers' pipeline on this machine")
    bench.add_argument("--repeats", type=int, default=7, help="runs of each, interleaved (default: %(default)s)")
    bench.add_argument("--random-weights", action="store_true", help="build the model from its config, no download")
    bench.add_argument("--fast", action="store_true", help="time the fast path (sdlearn.optimize) too")
    bench.add_argument("--compile", action="store_true", help="time the fast path with torch.compile too")
    _add_options(bench)

    train = commands.add_parser("train", help="make the shipped model's data and train it, or one of your own")
    if with_training:  # its options are only read when they are asked for
        if importlib.util.find_spec("..training.cli", __package__) is None:
            train.error("this installation has no sdlearn.training; install the whole package to train.")
        from ..training.cli import add_commands

        add_commands(train.add_subparsers(title="commands", metavar="COMMAND", required=True))
    return parser


def _add_options(parser):
    group = parser.add_argument_group("pictures")
    group.add_argument("--batch-size", type=int, default=1, help="pictures drawn at once (default: %(default)s)")
    group.add_argument("--num-inference-steps", "--steps", type=int, default=25, help="(default: %(default)s)")
    group.add_argument("--guidance-scale", type=float, default=7.5, help="(default: %(default)s)")
    group.add_argument("--sampler", default="ddim", help="(default: %(default)s)")
    group.add_argument("--negative-prompt", default="", help="what not to draw")
    group.add_argument("--height", type=int, help="in pixels (default: what the model was trained at)")
    group.add_argument("--width", type=int, help="in pixels")
    group = parser.add_argument_group("model")
    group.add_argument("--model", help="a name from `sdlearn models`, a hub id or a folder (default: the shipped one)")
    group.add_argument("--device", help="cpu, cuda or mps (default: the fastest present)")
    group.add_argument("--dtype", help="float32, float16 or bfloat16 (default: float16 on cuda, else float32)")
    group.add_argument("--low-memory", action="store_true", help="for small GPUs: slower, in far less memory")


def _options(args) -> dict:
    names = ("num_inference_steps", "guidance_scale", "sampler", "negative_prompt", "height", "width", "batch_size")
    model = {"name": args.model, "device": args.device, "dtype": args.dtype, "low_memory": args.low_memory}
    return {name: getattr(args, name) for name in (*names, "fast")} | {"model": model}


def _course(args):
    from .course import open_course

    return open_course(args.dir, port=args.port, browser=not args.no_browser, options=args.options)


def _book(args):
    from . import book

    print(book.draw_cover() if args.cover else book.build())


def _generate(args):
    from .generate import generate

    return generate(args.prompts, args.out, pictures=args.pictures, seed=args.seed, **_options(args))


def _models(args):
    from ..hub.checkpoints import models

    print(models())


def _doctor(args):
    from .doctor import examine

    return examine()


def _bench(args):
    from .bench import bench

    options = _options(args)
    print(bench(random_weights=args.random_weights, compiled=args.compile, repeats=args.repeats, **options))
