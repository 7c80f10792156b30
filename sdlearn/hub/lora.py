"""LoRAs: small files of low-rank additions to a model's matrices (Hu et al. 2022), as diffusers and peft have them."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from safetensors import safe_open

from ..model import StableDiffusion
from .download import failure_told
from .weights import damage_told, first_line

FILE = "pytorch_lora_weights.safetensors"


def add_lora(sd: StableDiffusion, name: str | os.PathLike, scale: float = 1.0) -> StableDiffusion:
    """The model with a LoRA added to its weights, in place: W + scale B A. It runs as fast as without.

    name: one that lies in the model's own folder `lora` (see `loras`); a folder or .safetensors file that diffusers'
    `save_lora_weights` wrote; or a hub id ("latent-consistency/lcm-lora-sdv1-5").
    scale: 0 for nothing, 1 for all of it.

    Raises ValueError for a name that is none of these and for a LoRA that was made for another model, OSError for one
    that cannot be had or is damaged. All say what to do.
    """
    from diffusers import StableDiffusionPipeline

    file = _find(sd, name)
    pipeline = StableDiffusionPipeline(
        sd.vae, sd.text_encoder, sd.tokenizer, sd.unet, scheduler=None, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    with damage_told(file), safe_open(file, "pt"):
        pass
    try:
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="added")
        pipeline.fuse_lora([part for part in ("unet", "text_encoder") if _adapted(getattr(pipeline, part))], scale)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = first_line(error).rstrip(".:")[:120]
        raise ValueError(f"The LoRA {str(name)!r} was not made for the model {sd.name!r}: {reason}.") from error
    pipeline.unload_lora_weights()
    for part in (sd.unet, sd.text_encoder):
        part.eval().requires_grad_(False)
    return replace(sd, name=f"{sd.name} + {Path(name).name}")


def loras(folder: Path | None) -> list[str]:
    """The names of the LoRAs that lie in a model's folder."""
    return sorted(path.parent.name for path in folder.glob(f"lora/*/{FILE}")) if folder else []


def _adapted(part) -> bool:
    return bool(getattr(part, "peft_config", None))


def _find(sd: StableDiffusion, name: str | os.PathLike) -> Path:
    """The file of a LoRA, fetched where it lies on the hub."""
    if str(name) in loras(sd.path):
        return sd.path / "lora" / str(name) / FILE
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if (path / FILE).is_file():
        return path / FILE
    if not path.exists() and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)):
        from huggingface_hub import hf_hub_download

        with failure_told(str(name)):
            return Path(hf_hub_download(str(name), FILE))
    own = ", ".join(map(repr, loras(sd.path))) or "none"
    raise ValueError(
        f"There is no LoRA {str(name)!r}: it is none of the model's own ({own}), no folder with a {FILE}, no file, and "
        "no hub id of the form 'owner/name'."
    )
