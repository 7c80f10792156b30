"""Samplers: who decides how to get from one noise level to the next.

A run is a `Plan`: a list of noise levels from noisy to clean. At a `Level` the latents are

    x = signal * x_0 + noise * eps

and the network has just said what x_0 and eps look like from here. A sampler is a short pure function that turns that
into the x of the next level. Every number in it is a Python float worked out in float64: on a GPU a step never waits
for the host and never promotes a dtype.

Two scales are in use in the field, and one notation serves both:
- variance preserving, signal^2 + noise^2 = 1 (DDPM, DDIM, PLMS, DPM++): the latents keep unit size;
- full signal, signal = 1 and noise = sigma (Euler, Heun, LMS; Karras et al. 2022): the latents start at size sigma_max,
  and the network's input is scaled back to unit size, which diffusers calls `scale_model_input`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from torch import Tensor

from .schedule import NoiseSchedule, convert, whole_number


@dataclass(frozen=True)
class Level:
    """One noise level of a run: x = signal * x_0 + noise * eps. `timestep` is what the network is told."""

    timestep: float
    signal: float
    noise: float

    @property
    def sigma(self) -> float:
        """noise / signal; infinite where nothing of the picture is left."""
        return self.noise / self.signal if self.signal else math.inf

    @property
    def input_scale(self) -> float:
        """What the latents are multiplied by before the network sees them: it was trained on inputs of unit size."""
        return 1 / math.hypot(self.signal, self.noise)


CLEAN = Level(-1.0, 1.0, 0.0)  # where a run ends that takes all of the noise away


@dataclass(frozen=True)
class Prediction:
    """What the network said at one level, guidance included: its raw output, and the same read as x_0 and eps."""

    output: Tensor
    x0: Tensor
    eps: Tensor


@dataclass(frozen=True)
class Plan:
    """The levels of a run: the network is asked at levels[k] and the sampler goes to levels[k + 1].

    init_scale: the standard deviation of the first latents, diffusers' `init_noise_sigma`.
    A level that stands twice in a row is a correction: the network is asked where the last step ended, and the step is
    then taken again with what it said (the second step of PLMS, every other step of Heun).
    """

    levels: tuple[Level, ...]
    init_scale: float
    prediction_type: str
    eta: float = 0.0

    def __len__(self) -> int:
        return len(self.levels) - 1

    @property
    def timesteps(self) -> tuple[float, ...]:
        return tuple(level.timestep for level in self.levels[:-1])

    def predict(self, x: Tensor, output: Tensor, k: int) -> Prediction:
        level = self.levels[k]
        return Prediction(output, *convert(x, output, level.signal, level.noise, self.prediction_type))


# A step: (x, prediction, plan, k, history, fresh noise) -> (x at levels[k + 1], history). Nothing else is remembered.
StepFunction = Callable[[Tensor, Prediction, Plan, int, tuple, Tensor | None], tuple[Tensor, tuple]]


def ancestral(x, prediction, plan, k, history, fresh):
    """DDIM (Song et al. 2021, eq. 12 and 16), and with it DDPM, Euler and Euler ancestral.

    Land on the next level with the predicted x_0 and the predicted noise; replace a share of that noise, set by eta,
    with fresh noise. eta = 0 is deterministic: DDIM, or Euler when the signal is kept at 1. eta = 1 replaces as much as
    the forward process would have added: DDPM (Ho et al. 2020, eq. 7), or Euler ancestral.
    """
    kept, fresh_share = noise_split(plan.levels[k], plan.levels[k + 1], plan.eta)
    x = plan.levels[k + 1].signal * prediction.x0 + kept * prediction.eps
    return (x + fresh_share * fresh if fresh_share else x), history


def noise_split(now: Level, after: Level, eta: float) -> tuple[float, float]:
    """The next level's noise as (kept, fresh), kept^2 + fresh^2 = after.noise^2 (DDIM, eq. 16; same on both scales)."""
    fresh = eta * after.noise * math.sqrt(max(0.0, 1 - (after.sigma / now.sigma) ** 2))
    return math.sqrt(after.noise**2 - fresh**2), fresh


