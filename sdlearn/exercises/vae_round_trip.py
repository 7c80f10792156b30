"""Notebook 04: pictures to latents and back."""

from __future__ import annotations

import torch

from ..pictures import fit, to_tensor
from ..show.samples import photograph
from . import exercise

STABLE_DIFFUSION = 0.18215  # the scaling factor that stands in many programs, of Stable Diffusion 1 and 2 alone


@exercise(
    minutes=3, difficulty=1, trains="counting what the latents are smaller by",
    hint="Count the numbers of a colour picture, count those of its latents, and divide. Both sides shrink.",
)  # fmt: skip
def compression(height, width, factor, channels):
    return 3 * height * width / (channels * (height // factor) * (width // factor))


@compression.given
def _():
    yield 512, 512, 8, 4
    yield 96, 64, 4, 4


@compression.mistake("one side only is shrunk here: both height and width are divided by the factor.")
def _(height, width, factor, channels):
    return 3 * factor / channels


@compression.mistake("the three colours are missing: a picture holds 3 numbers a pixel.")
def _(height, width, factor, channels):
    return factor**2 / channels


@compression.mistake("the latents' channels are missing: they hold several numbers at each place, not one.")
def _(height, width, factor, channels):
    return 3 * factor**2


@compression.mistake("this counts places, not numbers: there are 3 numbers at each pixel, `channels` at each place.")
def _(height, width, factor, channels):
    return factor**2


@compression.mistake("it is upside down: how many times fewer is the picture's count divided by the latents'.")
def _(height, width, factor, channels):
    return channels / (3 * factor**2)


@exercise(
    minutes=4, difficulty=1, trains="the way back from latents, at the right scale",
    hint="The encoder's numbers were multiplied by the scaling factor. Undo that, then vae.decode(...).sample.",
    picture=lambda pixels, sd: pixels,
)  # fmt: skip
def decode(vae, latents, scaling_factor):
    return vae.decode(latents / scaling_factor).sample


@decode.given
def _(sd):
    # A factor that is nobody's first: with a factor near 1, as some models have, a forgotten one would not be seen.
    latents = sd.vae.encode(_picture(sd) * 2 - 1).latent_dist.mean
    for factor in (0.5, sd.scaling_factor):
        yield sd.vae, latents * factor, factor


@decode.mistake("the latents still carry the scaling factor: divide by it before you decode.")
def _(vae, latents, scaling_factor):
    return vae.decode(latents).sample


@decode.mistake("the latents are multiplied a second time: on the way back the scaling factor divides.")
def _(vae, latents, scaling_factor):
    return vae.decode(latents * scaling_factor).sample


@decode.mistake("the scaling factor is taken out twice: one division is enough.")
def _(vae, latents, scaling_factor):
    return vae.decode(latents / scaling_factor**2).sample


@decode.mistake("0.18215 is Stable Diffusion's own constant: use the scaling factor that the function is given.")
def _(vae, latents, scaling_factor):
    return vae.decode(latents / STABLE_DIFFUSION).sample


@exercise(
    minutes=4, difficulty=2, trains="drawing from the encoder's distribution",
    hint="The logarithm of a variance: take half of it, and exp() of that is the standard deviation.",
)  # fmt: skip
def draw(mean, logvar, eps):
    return mean + torch.exp(0.5 * logvar) * eps


@draw.given
def _():
    chance = torch.Generator().manual_seed(0)
    for _ in range(2):
        mean, logvar, eps = torch.randn(3, 1, 4, 2, 2, generator=chance)
        yield mean, logvar - 1, eps


@draw.mistake("exp(logvar) is the variance: noise of size one is stretched by its square root, the standard deviation.")
def _(mean, logvar, eps):
    return mean + torch.exp(logvar) * eps


@draw.mistake("the logarithm is still in there: logvar is the log of the variance, and exp() undoes a log.")
def _(mean, logvar, eps):
    return mean + logvar * eps


@draw.mistake("half of the logarithm is taken, and exp() is missing.")
def _(mean, logvar, eps):
    return mean + 0.5 * logvar * eps


@draw.mistake("that is the mean: nothing is drawn yet, the noise is missing.")
def _(mean, logvar, eps):
    return mean


@draw.mistake("every latent gets noise of size one: stretch eps by the standard deviation first.")
def _(mean, logvar, eps):
    return mean + eps


@draw.mistake("the mean is missing: this is only the deviation from it.")
def _(mean, logvar, eps):
    return torch.exp(0.5 * logvar) * eps


@exercise(
    minutes=6, difficulty=2, trains="the way from a picture to latents, in the right range and at the right scale",
    hint="Three steps: [0, 1] to [-1, 1]; vae.encode(...).latent_dist, and of that the mean; then the scaling factor.",
)  # fmt: skip
def encode(vae, picture, scaling_factor):
    return vae.encode(2 * picture - 1).latent_dist.mean * scaling_factor


@encode.given
def _(sd):
    # The draw of one who samples is fixed, and so can be told from other answers.
    with torch.random.fork_rng(devices=[]):
        for factor in (0.5, sd.scaling_factor):
            torch.manual_seed(0)
            yield sd.vae, _picture(sd), factor


@encode.mistake("the picture went in as [0, 1], and the encoder was trained on [-1, 1]: stretch it first, 2 x - 1.")
def _(vae, picture, scaling_factor):
    return vae.encode(picture).latent_dist.mean * scaling_factor


@encode.mistake("the picture went in as bytes, 0 to 255: the encoder was trained on [-1, 1], which is 2 x - 1.")
def _(vae, picture, scaling_factor):
    return vae.encode(255 * picture).latent_dist.mean * scaling_factor


@encode.mistake("the picture went in as [-0.5, 0.5]: the middle is right, and the width has to be doubled.")
def _(vae, picture, scaling_factor):
    return vae.encode(picture - 0.5).latent_dist.mean * scaling_factor


@encode.mistake("the latents are not scaled: multiply them by the scaling factor at the end.")
def _(vae, picture, scaling_factor):
    return vae.encode(2 * picture - 1).latent_dist.mean


@encode.mistake("the latents are scaled twice: one multiplication brings them to unit size.")
def _(vae, picture, scaling_factor):
    return vae.encode(2 * picture - 1).latent_dist.mean * scaling_factor**2


@encode.mistake("the scaling factor divides here: it multiplies on the way in, and divides on the way back.")
def _(vae, picture, scaling_factor):
    return vae.encode(2 * picture - 1).latent_dist.mean / scaling_factor


@encode.mistake("0.18215 is Stable Diffusion's own constant: use the scaling factor that the function is given.")
def _(vae, picture, scaling_factor):
    return vae.encode(2 * picture - 1).latent_dist.mean * STABLE_DIFFUSION


@encode.mistake("that is a draw, and another one each time: the mean is asked for, which is always the same.")
def _(vae, picture, scaling_factor):
    torch.manual_seed(0)
    return vae.encode(2 * picture - 1).latent_dist.sample() * scaling_factor


def _picture(sd) -> torch.Tensor:
    """A small photograph (1, 3, H, W) in [0, 1], as the autoencoder's own numbers."""
    side = 8 * sd.vae_factor
    return (to_tensor(fit(photograph(), side, side)) / 2 + 0.5).to(sd.device, sd.vae.dtype)
