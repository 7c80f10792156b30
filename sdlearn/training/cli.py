"""`sdlearn train data | reader | autoencoder | diffusion | export | score`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path


def add_commands(subparsers) -> None:
    """Adds the training commands to the subparsers of `sdlearn train`."""
    _add_data(subparsers)
    _add_reader(subparsers)
    _add_autoencoder(subparsers)
    _add_diffusion(subparsers)
    _add_export(subparsers)
    _add_score(subparsers)


def _add_data(subparsers):
    parser = _command(subparsers, "data", "fetch and draw the artwork, and show a sheet of composed pictures")
    parser.add_argument("--sheet", type=Path, default=Path("data.png"), help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)

    def run(args):
        from .autoencoder import save_sheet
        from .data import PACKAGES, PRESETS, Pictures

        artwork, preset = _artwork(args), PRESETS[args.preset]
        batch = Pictures(artwork, preset.size, preset.variety, args.seed).batch(0, 96)
        save_sheet(batch.pixels, args.sheet, columns=12)
        print(f"{len(artwork.sprites)} drawings of {len(artwork.subjects)} subjects; {args.sheet} shows:")
        print("\n".join(batch.captions))
        print("Artwork:", "; ".join(package.credit for package in PACKAGES.values()))

    parser.set_defaults(run=run)


def _add_reader(subparsers):
    parser = _command(subparsers, "reader", "train the reader that judges whether pictures obey their prompts")
    parser.add_argument("--run", dest="folder", type=Path, required=True, help="folder for the reader")
    parser.add_argument("--vae", type=Path, help="autoencoder to see through (default: the shipped model's)")
    parser.add_argument("--steps", type=int, default=1500, help="(default: %(default)s)")

    def run(args):
        from .data import PRESETS, Pictures
        from .reader import measure_reader, save_reader, train_reader

        artwork, preset = _artwork(args), PRESETS[args.preset]
        vae = _vae(args.vae)
        # Every combination, by its plain name, one subject to a picture.
        varied = replace(preset.variety, pairs=0.0, hold_out=False)
        reader = train_reader(Pictures(artwork, preset.size, varied, seed=1), vae, steps=args.steps)
        unseen = Pictures(artwork, preset.size, varied, seed=1000)
        measured = {"raw": measure_reader(reader, unseen), "round_trip": measure_reader(reader, unseen, vae)}
        save_reader(reader, args.folder, measured)
        print(json.dumps(measured, indent=1))

    parser.set_defaults(run=run)


def _add_autoencoder(subparsers):
    parser = _command(subparsers, "autoencoder", "train the autoencoder, or only its decoder")
    _add_run_options(parser)
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--from", dest="start", metavar="MODEL", help="go on from this model's weights")
    start.add_argument("--decoder-of", metavar="MODEL", help="train only this model's decoder; latents stay valid")

    def run(args):
        from . import autoencoder

        table = autoencoder.DECODER_SETTINGS if args.decoder_of else autoencoder.SETTINGS
        start = args.decoder_of or args.start
        vae = _model(start).vae.requires_grad_(True) if start else None
        _report_stop(
            args,
            autoencoder.train_autoencoder(
                _artwork(args), args.preset, args.folder, vae, decoder_only=bool(args.decoder_of),
                settings=_settings(args, table), minutes=args.minutes,
            ),
        )  # fmt: skip

    parser.set_defaults(run=run)


def _add_diffusion(subparsers):
    parser = _command(subparsers, "diffusion", "train the text encoder and the UNet on an autoencoder's latents")
    _add_run_options(parser)
    parser.add_argument("--vae", type=Path, help="folder of the autoencoder (default: that of --from, or the shipped)")
    parser.add_argument("--from", dest="start", metavar="MODEL", help="go on from this model's weights")
    parser.add_argument("--reader", type=Path, help="folder of a reader that scores the run as it goes (score.jsonl)")

    def run(args):
        from . import diffusion
        from .reader import load_reader

        start = _model(args.start) if args.start else None
        vae = start.vae if start and not args.vae else _vae(args.vae)
        _report_stop(
            args,
            diffusion.train_diffusion(
                _artwork(args), args.preset, vae, _tokenizer(), args.folder,
                text_encoder=start and start.text_encoder.requires_grad_(True),
                unet=start and start.unet.requires_grad_(True),
                settings=_settings(args, diffusion.SETTINGS), minutes=args.minutes,
                reader=load_reader(args.reader).to(_device()) if args.reader else None,
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
    parser.add_argument("--reader", type=Path, help="folder of the reader (default: the shipped one)")
    parser.add_argument("--pictures", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance-scale", type=float, default=4.0, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=25, help="(default: %(default)s)")
    parser.add_argument("--sampler", default="ddim", help="(default: %(default)s)")
    parser.add_argument("--held-out", action="store_true", help="the model was trained with combinations held out")
    parser.add_argument("--no-artwork", action="store_true", help="leave out what needs the artwork to compare with")

    def run(args):
        from .reader import load_reader
        from .score import score

        options = {"num_inference_steps": args.steps, "guidance_scale": args.guidance_scale, "sampler": args.sampler}
        result = score(
            _model(args.model), load_reader(args.reader), None if args.no_artwork else _artwork(args),
            count=args.pictures, seed=args.seed, held=args.held_out, **options,
        )  # fmt: skip
        print(json.dumps({**options, "seed": args.seed, **result}, indent=1))

    parser.set_defaults(run=run)


def _command(subparsers, name: str, text: str):
    from .data import CACHE, PRESETS

    parser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("--preset", choices=PRESETS, default="emoji-64", help="(default: %(default)s)")
    parser.add_argument("--subjects", metavar="LIST", help='"cat, dog"; "shipped" stands for the shipped model\'s')
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the artwork (default: %(default)s)")
    return parser


def _add_run_options(parser):
    parser.add_argument("--run", dest="folder", type=Path, required=True, help="folder of checkpoints, log and sheets")
    parser.add_argument("--steps", type=int, help="(default: the preset's)")
    parser.add_argument("--batch-size", type=int, help="of one process (default: the preset's)")
    parser.add_argument("--learning-rate", type=float, help="(default: the preset's)")
    parser.add_argument("--minutes", type=float, help="stop after so long with a checkpoint; the same command goes on")


def _settings(args, table):
    from .loop import mixed_precision

    names = ("steps", "batch_size", "learning_rate")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    return replace(table[args.preset], mixed_precision=mixed_precision(), **given)


def _report_stop(args, result) -> None:
    print("stopped early; the same command goes on" if result is None else f"done: {args.folder}")


def _artwork(args):
    from .data import load_artwork
    from .loop import processes

    with processes().main_process_first():  # one fetches and draws it, the others find it in the cache
        artwork = load_artwork(args.preset, args.cache).to(_device())
    return artwork.only(_subjects(args.subjects)) if args.subjects else artwork


def _subjects(text: str) -> list[str]:
    """The names in a list such as "shipped, squid"."""
    from .reader import load_reader

    names = [name.strip() for name in text.split(",") if name.strip()]
    return [subject for name in names for subject in (load_reader().subjects if name == "shipped" else [name])]


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
