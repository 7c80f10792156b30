"""Samplers: who decides how to get from one noise level to the next.

At a `Level` the latents are x = signal * x_0 + noise * eps, and the network guesses what x_0 and eps look like from
there. A solver is a coroutine: it yields latents and their level, is sent the network's `Prediction`, and takes its
step. What it remembers is in its local variables, and every coefficient is a Python float worked out in float64: on a
GPU a step never waits for the host and never promotes a dtype. This is a whole solver, Euler's:

    def mine(x, levels):
        for now, after in pairwise(levels):
            x, p = yield x, now
            x = after.signal * p.x0 + after.noise * p.eps
        return x

    text_to_image(sd, "a fox", sampler=Sampler("mine", mine, grid="training", spacing="leading"))

Two scales are in use. DDPM, DDIM, PLMS and DPM++ preserve the variance, signal^2 + noise^2 = 1: the latents keep unit
size. Euler, Heun and LMS keep signal = 1 and noise = sigma (Karras et al. 2022): the latents start at size sigma_max,
and the network's input is scaled back to unit size, which diffusers calls `scale_model_input`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from torch import Tensor

from .schedule import CLEAN, Level, NoiseSchedule, choice, convert, number, whole_number


class Prediction:
    """The network's answer for x at a level: its raw output, guidance included, and the same read as x0 and eps."""

    def __init__(self, x: Tensor, output: Tensor, level: Level, prediction_type: str):
        self.x, self.output, self.level, self.prediction_type = x, output, level, prediction_type
        self.x0, self.eps = convert(x, output, level.signal, level.noise, prediction_type)


# Yields (x, level), is sent (x, prediction), returns the last x. The x that it is sent may be another than it gave:
# inpainting puts the kept part of the picture in.
Solver = Generator[tuple[Tensor, Level], tuple[Tensor, Prediction], Tensor]


def ancestral(x: Tensor, levels: Sequence[Level], eta: float = 0.0, fresh: Iterable[Tensor] = ()) -> Solver:
    """DDIM (Song et al. 2021, eq. 12 and 16), and with it DDPM, Euler and Euler ancestral.

    Land on the next level with the predicted x_0 and the predicted noise; replace a share of that noise, set by eta,
    with fresh noise. eta = 0 is deterministic: DDIM, or Euler when the signal is kept at 1. eta = 1 replaces as much as
    the forward process would have added: DDPM (Ho et al. 2020, eq. 7), or Euler ancestral.
    """
    fresh = iter(fresh)
    for now, after in pairwise(levels):
        x, p = yield x, now
        kept, renewed = noise_split(now, after, eta)
        x = after.signal * p.x0 + kept * p.eps
        if renewed:
            x = x + renewed * next(fresh)
    return x


def noise_split(now: Level, after: Level, eta: float) -> tuple[float, float]:
    """The next level's noise as (kept, fresh), kept^2 + fresh^2 = after.noise^2 (DDIM, eq. 16; same on both scales)."""
    fresh = eta * after.noise * math.sqrt(max(0.0, 1 - (after.sigma / now.sigma) ** 2))
    return math.sqrt(after.noise**2 - fresh**2), fresh


def plms(x: Tensor, levels: Sequence[Level]) -> Solver:
    """Pseudo linear multistep (Liu et al. 2022, eq. 12), as Stable Diffusion runs it: no Runge-Kutta warm-up.

    An Adams-Bashforth mix of the last four outputs takes a DDIM step. With no past yet, the first step is taken twice:
    once to look ahead, once more with the mean of both ends.
    """
    past: list[Tensor] = []
    for now, after in pairwise(levels):
        x, p = yield x, now
        past = [p.output, *past][:4]
        mixed = sum(w * output for w, output in zip(ADAMS_BASHFORTH[len(past)], past, strict=True))
        if len(past) == 1 and after != levels[-1]:
            _, ahead = yield _ddim_step(p, after), after
            mixed = (ahead.output + p.output) / 2
        x = _ddim_step(Prediction(p.x, mixed, p.level, p.prediction_type), after)
    return x


