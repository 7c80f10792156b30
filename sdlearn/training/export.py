"""A finished run as a diffusers folder in half precision, for `sdlearn.load` and `StableDiffusionPipeline`."""

import json
import math
from pathlib import Path

import torch

MIB = 2**20
BUDGET = 48 * MIB  # of all weights together, so that the repository stays light to clone
# How finely weights are rounded. The autoencoder, whose errors one sees, loses 6 dB with 4 steps and 0.05 with 64.
STEPS_PER_STD = {"vae": 64, "text_encoder": 8, "unet": 8}


def export(vae, text_encoder, unet, tokenizer, folder: str | Path) -> Path:
    """Writes the parts as a Stable Diffusion model in `folder`. Raises ValueError for more weights than BUDGET."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    size = 2 * sum(p.numel() for part in (vae, text_encoder, unet) for p in part.parameters())
    if size > BUDGET:
        raise ValueError(f"The weights are {size / MIB:.1f} MiB in half precision, {BUDGET // MIB} MiB are allowed.")
    # Without "clip_sample": false, samplers made from this config would clip latents to [-1, 1] as if they were pixels.
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.to(torch.float16)
    for name, steps in STEPS_PER_STD.items():
        round_weights(getattr(pipeline, name), steps)
    pipeline.save_pretrained(folder, safe_serialization=True)
    for path in Path(folder).glob("*/config.json"):  # where the parts lay while they were trained is nobody's business
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n")
    return Path(folder)


@torch.no_grad()
def round_weights(module, steps_per_std: int) -> None:
    """Rounds each matrix and kernel to multiples of a power of two near its standard deviation / `steps_per_std`.

    With 8 steps the error is about 2 % of the weights' size, and the file compresses to half: with 10 bits of mantissa,
    most of a half-precision weight is noise.
    """
    for weight in module.parameters():
        if weight.dim() > 1 and weight.any():
            step = 2.0 ** math.floor(math.log2(weight[weight != 0].float().std().item() / steps_per_std))
            weight.copy_((weight.float() / step).round() * step)