def plms(x, prediction, plan, k, history, fresh):
    """Pseudo linear multistep (Liu et al. 2022, eq. 12), as Stable Diffusion runs it: no Runge-Kutta warm-up.

    An Adams-Bashforth mix of the last four outputs takes a DDIM step. With no past yet, the first step is taken twice:
    once to look ahead, once more with the mean of both ends.
    """
    outputs, start = history if history else ((), None)
    now, after, level = prediction.output, plan.levels[k + 1], k
    if k == 0:
        mixed, start = now, x
        outputs = (now,)
    elif plan.levels[k] == after:  # the repeated level: go back to where the first step began
        mixed, x, level = (now + outputs[0]) / 2, start, k - 1
    else:
        outputs = (now, *outputs)[:4]
        weights = ADAMS_BASHFORTH[len(outputs)]
        mixed = sum(w * o for w, o in zip(weights, outputs, strict=True))
    here, prediction = plan.levels[level], plan.predict(x, mixed, level)
    if here.signal == 0:
        return after.signal * prediction.x0 + after.noise * prediction.eps, (outputs, start)
    # DDIM written without x_0: dividing by a small signal and multiplying again would cost digits at high noise.
    grow = after.signal / here.signal
    return grow * x + (after.noise - grow * here.noise) * prediction.eps, (outputs, start)


ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def heun(x, prediction, plan, k, history, fresh):
    """Heun's second-order method (Karras et al. 2022, algorithm 1, without churn): two network calls a step.

    First an Euler step; the network is asked where it ended; the step is taken again with the mean of both slopes.
    """
    now, after = plan.levels[k], plan.levels[k + 1]
    if now == after:
        x, slope, now = history
        return x + (after.noise - now.noise) * (slope + prediction.eps) / 2, ()
    return x + (after.noise - now.noise) * prediction.eps, (x, prediction.eps, now)


def lms(x, prediction, plan, k, history, fresh):
    """Linear multistep of order 4: integrate the polynomial through the last slopes (k-diffusion's LMS).

    dx/dsigma = eps. The history grows from one slope, so a run that starts in the middle starts with an Euler step.
    """
    slopes = (prediction.eps, *history)[:4]
    nodes = tuple(plan.levels[k - j].sigma for j in range(len(slopes)))
    weights = lms_weights(nodes, plan.levels[k + 1].sigma)
    return x + sum(w * slope for w, slope in zip(weights, slopes, strict=True)), slopes


@lru_cache(maxsize=4096)
def lms_weights(nodes: tuple[float, ...], end: float) -> tuple[float, ...]:
    """Exact integrals from nodes[0] to end of the Lagrange polynomials on the nodes."""
    weights = []
    for j, node in enumerate(nodes):
        basis = np.polynomial.Polynomial([1.0])
        for other in (*nodes[:j], *nodes[j + 1 :]):
            basis = basis * np.polynomial.Polynomial([-other, 1.0]) / (node - other)
        integral = basis.integ()
        weights.append(float(integral(end) - integral(nodes[0])))
    return tuple(weights)


