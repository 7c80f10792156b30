"""Notebook 00: a picture from words."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from . import exercise

SHAPE = (1, 4, 8, 8)


@exercise(
    minutes=4, difficulty=1, trains="drawing the noise that a seed stands for",
    hint="torch.randn takes a shape and a generator; torch.Generator().manual_seed(...) is one that starts at a seed.",
)  # fmt: skip
def first_noise(seed, shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@first_noise.given
def _():
    # A noise that ignores the seed is fixed, and so can be told from other answers.
    with torch.random.fork_rng(devices=[]):
        for seed in (7, 8):
            torch.manual_seed(100)
            yield seed, SHAPE


@first_noise.mistake("that is uniform noise, from 0 to 1: a diffusion model begins with normal noise, which is randn.")
def _(seed, shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@first_noise.mistake("that is uniform noise, from -1 to 1: a diffusion model begins with normal noise, which is randn.")
def _(seed, shape):
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1


@first_noise.mistake("the seed is not used, so every call gives other noise: make a generator, and give it the seed.")
def _(seed, shape):
    torch.manual_seed(100)
    return torch.randn(shape)


@first_noise.mistake("the generator is never given its seed: manual_seed(seed) does that.")
def _(seed, shape):
    return torch.randn(shape, generator=torch.Generator())


@first_noise.mistake("this is NumPy's noise: another generator makes other numbers from the same seed. Take torch's.")
def _(seed, shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@exercise(
    minutes=4, difficulty=1, trains="comparing two pictures without falling into the byte trap",
    hint="np.asarray(a) gives bytes, and 3 - 5 is 254 in bytes. np.asarray(a, dtype=float) gives numbers.",
)  # fmt: skip
def difference(a, b):
    return np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).max()


@difference.given
def _():
    chance = np.random.default_rng(0)
    for largest in (90, 3):
        a = chance.integers(100, 150, (8, 8, 3))
        gap = chance.integers(1 - largest, largest - 1, (8, 8, 3))
        gap[3, 5, 1] = -largest  # the first picture is the darker one there
        yield tuple(Image.fromarray(x.astype(np.uint8)) for x in (a, a - gap))


@difference.mistake("the pictures are bytes, in which 3 - 5 is 254: make floats of them before you subtract.")
def _(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max()


@difference.mistake("without the absolute value only one direction counts: the second picture may be the brighter one.")
def _(a, b):
    return (np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).max()


@difference.mistake("that is the mean, which hides one pixel that is far off: the largest difference is asked for.")
def _(a, b):
    return np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean()


@difference.mistake("that is a share of the range: grey levels go from 0 to 255.")
def _(a, b):
    return np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).max() / 255


@exercise(
    minutes=3, difficulty=1, trains="telling what a run costs before it starts",
    hint="One answer of the network for each picture at each step; with guidance, how many?",
)  # fmt: skip
def network_pictures(num_inference_steps, guidance_scale, pictures):
    return num_inference_steps * pictures * (1 if guidance_scale == 1 else 2)


@network_pictures.given
def _():
    yield 25, 7.5, 3
    yield 10, 1, 2


@network_pictures.mistake("guidance asks the network twice, with the words and without: the double is missing.")
def _(num_inference_steps, guidance_scale, pictures):
    return num_inference_steps * pictures


@network_pictures.mistake("at scale 1 there is nothing to exaggerate: the answer without words is not asked for.")
def _(num_inference_steps, guidance_scale, pictures):
    return 2 * num_inference_steps * pictures


@network_pictures.mistake("this counts for one picture: every picture goes through the network by itself.")
def _(num_inference_steps, guidance_scale, pictures):
    return num_inference_steps * (1 if guidance_scale == 1 else 2)


@network_pictures.mistake("the scale says how far two answers are drawn apart, not how many there are: there are two.")
def _(num_inference_steps, guidance_scale, pictures):
    return num_inference_steps * guidance_scale * pictures
