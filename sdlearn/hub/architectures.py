"""The published configs of the real checkpoints, so that they can be built, counted and timed without a download.

sd = random_model("sd-1.4", device="meta")                       # all shapes, no memory
sum(p.numel() for p in sd.unet.parameters())                     # 859_520_964
"""

from typing import Any

import diffusers
import torch
import transformers

from ..model import StableDiffusion
from ..schedule import NoiseSchedule
from .checkpoints import model_path, place, spare_memory

# What is left out here is the default of CLIPTextConfig and UNet2DConditionModel, which are Stable Diffusion 1's.
_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "scaling_factor": 0.18215,
    "sample_size": 512,
}
_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_VERSION_1 = {"text_encoder": _CLIP_L, "unet": {"sample_size": 64, "cross_attention_dim": 768}, "vae": _VAE}
# Version 2 reads OpenCLIP's text encoder without its last layer, and gives every attention head 64 channels.
_OPEN_CLIP = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
_WIDE = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
_VERSION_2 = {"text_encoder": _OPEN_CLIP | {"hidden_act": "gelu"}, "unet": _WIDE | {"sample_size": 64}, "vae": _VAE}

ARCHITECTURES: dict[str, dict[str, dict[str, Any]]] = {
    "sd-1.4": _VERSION_1,
    "sd-1.5": _VERSION_1,
    "sd-2.1-base": _VERSION_2,
    "sd-2.1": {
        "text_encoder": _VERSION_2["text_encoder"],
        "unet": _WIDE | {"sample_size": 96, "upcast_attention": True},
        "vae": _VAE | {"sample_size": 768},
        "schedule": {"prediction_type": "v_prediction"},
    },
}


def random_model(
    name: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    low_memory: bool = False,
    seed: int = 0,
) -> StableDiffusion:
    """A model of that checkpoint's exact shape with random weights: it draws noise, at the real model's cost.

    name: None for "sd-1.4". device "meta" gives shapes without memory, enough to count parameters and arithmetic; the
    rest is as in `load`. Raises ValueError for a name that has no published config here.
    """
    name = name or "sd-1.4"
    if name not in ARCHITECTURES:
        raise ValueError(f"No config of {name!r} is at hand; choose one of {', '.join(ARCHITECTURES)}.")
    config = ARCHITECTURES[name]
    device, dtype = place(device, dtype)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        with device:
            parts = {
                "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**config["text_encoder"])),
                "vae": diffusers.AutoencoderKL(**config["vae"]),
            }
        with torch.device("cpu") if low_memory else device:
            parts["unet"] = diffusers.UNet2DConditionModel(**config["unet"])
    for part, module in parts.items():
        # torch's own `to`: diffusers' warns of layers that must stay float32, even where there are none.
        kept = torch.float32 if part == "vae" and dtype == torch.float16 else dtype
        torch.nn.Module.to(module, kept).eval().requires_grad_(False)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(model_path() / "tokenizer")
    if name.startswith("sd-2"):
        tokenizer.pad_token = "!"
    sd = StableDiffusion(tokenizer, schedule=NoiseSchedule(**config.get("schedule", {})), name=name, path=None, **parts)
    if low_memory:
        spare_memory(sd, device)
    return sd