def dpm_solver_2m(x, prediction, plan, k, history, fresh):
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): exact for the linear part, second order in x_0.

    In lambda = log(signal / noise) the equation is solved exactly but for x_0, which is extrapolated from two
    predictions. The first step has no past, and the step onto noise 0 is infinitely long: both are first order (DDIM).
    """
    now, after = plan.levels[k], plan.levels[k + 1]
    x0 = prediction.x0
    if after.noise == 0:
        return after.signal * x0, (x0,)
    step = _lambda(after) - _lambda(now)
    if history:
        ratio = (_lambda(now) - _lambda(plan.levels[k - 1])) / step
        x0 = x0 + (x0 - history[0]) / (2 * ratio)
    return (after.noise / now.noise) * x - after.signal * math.expm1(-step) * x0, (prediction.x0,)


def _lambda(level: Level) -> float:
    return math.log(level.signal / level.noise)


@dataclass(frozen=True)
class Sampler:
    """A step function and the levels it runs on; one line of the table below.

    grid: "training" visits training timesteps; "sigmas" goes between them at signal 1; "dpm" is DPM-Solver's own count.
    spacing: used where neither the caller nor the model's schedule names one (diffusers' default for that scheduler).
    """

    name: str
    step: StepFunction
    grid: str
    spacing: str
    eta: float = 0.0
    karras: bool = False
    corrects: str = ""  # "first": the first step is taken twice; "every": each one is
    ends_clean: bool = False  # whether the last step goes to alpha_bar = 1 whatever the schedule says
    scheduler: str = ""  # the diffusers class it is equal to

    def plan(
        self,
        schedule: NoiseSchedule,
        num_inference_steps: int,
        *,
        start_step: int = 0,
        spacing: str | None = None,
        eta: float | None = None,
    ) -> Plan:
        """The levels of a run of `num_inference_steps`, of which the first `start_step` are skipped (img2img).

        eta: DDIM's share of fresh noise, 0..1; only "ddim" takes it. Errors name the value and the cure.
        """
        if eta is not None and self.name != "ddim":
            raise ValueError(f"eta belongs to the sampler 'ddim'; {self.name!r} has no such choice.")
        if eta is not None and not 0 <= eta <= 1:
            raise ValueError(f"eta must lie between 0 (deterministic) and 1 (as much fresh noise as DDPM), not {eta}.")
        spacing = spacing or schedule.timestep_spacing or self.spacing
        levels = GRIDS[self.grid](self, schedule, num_inference_steps, spacing)
        pure_noise = schedule.alpha_bar[-1] == 0 and levels[0].timestep == schedule.num_train_timesteps - 1
        if pure_noise and schedule.prediction_type == "epsilon":
            raise ValueError(
                "Noise prediction says nothing about x_0 at zero signal-to-noise ratio; such a schedule needs a "
                "model with prediction_type='v_prediction', or spacing='leading', which does not visit that timestep."
            )
        start_step = whole_number("start_step", start_step, 0, len(levels) - 2)
        # diffusers rounds this down to sigma_max unless the spacing is "leading"; the pictures depend on it.
        top = levels[0]
        init_scale = 1.0 if self.grid != "sigmas" else top.sigma if spacing != "leading" else math.hypot(1, top.sigma)
        levels = self.with_corrections(levels[start_step:])
        return Plan(tuple(levels), init_scale, schedule.prediction_type, self.eta if eta is None else eta)

    def with_corrections(self, levels: list[Level]) -> list[Level]:
        """The levels with those doubled at which a step is taken again; the last step, to no noise, never is."""
        doubled = {"": range(0), "first": range(1, 2), "every": range(1, len(levels))}[self.corrects]
        return [level for i, level in enumerate(levels[:-1]) for _ in range(1 + (i in doubled))] + levels[-1:]


def _training_grid(sampler: Sampler, schedule: NoiseSchedule, n: int, spacing: str) -> list[Level]:
    steps = schedule.timesteps(n, spacing)
    end = 1.0 if sampler.ends_clean else schedule.final_alpha_bar
    alpha_bars = [*(schedule.alpha_bar[t].item() for t in steps), end]
    return [Level(float(t), math.sqrt(a), math.sqrt(1 - a)) for t, a in zip((*steps, -1), alpha_bars, strict=True)]


def _sigma_grid(sampler: Sampler, schedule: NoiseSchedule, n: int, spacing: str) -> list[Level]:
    table = _finite_sigmas(schedule)
    steps = np.array(schedule.spaced(n, spacing))
    sigmas = np.interp(steps, np.arange(len(table)), table)
    if sampler.karras:
        sigmas = karras_sigmas(sigmas[-1], sigmas[0], n)
        steps = np.interp(np.log(sigmas), np.log(table), np.arange(len(table)))
    return [*(Level(float(t), 1.0, float(s)) for t, s in zip(steps, sigmas, strict=True)), CLEAN]


def _dpm_grid(sampler: Sampler, schedule: NoiseSchedule, n: int, spacing: str) -> list[Level]:
    table = _finite_sigmas(schedule)
    if sampler.karras:  # here the ends are the whole table's, and the timesteps are rounded
        sigmas = karras_sigmas(table[0], table[-1], n)
        steps = np.interp(np.log(sigmas), np.log(table), np.arange(len(table))).round()
    else:
        # DPM-Solver spaces n + 1 points and leaves the last one out; "trailing" is everybody's.
        if n == schedule.num_train_timesteps and spacing != "trailing":
            raise ValueError(f"The dpm++ samplers take at most {n - 1} steps with {spacing} spacing; take fewer.")
        steps = schedule.spaced(n, spacing) if spacing == "trailing" else schedule.spaced(n + 1, spacing)[:n]
        steps = np.array(steps).round()
        sigmas = table[steps.astype(int)]
    signals = 1 / np.sqrt(1 + sigmas**2)
    levels = [Level(float(t), float(a), float(a * s)) for t, a, s in zip(steps, signals, sigmas, strict=True)]
    return [*levels, CLEAN]


GRIDS = {"training": _training_grid, "sigmas": _sigma_grid, "dpm": _dpm_grid}


def _finite_sigmas(schedule: NoiseSchedule) -> np.ndarray:
    alpha_bar = schedule.alpha_bar.numpy().copy()
    alpha_bar[alpha_bar == 0] = 2.0**-24  # zero terminal SNR: a sigma of 4096 stands for infinity, as in diffusers
    return np.sqrt((1 - alpha_bar) / alpha_bar)


def karras_sigmas(sigma_min: float, sigma_max: float, n: int, rho: float = 7.0) -> np.ndarray:
    """n noise levels, evenly spaced in sigma^(1/rho), from sigma_max down (Karras et al. 2022, eq. 5)."""
    ramp = np.linspace(0, 1, n)
    return (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho


_TABLE = (
    Sampler("ddpm", ancestral, "training", "leading", eta=1.0, ends_clean=True, scheduler="DDPMScheduler"),
    Sampler("ddim", ancestral, "training", "leading", scheduler="DDIMScheduler"),
    Sampler("plms", plms, "training", "leading", corrects="first", scheduler="PNDMScheduler"),
    Sampler("euler", ancestral, "sigmas", "linspace", scheduler="EulerDiscreteScheduler"),
    Sampler("euler_ancestral", ancestral, "sigmas", "linspace", 1.0, scheduler="EulerAncestralDiscreteScheduler"),
    Sampler("heun", heun, "sigmas", "linspace", corrects="every", scheduler="HeunDiscreteScheduler"),
    Sampler("lms", lms, "sigmas", "linspace", scheduler="LMSDiscreteScheduler"),
    Sampler("dpm++2m", dpm_solver_2m, "dpm", "linspace", scheduler="DPMSolverMultistepScheduler"),
)
_KARRAS = tuple(
    replace(sampler, name=f"{sampler.name}_karras", karras=True)
    for sampler in _TABLE
    if sampler.name in ("euler", "dpm++2m")
)
SAMPLERS: dict[str, Sampler] = {sampler.name: sampler for sampler in (*_TABLE, *_KARRAS)}


def get_sampler(name: str | Sampler) -> Sampler:
    """The sampler of that name, or the one given; an unknown name lists the known ones."""
    if isinstance(name, Sampler):
        return name
    if name not in SAMPLERS:
        raise ValueError(f"Unknown sampler {name!r}; choose one of {', '.join(SAMPLERS)}.")
    return SAMPLERS[name]
