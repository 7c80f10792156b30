"""Classifier-free guidance (Ho & Salimans 2022): follow the prompt harder than the model would by itself.

The network is asked twice, with an empty (or negative) prompt and with the prompt; the two answers span a line, and
guidance goes further along it:

    guided = uncond + guidance_scale * (cond - uncond)

Scale 1 is the conditional prediction, 0 the unconditional one (diffusers takes any scale below 1 as 1); the paper's own
w is guidance_scale - 1. A negative prompt is nothing but another text in the place of "uncond".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from torch import Tensor

from .schedule import Level

GuidanceScale = float | Callable[[Level], float]


def guide(uncond: Tensor, cond: Tensor, guidance_scale: float) -> Tensor:
    """uncond + guidance_scale * (cond - uncond); all (B, C, h, w)."""
    return uncond + guidance_scale * (cond - uncond)


def rescale(guided: Tensor, cond: Tensor, guidance_rescale: float) -> Tensor:
    """Pull the standard deviation of each picture's guided prediction back towards the conditional one's.

    guidance_rescale: 0 leaves it, 1 restores it fully (Lin et al. 2023, eq. 15 and 16; diffusers: rescale_noise_cfg).
    Cures over-exposure. All (B, C, h, w).
    """
    if guidance_rescale == 0:
        return guided
    dims = tuple(range(1, cond.ndim))
    restored = guided * (cond.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True))
    return guidance_rescale * restored + (1 - guidance_rescale) * guided


@dataclass(frozen=True)
class interval:
    """A guidance_scale that acts only while sigma_low < sigma <= sigma_high, and is 1 elsewhere, at half the cost.

    Guidance hurts at the highest noise and does nothing at the lowest (Kynkaanniemi et al. 2024).
    """

    guidance_scale: float
    sigma_low: float
    sigma_high: float

    def __post_init__(self):
        for f in fields(self):
            object.__setattr__(self, f.name, float(getattr(self, f.name)))  # also of numpy's and torch's numbers
        if not self.sigma_low < self.sigma_high:
            raise ValueError(f"sigma_low {self.sigma_low} must be below sigma_high {self.sigma_high}.")

    def __call__(self, level: Level) -> float:
        return self.guidance_scale if self.sigma_low < level.sigma <= self.sigma_high else 1.0
