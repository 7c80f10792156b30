"""The published configs of the real checkpoints, so that they can be built, counted and timed without a download.

sd = random_model("sd-1.4", device="meta")                       # all shapes, no memory
sum(p.numel() for p in sd.unet.parameters())                     # 859_520_964
"""

from __future__ import annotations

from typing import Any

from ..model import StableDiffusion
from ..schedule import NoiseSchedule
from .checkpoints import model_path, pick_device, pick_dtype, spare_memory

_UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "norm_num_groups": 32,
}
_VAE = {
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
_TEXT = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407}
_VERSION_1 = {
    "text_encoder": _TEXT
    | {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    | {"hidden_act": "quick_gelu"},
    "unet": _UNET | {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "vae": _VAE | {"sample_size": 512},
    "schedule": {},
}
# Version 2 reads OpenCLIP's text encoder without its last layer, and gives every attention head 64 channels.
_VERSION_2 = {
    "text_encoder": _TEXT
    | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
    | {"hidden_act": "gelu"},
    "unet": _UNET
    | {"sample_size": 64, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20)}
    | {"use_linear_projection": True},
    "vae": _VAE | {"sample_size": 512},
    "schedule": {},
}

ARCHITECTURES: dict[str, dict[str, dict[str, Any]]] = {
    "sd-1.4": _VERSION_1,
    "sd-1.5": _VERSION_1,
    "sd-2.1-base": _VERSION_2,
    "sd-2.1": _VERSION_2
    | {
        "unet": _VERSION_2["unet"] | {"sample_size": 96, "upcast_attention": True},
        "vae": _VAE | {"sample_size": 768},
        "schedule": {"prediction_type": "v_prediction"},
    },
}


def random_model(
    name: str, device: str | None = "cpu", dtype: str = "float32", seed: int = 0, low_memory: bool = False
) -> StableDiffusion:
    """A model of that checkpoint's exact shape with random weights: it draws noise, at the real model's cost.

    device "meta" gives shapes without memory, enough to count parameters and arithmetic. The autoencoder is in float32,
    and low_memory acts, as in `load`. Raises ValueError for a name that has no published config here.
    """
    import diffusers
    import torch
    import transformers

    if name not in ARCHITECTURES:
        raise ValueError(f"No config of {name!r} is at hand; choose one of {', '.join(ARCHITECTURES)}.")
    config = ARCHITECTURES[name]
    place = pick_device(device)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        with place:
            parts = {
                "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**config["text_encoder"])),
                "vae": diffusers.AutoencoderKL(**config["vae"]),
            }
        with torch.device("cpu") if low_memory else place:
            parts["unet"] = diffusers.UNet2DConditionModel(**config["unet"])
    for part, module in parts.items():
        # torch's own `to`: diffusers' warns of layers that must stay float32, even where there are none.
        torch.nn.Module.to(module, torch.float32 if part == "vae" else pick_dtype(dtype)).eval().requires_grad_(False)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(model_path() / "tokenizer")
    if name.startswith("sd-2"):
        tokenizer.pad_token = "!"
    sd = StableDiffusion(tokenizer, schedule=NoiseSchedule(**config["schedule"]), name=name, path=None, **parts)
    if low_memory:
        spare_memory(sd, place)
    return sd
