"""A problem on which a solver can be measured: numbers on a line, where every answer is a formula.

The data are p(x_0) = 0.4 N(-1.2, 0.2^2) + 0.6 N(0.8, 0.2^2), two lumps with mean 0 and variance 1. Noised to
x = signal x_0 + noise eps they are two lumps still, with means signal mu_i and variance (signal 0.2)^2 + noise^2. So
the ideal network is a formula (`ask`), and so is the path of a point through the probability flow (`path`).

Points are float64 tensors (N,). A level may be on either scale: unit size, or signal 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..samplers import Solver, karras_sigmas
from ..sampling import solve
from ..schedule import Level

WEIGHTS = torch.tensor([0.4, 0.6], dtype=torch.float64)
CENTRES = torch.tensor([-1.2, 0.8], dtype=torch.float64)
WIDTH = 0.2
SHARES = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)  # the points that are measured, by what is left of them


def ask(x: Tensor, level: Level) -> Tensor:
    """The ideal network: the noise expected in x."""
    variance = (level.signal * WIDTH) ** 2 + level.noise**2
    distance = x[:, None] - level.signal * CENTRES  # (N, 2): from each lump's centre
    lump = torch.softmax(WEIGHTS.log() - distance**2 / (2 * variance), dim=1)  # how probably x came from which
    return level.noise / variance * (lump * distance).sum(dim=1)


def share(x: Tensor, level: Level) -> Tensor:
    """How much of the probability lies to the left of x."""
    spread = math.hypot(level.signal * WIDTH, level.noise)
    below = torch.special.ndtr((x[:, None] - level.signal * CENTRES) / spread)
    return (WEIGHTS * below).sum(dim=1)


def path(shares: Tensor, level: Level) -> Tensor:
    """Where the probability flow leads at this level those points that have `shares` of the probability to their left.

    On a line no point overtakes another, so what lies to the left of one stays the same on its way. Found by halving an
    interval that holds the point.
    """
    low, high = torch.full_like(shares, -100.0), torch.full_like(shares, 100.0)
    for _ in range(60):
        middle = (low + high) / 2
        too_low = share(middle, level) < shares
        low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
    return low


def levels(n: int, unit_size: bool = False, top: float = 14.6, bottom: float = 0.03) -> list[Level]:
    """n steps between two noise levels, spaced as Karras et al. do it; with signal 1, or at unit size."""
    found = []
    for sigma in karras_sigmas(bottom, top, n + 1).tolist():
        signal = 1 / math.hypot(1, sigma) if unit_size else 1.0
        found.append(Level(0.0, signal, signal * sigma))
    return found


def walk(
    solver: Callable[..., Solver], levels: Sequence[Level], x: Tensor, ask: Callable[[Tensor, Level], Tensor] = ask,
    prediction_type: str = "epsilon",
) -> list[Tensor]:  # fmt: skip
    """The states of a run, the first and the last included: `ask` answers, the solver takes its steps.

    Heun and PLMS look ahead, and the states that they look at are among them.
    """
    return [x, *(step.latents for step in solve(solver(x, levels), ask, prediction_type))]


def miss(
    solver: Callable[..., Solver], levels: Sequence[Level], ask: Callable[[Tensor, Level], Tensor] = ask,
    shares: Tensor = SHARES,
) -> Tensor:  # fmt: skip
    """How far from the exact end of its path each point ends (with its sign), the picture at full strength."""
    end = levels[-1]
    return (walk(solver, levels, path(shares, levels[0]), ask)[-1] - path(shares, end)) / end.signal


def curve(levels: Sequence[Level], states: Sequence[Tensor]) -> tuple[list[float], list[float]]:
    """The walk of one point as `figures.curves` draws it: 1 / sigma at each level, and the point at unit size."""
    places = [(level.input_scale * x).item() for level, x in zip(levels, states, strict=True)]
    return [1 / level.sigma for level in levels], places
