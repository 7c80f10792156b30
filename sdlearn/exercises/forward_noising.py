"""Notebook 01: how a picture becomes noise."""

from __future__ import annotations

import torch

from . import exercise


@exercise(
    minutes=4, difficulty=1, trains="the jump from a picture to any timestep",
    hint="The two factors squared add up to one. alpha_bar is the share of the variance that the picture keeps.",
)  # fmt: skip
def add_noise(x0, noise, alpha_bar):
    return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise


@add_noise.given
def _():
    chance = torch.Generator().manual_seed(0)
    for alpha_bar in (0.9, 0.5, 0.1):
        yield torch.rand(1, 3, 4, 4, generator=chance), torch.randn(1, 3, 4, 4, generator=chance), alpha_bar


@add_noise.mistake("the square roots are missing: alpha_bar and 1 - alpha_bar are variances, and these are amplitudes.")
def _(x0, noise, alpha_bar):
    return alpha_bar * x0 + (1 - alpha_bar) * noise


@add_noise.mistake("the two are swapped: alpha_bar is what is left of the picture, not of the noise.")
def _(x0, noise, alpha_bar):
    return (1 - alpha_bar) ** 0.5 * x0 + alpha_bar**0.5 * noise


@add_noise.mistake("the picture keeps all its strength: it has to fade by sqrt(alpha_bar), or the sum grows.")
def _(x0, noise, alpha_bar):
    return x0 + (1 - alpha_bar) ** 0.5 * noise
