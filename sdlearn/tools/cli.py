"""The command line: `sdlearn course | book | generate | models | doctor | bench | train`.

Every command imports what it needs when it runs, so `sdlearn --help` answers at once. What a user can cause (a wrong
value, a missing file, a full disk) ends in one sentence on stderr and exit status 1; anything else is a bug and keeps
its traceback.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from functools import partial

from .. import __version__


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
        return 130  # what a shell reports for a program stopped by Ctrl-C
    return 1


def _parser(with_training: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sdlearn", description="Learn Stable Diffusion by running it, anywhere.")
    parser.add_argument("--version", action="version", version=f"sdlearn {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name, function, text, description=None) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=description)
        added.set_defaults(run=partial(_call, function))
        return added

    course = command("course", "tools.course.open_course", "open the notebooks in JupyterLab")
    text = "the folder to work in; the notebooks are copied there, yours are left alone"
    course.add_argument("--dir", dest="folder", metavar="DIR", help=text)
    course.add_argument("--port", type=int, help="JupyterLab's port (it takes the next free one from 8888)")
    text = "print the address instead of opening a browser"
    course.add_argument("--no-browser", dest="browser", action="store_false", help=text)
    which = course.add_mutually_exclusive_group()
    version = {"dest": "version", "action": "store_const"}
    which.add_argument("--student", **version, const="student", help="without solutions, in a folder of its own")
    which.add_argument("--teacher", **version, const="teacher", help="solutions open, with notes on every exercise")
    text = "run the checks of the notebooks in FOLDER and write FOLDER/grades.csv; open nothing"
    which.add_argument("--grade", metavar="FOLDER", help=text)
    text = 'run the cells of a teacher\'s plan, such as "90 minutes", and time them; open nothing'
    which.add_argument("--rehearse", metavar="PLAN", help=text)
    text = "fill FOLDER for machines without internet: wheels, notebooks, site, installers, checksums; open nothing"
    which.add_argument("--bundle", metavar="FOLDER", help=text)
    text = "a system to bundle for besides this one: linux, macos, windows; such as windows-3.12 with Python's version"
    course.add_argument("--platform", dest="platforms", action="append", default=[], metavar="SYSTEM", help=text)
    text = "the PyTorch to bundle, such as torch==2.13.0, from pip's index (default: the CPU build of pytorch.org)"
    course.add_argument("--torch", metavar="REQUIREMENT", help=text)
    which = course.add_mutually_exclusive_group()
    text = "bring what is newer in the course, with your answers and cells in it; yours is kept beside it; open nothing"
    which.add_argument("--update", action="store_true", help=text)
    text = "start this notebook again (01 is enough of a name); yours is kept beside it; open nothing"
    which.add_argument("--reset", metavar="NAME", help=text)
    course.add_argument("options", nargs="*", metavar="-- OPTION", help="further options of JupyterLab, after --")

    description = (
        "Execute the notebooks that changed and build the site in _build/html. Needs a clone of the repository "
    )
    description += 'and pip install -e ".[book]".'
    book = command("book", "tools.book.build", "build the course as a site, complete without internet", description)
    cover = {"dest": "run", "action": "store_const", "const": partial(_call, "tools.book.draw_cover")}
    book.add_argument("--cover", **cover, help="only draw the README's picture anew")
    decks = {"action": _Instead, "const": "tools.slides.build", "nargs": 0}
    book.add_argument("--slides", **decks, help="make slides instead, a deck a notebook in _build/slides")

    description = (
        "Draw a picture for every line of a file, as PNGs that carry their settings, with a JSON lines index. The same "
        "command continues an interrupted run. `accelerate launch -m sdlearn generate ...` shares the work between "
        "processes and GPUs."
    )
    text = "draw many pictures from a file of prompts; an interrupted run continues"
    generate = command("generate", "tools.generate.generate", text, description)
    text = "text, one prompt a line; or .csv, .jsonl with a prompt a row"
    generate.add_argument("--prompts", required=True, help=text)
    generate.add_argument("--out", required=True, help="the folder for the pictures and index.jsonl")
    generate.add_argument("--pictures", type=int, default=1, help="pictures for each prompt (default: %(default)s)")
    generate.add_argument("--seed", type=int, default=0, help="of each prompt's first picture; the next ones count up")
    generate.add_argument("--fast", action="store_true", help="the fast path (sdlearn.optimize)")
    _add_options(generate)

    command("models", "hub.checkpoints.models", "list the models that load() knows by name")
    doctor = command("doctor", "tools.doctor.examine", "check this machine: OK or FAIL, and the cure")
    which = doctor.add_mutually_exclusive_group()
    text = "before a class: the same for JupyterLab too, a word that says all is well, and a file for the teacher"
    which.add_argument("--class", action=_Instead, const="tools.doctor.prepare", nargs=0, help=text)
    text = "make a table of the files that a class sent, and say what to cure"
    instead = {"action": _Instead, "const": "tools.doctor.summarise", "dest": "folder"}
    which.add_argument("--class-summary", **instead, metavar="FOLDER", help=text)

    bench = command("bench", "tools.bench.bench", "time the loop against diffusers' pipeline on this machine")
    bench.add_argument("--repeats", type=int, default=7, help="runs of each, interleaved (default: %(default)s)")
    bench.add_argument("--random-weights", action="store_true", help="build the model from its config, no download")
    bench.add_argument("--fast", action="store_true", help="time the fast path (sdlearn.optimize) too")
    text = "time the fast path with torch.compile too"
    bench.add_argument("--compile", dest="compiled", action="store_true", help=text)
    _add_options(bench)

    train = commands.add_parser("train", help="make the shipped model's data and train it, or one of your own")
    if with_training:  # its options are only read when they are asked for
        if importlib.util.find_spec("..training.cli", __package__) is None:
            train.error("this installation has no sdlearn.training; install the whole package to train.")
        from ..training.cli import add_commands

        add_commands(train.add_subparsers(title="commands", metavar="COMMAND", required=True))
    return parser


class _Instead(argparse.Action):
    """An option that runs another function, with the option's value as an argument if it has one."""

    def __init__(self, *args, **about):
        super().__init__(*args, default=argparse.SUPPRESS, **about)

    def __call__(self, parser, namespace, values, option_string=None):
        namespace.run = partial(_call, self.const)
        if self.nargs != 0:
            setattr(namespace, self.dest, values)


def _call(where: str, args: argparse.Namespace) -> int:
    """Call that function with the options as its arguments; prints what it returns, unless that is an exit status."""
    module, function = where.rsplit(".", 1)
    options = {name: value for name, value in vars(args).items() if name != "run"}
    if "name" in options:
        options["model"] = {name: options.pop(name) for name in ("name", "device", "dtype", "low_memory")}
    result = getattr(importlib.import_module(f"..{module}", __package__), function)(**options)
    if isinstance(result, int):
        return result
    print(result)
    return 0


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
    text = "a name from `sdlearn models`, a hub id or a folder (default: the shipped one)"
    group.add_argument("--model", dest="name", metavar="MODEL", help=text)
    group.add_argument("--device", help="cpu, cuda or mps (default: the fastest present)")
    group.add_argument("--dtype", help="float32, float16 or bfloat16 (default: float16 on cuda, else float32)")
    group.add_argument("--low-memory", action="store_true", help="for small GPUs: slower, in far less memory")
