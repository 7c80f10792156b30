"""Data so simple that the perfect network is a formula, and runs over it: ours and diffusers'.

The data are numbers, each drawn from N(+mean, std^2) or N(-mean, std^2) with equal chance. Noised to
x = signal * x_0 + noise * eps, the best guess of x_0 is, with v = (signal std)^2 + noise^2,

    E[x_0 | x] = (signal std^2 x + noise^2 mean tanh(signal mean x / v)) / v

For mean = 0 (Gaussian data) everything is linear and the probability flow has a closed form, too.
"""

from __future__ import annotations

import inspect

import numpy as np
import torch
from reference import relative_error
from torch import Tensor

from sdlearn.samplers import SAMPLERS, Sampler, Solver
from sdlearn.sampling import Step, solve
from sdlearn.schedule import Level


def best_x0(x: Tensor, signal: float, noise: float, std: float, mean: float = 0.0) -> Tensor:
    v = (signal * std) ** 2 + noise**2
    return (signal * std**2 * x + noise**2 * mean * torch.tanh(signal * mean * x / v)) / v


def network(schedule, std: float = 0.5, mean: float = 1.0):
    """The perfect network for that schedule: (unit-size x, timestep, also between the trained ones) -> its output."""
    tables = [np.concatenate([table.numpy()]) for table in (schedule.signal, schedule.noise)]

    def output(x: Tensor, timestep) -> Tensor:
        signal, noise = (float(np.interp(float(timestep), np.arange(len(t)), t)) for t in tables)
        x0 = best_x0(x, signal, noise, std, mean)
        if schedule.prediction_type == "sample":
            return x0
        eps = (x - signal * x0) / noise
        return eps if schedule.prediction_type == "epsilon" else signal * eps - noise * x0

    return output


def run(solver: Solver, net, prediction_type: str = "epsilon") -> list[Step]:
    """The package's own loop, without text, guidance and device."""
    return list(solve(solver, lambda x, level: net(x * level.input_scale, level.timestep), prediction_type))


def run_scheduler(scheduler, net, noise: Tensor, n: int, generator=None, **options) -> Tensor:
    """A diffusers scheduler, driven as its documentation says."""
    scheduler.set_timesteps(n)
    takes = inspect.signature(scheduler.step).parameters
    options = {name: value for name, value in (options | {"generator": generator}).items() if name in takes}
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(net(scheduler.scale_model_input(x, t), t), t, x, **options).prev_sample
    return x


def flow(x: Tensor, start: Level, end: Level, std: float) -> Tensor:
    """Where the probability flow of Gaussian data N(0, std^2) takes x: it keeps its place in the distribution."""
    size = [((level.signal * std) ** 2 + level.noise**2) ** 0.5 for level in (start, end)]
    return x * size[1] / size[0]


def smooth_levels(sampler: Sampler, n: int, sigma_max: float = 10.0, sigma_min: float = 0.05) -> tuple[Level, ...]:
    """n steps between two fixed levels, evenly spaced in sigma^(1/7), as fine as one likes."""
    sigmas = np.linspace(sigma_max ** (1 / 7), sigma_min ** (1 / 7), n + 1) ** 7
    signals = np.ones(n + 1) if sampler.grid == "sigmas" else 1 / np.sqrt(1 + sigmas**2)
    return tuple(Level(float(s), float(a), float(a * s)) for a, s in zip(signals, sigmas, strict=True))


ORDER_STEPS = (64, 128)


def gaussian_error(name: str, n: int, std: float = 0.5) -> float:
    """How far n steps of a sampler end from where the probability flow of Gaussian data takes them."""
    levels = smooth_levels(SAMPLERS[name], n)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64) * np.hypot(levels[0].signal * std, levels[0].noise)

    def net(unit_x, sigma):
        signal = 1 / np.hypot(1, sigma)
        return (unit_x - signal * best_x0(unit_x, signal, signal * sigma, std)) / (signal * sigma)

    return relative_error(run(SAMPLERS[name].solver(x, levels), net)[-1].latents, flow(x, levels[0], levels[-1], std))


def order(name: str) -> float:
    """How fast that error falls with the step size, between ORDER_STEPS."""
    coarse, fine = (gaussian_error(name, n) for n in ORDER_STEPS)
    return float(np.log2(coarse / fine) / np.log2(ORDER_STEPS[1] / ORDER_STEPS[0]))
