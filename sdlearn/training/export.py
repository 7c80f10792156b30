"""A finished run as a diffusers folder in half precision, for `sdlearn.load` and `StableDiffusionPipeline`."""

import json
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

MIB = 2**20
BUDGET = 48 * MIB  # of all weights together, so that the repository stays light to clone
# How finely weights are rounded. The autoencoder, whose errors one sees, loses 6 dB with 4 steps and 0.05 with 64.
STEPS_PER_STD = {"vae": 64, "text_encoder": 8, "unet": 8}


LATENT_SIZE = 4.0  # standard deviation of the autoencoder's latents; Stable Diffusion 1's is 5.5

# Without "clip_sample": false, samplers made from this config would clip latents to [-1, 1] as if they were pixels.
# What is not written, such as a spacing, is left to each sampler, as in Stable Diffusion 1's own file.
SCHEDULER = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip


def export(vae, text_encoder, unet, tokenizer, folder: str | Path) -> Path:
    """Writes the parts as a Stable Diffusion model in `folder`. Raises ValueError for more weights than BUDGET."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    size = 2 * sum(p.numel() for part in (vae, text_encoder, unet) for p in part.parameters())
    if size > BUDGET:
        raise ValueError(f"The weights are {size / MIB:.1f} MiB in half precision, {BUDGET // MIB} MiB are allowed.")
    enlarge_latents(vae, 2.0 ** round(math.log2(LATENT_SIZE * vae.config.scaling_factor)))
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.to(torch.float16)
    for name, steps in STEPS_PER_STD.items():
        round_weights(getattr(pipeline, name), steps)
    folder = Path(folder)
    pipeline.save_pretrained(folder, safe_serialization=True)
    path = folder / "scheduler" / "scheduler_config.json"
    _write(path, {name: value for name, value in _read(path).items() if name[0] == "_" or name in SCHEDULER})
    for path in folder.glob("*/config.json"):  # where the parts lay while they were trained is nobody's business
        config = {name: value for name, value in _read(path).items() if name != "_name_or_path"}
        if "dtype" in config:  # or transformers would load its part in half precision, and diffusers the others in full
            config["dtype"] = "float32"
        _write(path, config)
    # transformers from 5.6 writes names that older releases do not read, and a tokenizer of three times the size.
    path = folder / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{name.removeprefix('text_model.')}": weight for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    own = Path(tokenizer.name_or_path)
    if (own / "vocab.json").is_file():
        shutil.rmtree(folder / "tokenizer")
        shutil.copytree(own, folder / "tokenizer")
    return folder


@torch.no_grad()
def enlarge_latents(vae, by: float) -> None:
    """Makes the latents `by` times larger and the scaling factor as much smaller: the same autoencoder, to the last bit
    where `by` is a power of two. Trained to unit size, it would have a scaling factor of 1, and a lesson on Stable
    Diffusion needs one that is missed where it is forgotten."""
    mean = slice(vae.config.latent_channels)
    vae.quant_conv.weight[mean] *= by
    vae.quant_conv.bias[mean] *= by
    vae.quant_conv.bias[mean.stop :] += 2 * math.log(by)  # the logarithm of the variance
    vae.post_quant_conv.weight /= by
    vae.register_to_config(scaling_factor=vae.config.scaling_factor / by)


def _read(path: Path) -> dict:
    return json.loads(path.read_text())


def _write(path: Path, config: dict) -> None:
    path.write_text(json.dumps(config, indent=2) + "\n")


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
