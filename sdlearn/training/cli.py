"""`sdlearn train data | judge | autoencoder | diffusion | distil | export | score | speedrun`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

import sdlearn

from ..hub.lora import add_lora
from ..model import StableDiffusion
from ..pictures import contact_sheet, to_images
from ..schedule import NoiseSchedule
from . import autoencoder, diffusion, distil, judge
from .artwork import CACHE, PACKAGES, load_artwork
from .export import export
from .loop import mixed_precision, processes
from .pictures import Pictures, Variety
from .presets import SUBJECTS
from .score import obedience, prompts, score

SPEEDRUN = replace(diffusion.SETTINGS, steps=1600, batch_size=64)
STOPPED_EARLY = 75  # sysexits' EX_TEMPFAIL: try again later
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def add_commands(subparsers) -> None:
    """Adds the training commands to the subparsers of `sdlearn train`."""
    for name, (run, text, options) in COMMANDS.items():
        parser = subparsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        parser.set_defaults(run=run)
        start = parser.add_mutually_exclusive_group() if "--from" in options else parser
        for flag, option in options.items():
            (start if flag in ("--from", "--decoder-of") else parser).add_argument(flag, **option)


def _data(args):
    art = _artwork(args)
    batch = Pictures(art, seed=args.seed).batch(0, 96)
    contact_sheet(to_images(batch.pixels), columns=12).save(args.sheet)
    print(f"{len(art.sprites)} drawings of {len(art.subjects)} subjects; {args.sheet} shows:")
    print("\n".join(batch.captions))
    print("Artwork:", "; ".join(package.credit for package in PACKAGES.values()))


def _judge(args):
    vae = _vae(args.vae)
    varied = Variety(pairs=0, hold_out=False)  # every combination, one subject to a picture
    pictures = Pictures(_artwork(args), vae.config.sample_size, varied, seed=1)
    trained, unseen = judge.train_judge(pictures, vae, steps=args.steps), replace(pictures, seed=1000)
    measured = {"raw": judge.measure_judge(trained, unseen), "round_trip": judge.measure_judge(trained, unseen, vae)}
    judge.save_judge(trained, args.folder, measured)
    print(json.dumps(measured, indent=1))


def _autoencoder(args):
    start = args.decoder_of or args.start
    usual = autoencoder.DECODER_SETTINGS if args.decoder_of else autoencoder.SETTINGS
    trained = autoencoder.train_autoencoder(
        _artwork(args), args.folder, start and _vae(start).requires_grad_(True), decoder_only=bool(args.decoder_of),
        settings=_settings(args, usual), minutes=args.minutes,
    )  # fmt: skip
    return _report_stop(args, trained)


def _diffusion(args):
    start = _model(args.start) if args.start else None
    trained = diffusion.train_diffusion(
        _artwork(args), start.vae if start and not args.vae else _vae(args.vae), _tokenizer(), args.folder,
        text_encoder=start and start.text_encoder.requires_grad_(True),
        unet=start and start.unet.requires_grad_(True),
        settings=_settings(args, diffusion.SETTINGS), minutes=args.minutes,
        judge=judge.load_judge(args.judge).to(DEVICE) if args.judge else None,
    )  # fmt: skip
    return _report_stop(args, trained)


def _distil(args):
    from safetensors.torch import load_file

    sd = _model(args.model)
    path = args.folder / "latents.safetensors"
    args.folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        art = _artwork(args)
        pictures = Pictures(art, sd.height, seed=distil.SETTINGS.seed)
        diffusion.make_latents(sd.vae, pictures, sd.tokenizer, path, 2 * len(art.sprites))
    data = load_file(path)
    done = distil.train_few_steps(
        sd, data["latents"], data["ids"], args.folder, settings=_settings(args, distil.SETTINGS), minutes=args.minutes,
    )  # fmt: skip
    return _report_stop(args, done)


def _export(args):
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    sdlearn.quiet()
    text_encoder = CLIPTextModel.from_pretrained(args.diffusion / "text_encoder")
    unet = UNet2DConditionModel.from_pretrained(args.diffusion / "unet")
    print("wrote", export(_vae(args.vae, "cpu"), text_encoder, unet, _tokenizer(), args.out))


def _score(args):
    options = {"num_inference_steps": args.steps, "guidance_scale": args.guidance_scale, "sampler": args.sampler}
    reader = judge.load_judge(args.judge).to(DEVICE)
    art = None if args.no_artwork else _artwork(args, reader.subjects)
    sd = _model(args.model)
    if args.lora:
        sd = add_lora(sd, args.lora)
    result = score(sd, reader, art, count=args.pictures, seed=args.seed, held=args.held_out, **options)
    print(json.dumps({**options, "seed": args.seed, **result}, indent=1))


def _speedrun(args):
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    reader, vae, tokenizer = judge.load_judge().to(DEVICE), _vae(None), _tokenizer()
    diffusion.train_diffusion(
        _artwork(args, reader.subjects), vae, tokenizer, args.folder, settings=_settings(args, SPEEDRUN),
        minutes=args.minutes,
    )  # fmt: skip
    text_encoder = CLIPTextModel.from_pretrained(args.folder / "text_encoder").to(DEVICE)  # also of a run cut short
    unet = UNet2DConditionModel.from_pretrained(args.folder / "unet").to(DEVICE)
    sd = StableDiffusion(tokenizer, text_encoder.eval(), unet.eval(), vae, NoiseSchedule(), "speedrun", args.folder)
    asked = prompts(reader, args.pictures, seed=0, held=False)
    right = obedience(sd, reader, asked, **diffusion.USUAL)["all"]
    print(f"speedrun, {args.minutes:g} minutes: {right:.1%} of {args.pictures} pictures are right")


SHOWN, RECIPE = "(default: %(default)s)", "(default: the recipe's)"
DRAWN = {
    "--subjects": {"metavar": "LIST", "help": '"cat, dog"; "shipped" stands for the shipped model\'s'},
    "--cache": {"type": Path, "default": CACHE, "help": f"folder of the artwork {SHOWN}"},
}
RUN = {
    "--run": {"dest": "folder", "type": Path, "required": True, "help": "folder of checkpoints, log and sheets"},
    "--steps": {"type": int, "help": RECIPE},
    "--batch-size": {"type": int, "help": f"of one process {RECIPE}"},
    "--learning-rate": {"type": float, "help": RECIPE},
    "--optimizer": {"choices": ("adamw", "muon"), "help": RECIPE},
    "--minutes": {"type": float, "help": "stop after so long with a checkpoint; the same command goes on"},
}
COMMANDS = {
    "data": (_data, "fetch and draw the artwork, and show a sheet of composed pictures", DRAWN | {
        "--sheet": {"type": Path, "default": Path("data.png"), "help": SHOWN},
        "--seed": {"type": int, "default": 0},
    }),
    "judge": (_judge, "train the judge, which reads whether pictures obey their prompts", DRAWN | {
        "--run": {"dest": "folder", "type": Path, "required": True, "help": "folder for the judge"},
        "--vae": {"type": Path, "help": "autoencoder to see through (default: the shipped model's)"},
        "--steps": {"type": int, "default": 6000, "help": SHOWN},
    }),
    "autoencoder": (_autoencoder, "train the autoencoder, or only its decoder", DRAWN | RUN | {
        "--from": {"dest": "start", "type": Path, "metavar": "FOLDER", "help": "go on from this autoencoder's weights"},
        "--decoder-of": {"type": Path, "metavar": "FOLDER",
                         "help": "train only this autoencoder's decoder; latents stay valid"},
    }),
    "diffusion": (_diffusion, "train the text encoder and the UNet on an autoencoder's latents", DRAWN | RUN | {
        "--vae": {"type": Path, "help": "folder of the autoencoder (default: that of --from, or the shipped)"},
        "--from": {"dest": "start", "metavar": "MODEL", "help": "go on from this model's weights"},
        "--judge": {"type": Path, "help": "folder of a judge that scores the run as it goes (score.jsonl)"},
    }),
    "distil": (_distil, "distil a model to a few steps, as a LoRA beside it", DRAWN | RUN | {
        "--model": {"help": "(default: the shipped model)"},
    }),
    "export": (_export, "write finished runs as one model folder in half precision", {
        "--diffusion": {"type": Path, "required": True, "help": "folder of the diffusion run"},
        "--vae": {"type": Path, "help": "folder of its autoencoder (default: the shipped model's)"},
        "--out": {"type": Path, "required": True, "help": "folder of the model to write"},
    }),
    "score": (_score, "draw pictures for fixed prompts and seeds, and measure them", DRAWN | {
        "--model": {"help": "(default: the shipped model)"},
        "--lora": {"help": "a LoRA of the model's, or a folder of one"},
        "--judge": {"type": Path, "help": "folder of the judge (default: the shipped one)"},
        "--pictures": {"type": int, "default": 100, "help": SHOWN},
        "--seed": {"type": int, "default": 0},
        "--guidance-scale": {"type": float, "default": 7.5, "help": SHOWN},
        "--steps": {"type": int, "default": 25, "help": SHOWN},
        "--sampler": {"default": "ddim", "help": SHOWN},
        "--held-out": {"action": "store_true", "help": "the model was trained with combinations held out"},
        "--no-artwork": {"action": "store_true", "help": "leave out what needs the artwork to compare with"},
    }),
    "speedrun": (_speedrun, "train from nothing for 20 minutes, and print one number", DRAWN | RUN | {
        "--minutes": {"type": float, "default": 20, "help": f"of training {SHOWN}"},
        "--pictures": {"type": int, "default": 200, "help": f"that the judge reads {SHOWN}"},
    }),
}  # fmt: skip


def _settings(args, usual):
    names = ("steps", "batch_size", "learning_rate", "optimizer")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    return replace(usual, mixed_precision=mixed_precision(), **given)


def _report_stop(args, result) -> int:
    """The exit status: not 0 for a run that stopped early, so that no script goes on with half a part."""
    print("stopped early; the same command goes on" if result is None else f"done: {args.folder}")
    return STOPPED_EARLY if result is None else 0


def _artwork(args, usual=SUBJECTS):
    """The drawings of the subjects asked for on the command line, or of the `usual` ones."""
    subjects = _subjects(args.subjects) if args.subjects else usual
    with processes().main_process_first():  # one fetches and draws it, the others find it in the cache
        return load_artwork(args.cache, subjects).to(DEVICE)


def _subjects(text: str) -> list[str]:
    """The names in a list such as "shipped, squid"."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return [subject for name in names for subject in (judge.load_judge().subjects if name == "shipped" else [name])]


def _model(name):
    sdlearn.quiet()
    return sdlearn.load(name, device=DEVICE, dtype="float32")


def _vae(folder: Path | None, device: str = DEVICE):
    """The autoencoder in this folder, or the shipped model's, in full precision."""
    from diffusers import AutoencoderKL

    folder = folder or sdlearn.model_path() / "vae"
    return AutoencoderKL.from_pretrained(folder).eval().requires_grad_(False).to(device)


def _tokenizer():
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(sdlearn.model_path() / "tokenizer")
