"""Pictures to latents and back.

    PIL image ◀─▶ tensor (B, 3, H, W) in [-1, 1] ◀─▶ latents (B, 4, H / f, W / f) of about unit size

The encoder gives a normal distribution for every latent, the decoder is a plain function. Latents are multiplied by
`scaling_factor` (1 / their standard deviation), because the noise schedule assumes data of unit size. The left arrow is
`pictures`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .model import StableDiffusion, check_model
from .pictures import Picture, check_range, check_shape, to_tensor

Generators = torch.Generator | Sequence[torch.Generator] | None


@torch.no_grad()
def encode(sd: StableDiffusion, pictures: Tensor | Picture | Sequence[Picture], generator: Generators = None) -> Tensor:
    """Scaled latents (B, C, H/f, W/f), float32, of pictures or of a tensor (B, 3, H, W) in [-1, 1].

    generator: None gives the mean of the encoder's distribution; a CPU generator (one, or one per picture) draws from
    it, mean + std * eps, as the diffusers pipelines do.
    """
    check_model(sd)
    x = pictures if isinstance(pictures, Tensor) else to_tensor(pictures)
    check_shape(x, 3, "H, W")
    check_range(x)
    sd.latent_shape(*x.shape[2:])  # a size that does not divide is an error here, not a crop inside the network
    x = x.to(sd.device, sd.vae.dtype)
    distribution = sd.vae.encode(x).latent_dist
    z = distribution.mean.float()
    if generator is not None:
        z = z + distribution.std.float() * draw_noise(generator, z.shape).to(z.device)
    z = (z - (getattr(sd.vae.config, "shift_factor", None) or 0.0)) * sd.scaling_factor
    return _finite(z, "latents", sd)


@torch.no_grad()
def decode(sd: StableDiffusion, latents: Tensor) -> Tensor:
    """The pictures (B, 3, H, W) of scaled latents (B, C, h, w), float32, about [-1, 1] and not clipped."""
    check_model(sd)
    if hasattr(latents, "x0"):
        raise TypeError("decode takes latents, not a whole Step; pass step.latents or step.x0.")
    check_shape(latents, sd.latent_channels, "h, w")
    z = latents.float() / sd.scaling_factor + (getattr(sd.vae.config, "shift_factor", None) or 0.0)
    return _finite(sd.vae.decode(z.to(sd.device, sd.vae.dtype)).sample.float(), "pixels", sd)


def draw_noise(generator: Generators, shape: Sequence[int]) -> Tensor:
    """Standard normal noise of that shape, float32 on the CPU; with a list, picture k comes from generator k alone."""
    if isinstance(generator, torch.Generator):
        return torch.randn(*shape, generator=generator)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators were given for {shape[0]} pictures; give one for each.")
    return torch.cat([torch.randn(1, *shape[1:], generator=g) for g in generator])


def _finite(x: Tensor, what: str, sd: StableDiffusion) -> Tensor:
    if torch.isfinite(x).all():
        return x
    half = sd.vae.dtype == torch.float16
    cure = "load the model with dtype='float32' or 'bfloat16'" if half else "look at what went in, or fetch it again"
    raise FloatingPointError(f"The autoencoder ({sd.vae.dtype}) produced {what} that are not finite; {cure}.")