def _ddim_step(p: Prediction, after: Level) -> Tensor:
    if p.level.signal == 0:
        return after.signal * p.x0 + after.noise * p.eps
    # DDIM written without x_0: dividing by a small signal and multiplying again would cost digits at high noise.
    grow = after.signal / p.level.signal
    return grow * p.x + (after.noise - grow * p.level.noise) * p.eps


ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def heun(x: Tensor, levels: Sequence[Level]) -> Solver:
    """Heun's second-order method (Karras et al. 2022, algorithm 1, without churn): two network calls a step.

    First an Euler step; the network is asked where it ended; the step is taken again with the mean of both slopes.
    """
    for now, after in pairwise(levels):
        x, p = yield x, now
        h = after.noise - now.noise
        ahead = x + h * p.eps
        if after == levels[-1]:  # the last step goes to no noise, where the network has nothing to say
            return ahead
        _, q = yield ahead, after
        x = x + h * (p.eps + q.eps) / 2
    return x


def lms(x: Tensor, levels: Sequence[Level]) -> Solver:
    """Linear multistep of order 4: integrate the polynomial through the last slopes eps = dx/dsigma (k-diffusion).

    The past grows from one slope, so a run that starts in the middle starts with an Euler step.
    """
    slopes: list[Tensor] = []
    nodes: list[float] = []
    for now, after in pairwise(levels):
        x, p = yield x, now
        slopes, nodes = [p.eps, *slopes][:4], [now.sigma, *nodes][:4]
        x = x + sum(w * slope for w, slope in zip(lms_weights(tuple(nodes), after.sigma), slopes, strict=True))
    return x


@lru_cache(maxsize=4096)
def lms_weights(nodes: tuple[float, ...], end: float) -> tuple[float, ...]:
    """Exact integrals from nodes[0] to end of the Lagrange polynomials on the nodes."""
    weights = []
    for node in nodes:
        basis = np.polynomial.Polynomial([1.0])
        for other in nodes:
            if other != node:
                basis = basis * np.polynomial.Polynomial([-other, 1.0]) / (node - other)
        integral = basis.integ()
        weights.append(float(integral(end) - integral(nodes[0])))
    return tuple(weights)


