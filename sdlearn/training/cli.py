"""`sdlearn train data | judge | autoencoder | diffusion | export | score`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from .presets import SUBJECTS

JUDGE_STEPS = 6000
STOPPED_EARLY = 75  # sysexits' EX_TEMPFAIL: try again later


def add_commands(subparsers) -> None:
    """Adds the training commands to the subparsers of `sdlearn train`."""
    _add_data(subparsers)
    _add_judge(subparsers)
    _add_autoencoder(subparsers)
    _add_diffusion(subparsers)
    _add_export(subparsers)
    _add_score(subparsers)


def _add_data(subparsers):
    parser = _command(subparsers, "data", "fetch and draw the artwork, and show a sheet of composed pictures")
    parser.add_argument("--sheet", type=Path, default=Path("data.png"), help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)

    def run(args):
        from .artwork import PACKAGES
        from .autoencoder import save_sheet
        from .pictures import Pictures

        artwork = _artwork(args)
        batch = Pictures(artwork, seed=args.seed).batch(0, 96)
        save_sheet(batch.pixels, args.sheet, columns=12)
        print(f"{len(artwork.sprites)} drawings of {len(artwork.subjects)} subjects; {args.sheet} shows:")
        print("\n".join(batch.captions))
        print("Artwork:", "; ".join(package.credit for package in PACKAGES.values()))

    parser.set_defaults(run=run)


def _add_judge(subparsers):
    parser = _command(subparsers, "judge", "train the judge, which reads whether pictures obey their prompts")
    parser.add_argument("--run", dest="folder", type=Path, required=True, help="folder for the judge")
    parser.add_argument("--vae", type=Path, help="autoencoder to see through (default: the shipped model's)")
    parser.add_argument("--steps", type=int, default=JUDGE_STEPS, help="(default: %(default)s)")

    def run(args):
        from .judge import measure_judge, save_judge, train_judge
        from .pictures import Pictures, Variety

        artwork, vae = _artwork(args), _vae(args.vae)
        varied = Variety(pairs=0, hold_out=False)  # every combination, one subject to a picture
        judge = train_judge(Pictures(artwork, vae.config.sample_size, varied, seed=1), vae, steps=args.steps)
        unseen = Pictures(artwork, vae.config.sample_size, varied, seed=1000)
        measured = {"raw": measure_judge(judge, unseen), "round_trip": measure_judge(judge, unseen, vae)}
        save_judge(judge, args.folder, measured)
        print(json.dumps(measured, indent=1))

    parser.set_defaults(run=run)


def _add_autoencoder(subparsers):
    parser = _command(subparsers, "autoencoder", "train the autoencoder, or only its decoder")
    _add_run_options(parser)
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--from", dest="start", type=Path, metavar="FOLDER", help="go on from this autoencoder's weights"
    )
    start.add_argument(
        "--decoder-of", type=Path, metavar="FOLDER", help="train only this autoencoder's decoder; latents stay valid"
    )

    def run(args):
        from . import autoencoder

        usual = autoencoder.DECODER_SETTINGS if args.decoder_of else autoencoder.SETTINGS
        start = args.decoder_of or args.start
        vae = _vae(start).requires_grad_(True) if start else None
        return _report_stop(
            args,
            autoencoder.train_autoencoder(
                _artwork(args), args.folder, vae, decoder_only=bool(args.decoder_of),
                settings=_settings(args, usual), minutes=args.minutes,
            ),
        )  # fmt: skip

    parser.set_defaults(run=run)


def _add_diffusion(subparsers):
    parser = _command(subparsers, "diffusion", "train the text encoder and the UNet on an autoencoder's latents")
    _add_run_options(parser)
    parser.add_argument("--vae", type=Path, help="folder of the autoencoder (default: that of --from, or the shipped)")
    parser.add_argument("--from", dest="start", metavar="MODEL", help="go on from this model's weights")
    parser.add_argument("--judge", type=Path, help="folder of a judge that scores the run as it goes (score.jsonl)")

    def run(args):
        from . import diffusion
        from .judge import load_judge

        start = _model(args.start) if args.start else None
        vae = start.vae if start and not args.vae else _vae(args.vae)
        return _report_stop(
            args,
            diffusion.train_diffusion(
                _artwork(args), vae, _tokenizer(), args.folder,
                text_encoder=start and start.text_encoder.requires_grad_(True),
                unet=start and start.unet.requires_grad_(True),
                settings=_settings(args, diffusion.SETTINGS), minutes=args.minutes,
                judge=load_judge(args.judge).to(_device()) if args.judge else None,
            ),
        )  # fmt: skip

    parser.set_defaults(run=run)


def _add_export(subparsers):
    parser = subparsers.add_parser("export", help="write finished runs as one model folder in half precision")
    parser.add_argument("--diffusion", type=Path, required=True, help="folder of the diffusion run")
    parser.add_argument("--vae", type=Path, help="folder of its autoencoder (default: the shipped model's)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model to write")

    def run(args):
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel

        import sdlearn

        from .export import export

        sdlearn.quiet()
        parts = (
            AutoencoderKL.from_pretrained(args.vae or sdlearn.model_path() / "vae"),
            CLIPTextModel.from_pretrained(args.diffusion / "text_encoder"),
            UNet2DConditionModel.from_pretrained(args.diffusion / "unet"),
        )
        print("wrote", export(*parts, _tokenizer(), args.out))

    parser.set_defaults(run=run)


def _add_score(subparsers):
    parser = _command(subparsers, "score", "draw pictures for fixed prompts and seeds, and measure them")
    parser.add_argument("--model", help="(default: the shipped model)")
    parser.add_argument("--judge", type=Path, help="folder of the judge (default: the shipped one)")
    parser.add_argument("--pictures", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance-scale", type=float, default=7.5, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=25, help="(default: %(default)s)")
    parser.add_argument("--sampler", default="ddim", help="(default: %(default)s)")
    parser.add_argument("--held-out", action="store_true", help="the model was trained with combinations held out")
    parser.add_argument("--no-artwork", action="store_true", help="leave out what needs the artwork to compare with")

    def run(args):
        from .judge import load_judge
        from .score import score

        options = {"num_inference_steps": args.steps, "guidance_scale": args.guidance_scale, "sampler": args.sampler}
        judge = load_judge(args.judge)
        result = score(
            _model(args.model), judge.to(_device()), None if args.no_artwork else _artwork(args, judge.subjects),
            count=args.pictures, seed=args.seed, held=args.held_out, **options,
        )  # fmt: skip
        print(json.dumps({**options, "seed": args.seed, **result}, indent=1))

    parser.set_defaults(run=run)


def _command(subparsers, name: str, text: str):
    from .artwork import CACHE

    parser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("--subjects", metavar="LIST", help='"cat, dog"; "shipped" stands for the shipped model\'s')
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the artwork (default: %(default)s)")
    return parser


def _add_run_options(parser):
    parser.add_argument("--run", dest="folder", type=Path, required=True, help="folder of checkpoints, log and sheets")
    parser.add_argument("--steps", type=int, help="(default: the recipe's)")
    parser.add_argument("--batch-size", type=int, help="of one process (default: the recipe's)")
    parser.add_argument("--learning-rate", type=float, help="(default: the recipe's)")
    parser.add_argument("--optimizer", choices=("adamw", "muon"), help="(default: the recipe's)")
    parser.add_argument("--minutes", type=float, help="stop after so long with a checkpoint; the same command goes on")


def _settings(args, usual):
    from .loop import mixed_precision

    names = ("steps", "batch_size", "learning_rate", "optimizer")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    return replace(usual, mixed_precision=mixed_precision(), **given)


def _report_stop(args, result) -> int:
    """The exit status: not 0 for a run that stopped early, so that no script goes on with half a part."""
    print("stopped early; the same command goes on" if result is None else f"done: {args.folder}")
    return STOPPED_EARLY if result is None else 0


def _artwork(args, usual=SUBJECTS):
    """The drawings of the subjects asked for on the command line, or of the `usual` ones."""
    from .artwork import load_artwork
    from .loop import processes

    subjects = _subjects(args.subjects) if args.subjects else usual
    with processes().main_process_first():  # one fetches and draws it, the others find it in the cache
        return load_artwork(args.cache, subjects).to(_device())


def _subjects(text: str) -> list[str]:
    """The names in a list such as "shipped, squid"."""
    from .judge import load_judge

    names = [name.strip() for name in text.split(",") if name.strip()]
    return [subject for name in names for subject in (load_judge().subjects if name == "shipped" else [name])]


def _model(name):
    import sdlearn

    sdlearn.quiet()
    return sdlearn.load(name, device=_device(), dtype="float32")


def _vae(folder: Path | None):
    """The autoencoder in this folder, or the shipped model's, in full precision."""
    from diffusers import AutoencoderKL

    import sdlearn

    folder = folder or sdlearn.model_path() / "vae"
    return AutoencoderKL.from_pretrained(folder).eval().requires_grad_(False).to(_device())


def _tokenizer():
    from transformers import CLIPTokenizer

    import sdlearn

    return CLIPTokenizer.from_pretrained(sdlearn.model_path() / "tokenizer")


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