def dpm_solver_2m(x: Tensor, levels: Sequence[Level]) -> Solver:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): exact for the linear part, second order in x_0.

    In lambda = log(signal / noise) the equation is solved exactly but for x_0, which is extrapolated from two
    predictions. The first step has no past, and the step onto noise 0 is infinitely long: both are first order (DDIM).
    """
    before = None  # the last level, and the x_0 predicted there
    for now, after in pairwise(levels):
        x, p = yield x, now
        if after.noise == 0:
            return after.signal * p.x0
        step, x0 = _lambda(after) - _lambda(now), p.x0
        if before:
            ratio = (_lambda(now) - _lambda(before[0])) / step
            x0 = x0 + (x0 - before[1]) / (2 * ratio)
        x = (after.noise / now.noise) * x - after.signal * math.expm1(-step) * x0
        before = now, p.x0
    return x


def consistency(x: Tensor, levels: Sequence[Level], eta: float = 1.0, fresh: Iterable[Tensor] = ()) -> Solver:
    """Multistep consistency sampling (Luo et al. 2023, algorithm 3): jump to the end, and go back with fresh noise.

    For networks that were distilled to name the end of the path from anywhere on it. eta is 1: nothing of the predicted
    noise is kept, for such a network has none to predict.
    """
    fresh = iter(fresh)
    for now, after in pairwise(levels):
        x, p = yield x, now
        skip, out = consistency_weights(now.timestep)
        x = after.signal * (out * p.x0 + skip * x)
        if after.noise:
            x = x + after.noise * next(fresh)
    return x


def consistency_weights(timestep: float) -> tuple[float, float]:
    """How much of x itself and of its x_0 makes the answer (Luo et al. 2023, eq. 9, with their 10 t and 0.5): at
    timestep 0 the answer must be x; from timestep 1 on it is x_0 but for a quarter of a per cent."""
    scaled = 10 * timestep
    return 0.25 / (scaled**2 + 0.25), scaled / math.sqrt(scaled**2 + 0.25)


def _lambda(level: Level) -> float:
    return math.log(level.signal / level.noise)


@dataclass(frozen=True)
class Plan:
    """A run before it starts: its solver, and the levels it goes down, from noisy to clean."""

    solver: Callable[..., Solver]
    levels: tuple[Level, ...]
    init_scale: float = 1.0  # the standard deviation of the first latents, diffusers' `init_noise_sigma`
    eta: float = 0.0

    def __len__(self) -> int:
        return len(self.levels) - 1

    @property
    def timesteps(self) -> tuple[float, ...]:
        return tuple(level.timestep for level in self.levels[:-1])

    def start(self, x: Tensor, fresh: Iterable[Tensor] = ()) -> Solver:
        """The solver, about to ask about x at the first level. fresh: noise for each step, where eta is above 0."""
        return self.solver(x, self.levels, self.eta, fresh) if self.eta else self.solver(x, self.levels)


@dataclass(frozen=True)
class Sampler:
    """A solver and the levels it runs on; one line of the table below."""

    name: str
    solver: Callable[..., Solver]  # called with (x, levels), or with (x, levels, eta, fresh) where eta is above 0
    grid: str  # "training" visits training timesteps, "sigmas" goes between them at signal 1, "dpm" and "distilled"
    #            are those of DPM-Solver++ and of consistency distillation
    spacing: str  # where neither the caller nor the model's schedule names one: that of the diffusers class
    scheduler: str = ""  # the diffusers class it is equal to
    eta: float = 0.0  # the share of fresh noise in every step
    karras: bool = False  # whether the levels are spaced as Karras et al. do it
    ends_clean: bool = False  # whether the last step goes to alpha_bar = 1 whatever the schedule says

    def plan(
        self, schedule: NoiseSchedule, num_inference_steps: int, *, start_step: int = 0, spacing: str | None = None,
        eta: float | None = None,
    ) -> Plan:  # fmt: skip
        """The levels of a run of `num_inference_steps`, of which the first `start_step` are skipped (img2img)."""
        if eta is not None and self.name != "ddim":
            raise ValueError(f"eta belongs to the sampler 'ddim'; {self.name!r} has no such choice.")
        eta = self.eta if eta is None else number("eta", eta, 0, 1)
        spacing = (schedule.timestep_spacing or self.spacing) if spacing is None else spacing
        levels = GRIDS[self.grid](self, schedule, num_inference_steps, spacing)
        top = levels[0]
        if schedule.prediction_type == "epsilon" and schedule.alpha_bar[round(top.timestep)] == 0:
            needed = "a model with prediction_type='v_prediction', or spacing='leading', which does not go there"
            raise ValueError(f"Pure noise says nothing about x_0; a schedule that ends in it needs {needed}.")
        start_step = whole_number("start_step", start_step, 0, len(levels) - 2)
        # diffusers rounds this down to sigma_max unless the spacing is "leading"; the pictures depend on it.
        init_scale = 1.0 if self.grid != "sigmas" else top.sigma if spacing != "leading" else math.hypot(1, top.sigma)
        return Plan(self.solver, tuple(levels[start_step:]), init_scale, eta)


def _training_grid(sampler: Sampler, schedule: NoiseSchedule, n: int, spacing: str) -> list[Level]:
    steps = schedule.timesteps(n, spacing)
    alpha_bars = [*schedule.alpha_bar[list(steps)].tolist(), 1.0 if sampler.ends_clean else schedule.final_alpha_bar]
    return [Level(float(t), math.sqrt(a), math.sqrt(1 - a)) for t, a in zip((*steps, -1), alpha_bars, strict=True)]


def _sigma_grid(sampler: Sampler, schedule: NoiseSchedule, n: int, spacing: str) -> list[Level]:
    table = _finite_sigmas(schedule)
    steps = np.array(schedule.spaced(n, spacing))
    sigmas = np.interp(steps, np.arange(len(table)), table)
    if sampler.karras:
        sigmas = karras_sigmas(sigmas[-1], sigmas[0], n)
        steps = np.interp(np.log(sigmas), np.log(table), np.arange(len(table)))
    return [*(Level(t, 1.0, s) for t, s in zip(steps.tolist(), sigmas.tolist(), strict=True)), CLEAN]


def _dpm_grid(sampler: Sampler, schedule: NoiseSchedule, n: int, spacing: str) -> list[Level]:
    table = _finite_sigmas(schedule)
    if sampler.karras:  # here the ends are the whole table's, and the timesteps are rounded
        sigmas = karras_sigmas(table[0], table[-1], n)
        steps = np.interp(np.log(sigmas), np.log(table), np.arange(len(table))).round()
    else:
        points = n if spacing == "trailing" else n + 1  # DPM-Solver leaves the last one out
        if points > len(table):
            raise ValueError(f"The dpm++ samplers take at most {n - 1} steps with {spacing} spacing; take fewer.")
        steps = np.array(schedule.spaced(points, spacing)[:n]).round()
        sigmas = table[steps.astype(int)]
    signals = 1 / np.sqrt(1 + sigmas**2)
    visited = zip(steps.tolist(), signals.tolist(), (signals * sigmas).tolist(), strict=True)
    return [*(Level(*level) for level in visited), CLEAN]


DISTILLED = 50  # timesteps that consistency distillation trains at, the only ones that its result is asked at


def _distilled_grid(sampler: Sampler, schedule: NoiseSchedule, n: int, spacing: str) -> list[Level]:
    """n of the DISTILLED timesteps, the last trained one first, whatever the spacing."""
    n, every = whole_number("num_inference_steps", n, 1, DISTILLED), schedule.num_train_timesteps // DISTILLED
    steps = [(DISTILLED - DISTILLED * k // n) * every - 1 for k in range(n)]
    return [*(Level(float(t), schedule.signal[t].item(), schedule.noise[t].item()) for t in steps), CLEAN]


GRIDS = {"training": _training_grid, "sigmas": _sigma_grid, "dpm": _dpm_grid, "distilled": _distilled_grid}


def _finite_sigmas(schedule: NoiseSchedule) -> np.ndarray:
    alpha_bar = schedule.alpha_bar.numpy().copy()
    alpha_bar[alpha_bar == 0] = 2.0**-24  # zero terminal SNR: a sigma of 4096 stands for infinity, as in diffusers
    return np.sqrt((1 - alpha_bar) / alpha_bar)


def karras_sigmas(sigma_min: float, sigma_max: float, n: int, rho: float = 7.0) -> np.ndarray:
    """n noise levels, evenly spaced in sigma^(1/rho), from sigma_max down (Karras et al. 2022, eq. 5)."""
    ramp = np.linspace(0, 1, n)
    return (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho


_TABLE = (
    Sampler("ddpm", ancestral, "training", "leading", "DDPMScheduler", eta=1.0, ends_clean=True),
    Sampler("ddim", ancestral, "training", "leading", "DDIMScheduler"),
    Sampler("plms", plms, "training", "leading", "PNDMScheduler"),
    Sampler("euler", ancestral, "sigmas", "linspace", "EulerDiscreteScheduler"),
    Sampler("euler_ancestral", ancestral, "sigmas", "linspace", "EulerAncestralDiscreteScheduler", eta=1.0),
    Sampler("heun", heun, "sigmas", "linspace", "HeunDiscreteScheduler"),
    Sampler("lms", lms, "sigmas", "linspace", "LMSDiscreteScheduler"),
    Sampler("dpm++2m", dpm_solver_2m, "dpm", "linspace", "DPMSolverMultistepScheduler"),
    Sampler("euler_karras", ancestral, "sigmas", "linspace", "EulerDiscreteScheduler", karras=True),
    Sampler("dpm++2m_karras", dpm_solver_2m, "dpm", "linspace", "DPMSolverMultistepScheduler", karras=True),
    Sampler("lcm", consistency, "distilled", "leading", "LCMScheduler", eta=1.0, ends_clean=True),
)
SAMPLERS: dict[str, Sampler] = {sampler.name: sampler for sampler in _TABLE}


def get_sampler(name: str | Sampler) -> Sampler:
    """The sampler of that name, or the one given; an unknown name lists the known ones."""
    return name if isinstance(name, Sampler) else SAMPLERS[choice("sampler", name, SAMPLERS)]
