"""Notebook 01: how a picture becomes noise."""

from __future__ import annotations

import torch

from . import exercise

# -- the jump ----------------------------------------------------------------------------------------------------------


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


@add_noise.mistake(
    "your two factors add up to one, and their squares should: the noise gets sqrt(1 - alpha_bar), not "
    "1 - sqrt(alpha_bar)."
)
def _(x0, noise, alpha_bar):
    return alpha_bar**0.5 * x0 + (1 - alpha_bar**0.5) * noise


# -- one step of the walk ----------------------------------------------------------------------------------------------


@exercise(
    minutes=4, difficulty=1, trains="one step of the forward process",
    hint="The variance of the sum is the factor of x squared plus that of z squared: one in all, and beta of it new.",
)  # fmt: skip
def step(x, z, beta):
    return (1 - beta) ** 0.5 * x + beta**0.5 * z


@step.given
def _():
    chance = torch.Generator().manual_seed(1)
    for beta in (0.36, 0.05):
        yield torch.randn(5, generator=chance), torch.randn(5, generator=chance), beta


@step.mistake(
    "beta is used as a standard deviation: it is the variance of the new noise, so the noise is sqrt(beta) times z."
)
def _(x, z, beta):
    return (1 - beta) ** 0.5 * x + beta * z


@step.mistake(
    "the root over 1 - beta is missing: x fades faster than the noise makes up for, and the size shrinks on the way."
)
def _(x, z, beta):
    return (1 - beta) * x + beta**0.5 * z


@step.mistake("both square roots are missing: beta is a variance, and x and z are multiplied by amplitudes.")
def _(x, z, beta):
    return (1 - beta) * x + beta * z


@step.mistake("x does not fade: without sqrt(1 - beta) before it the size grows with every step.")
def _(x, z, beta):
    return x + beta**0.5 * z


@step.mistake("the two factors are swapped: beta is the small share, and it belongs to the noise.")
def _(x, z, beta):
    return beta**0.5 * x + (1 - beta) ** 0.5 * z


# -- a schedule of one's own -------------------------------------------------------------------------------------------


@exercise(
    minutes=8, difficulty=2, trains="the way from alpha-bar back to the betas", tolerance=1e-4,
    hint="alpha_bar is the signal squared, and alpha_bar[t] = (1 - beta[t]) * alpha_bar[t - 1]. Before the first step "
    "alpha_bar is 1; torch.cat([torch.ones(1), alpha_bar[:-1]]) is a way to shift it by one place.",
)  # fmt: skip
def betas_for(signal):
    alpha_bar = signal**2
    before = torch.cat([torch.ones(1), alpha_bar[:-1]])
    return 1 - alpha_bar / before


@betas_for.given
def _():
    yield (torch.tensor([0.9, 0.8, 0.6, 0.3]),)
    yield (torch.linspace(0.999, 0.01, 1000),)


def _before(values):
    return torch.cat([torch.ones(1), values[:-1]])


@betas_for.mistake("the square is missing: alpha_bar is the signal squared, and the betas come from alpha_bar.")
def _(signal):
    return 1 - signal / _before(signal)


@betas_for.mistake(
    "this is 1 - alpha_bar, all the noise there is after step t; beta is only what step t itself adds, so divide by "
    "alpha_bar of the step before."
)
def _(signal):
    return 1 - signal**2


@betas_for.mistake(
    "the first beta is left out: there are as many betas as timesteps, and before the first step alpha_bar is 1."
)
def _(signal):
    return 1 - signal[1:] ** 2 / signal[:-1] ** 2


@betas_for.mistake("the fraction is upside down: alpha_bar[t] belongs above, alpha_bar[t - 1] below.")
def _(signal):
    return 1 - _before(signal**2) / signal**2


@betas_for.mistake(
    "a difference instead of a fraction: each step multiplies what is left, so the step is alpha_bar[t] divided by "
    "alpha_bar[t - 1]."
)
def _(signal):
    return _before(signal**2) - signal**2


@betas_for.mistake(
    "this is one timestep off: your alpha_bar for step t is divided by that of step t + 1, not of t - 1."
)
def _(signal):
    after = torch.cat([signal[1:] ** 2, signal[-1:] ** 2])
    return 1 - after / signal**2


# -- three languages ---------------------------------------------------------------------------------------------------


@exercise(
    minutes=6, difficulty=2, trains="reading a v-prediction as picture and noise",
    hint="Multiply x = signal x0 + noise eps by signal, and v = signal eps - noise x0 by noise. What is left if you "
    "subtract one from the other? Remember that signal^2 + noise^2 = 1.",
)  # fmt: skip
def from_v(x, v, alpha_bar):
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    return signal * x - noise * v, noise * x + signal * v


@from_v.given
def _():
    chance = torch.Generator().manual_seed(2)
    for alpha_bar in (0.8, 0.3):
        yield torch.randn(1, 3, 4, 4, generator=chance), torch.randn(1, 3, 4, 4, generator=chance), alpha_bar


@from_v.mistake("the sign of v is turned round: v is signal * eps - noise * x0, it points from picture to noise.")
def _(x, v, alpha_bar):
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    return signal * x + noise * v, noise * x - signal * v


@from_v.mistake("the square roots are missing: alpha_bar is the signal squared, 1 - alpha_bar is the noise squared.")
def _(x, v, alpha_bar):
    return alpha_bar * x - (1 - alpha_bar) * v, (1 - alpha_bar) * x + alpha_bar * v


@from_v.mistake("both are right, but in the other order: x0 is asked for first, then eps.")
def _(x, v, alpha_bar):
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    return noise * x + signal * v, signal * x - noise * v


@from_v.mistake("x0 is right and eps has a wrong sign: eps is noise * x plus signal * v.")
def _(x, v, alpha_bar):
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    return signal * x - noise * v, signal * v - noise * x


@from_v.mistake("eps is right and x0 has a wrong sign: x0 is signal * x minus noise * v.")
def _(x, v, alpha_bar):
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    return signal * x + noise * v, noise * x + signal * v


@from_v.mistake("v is read as if it were eps; that is what a program does that takes a v-model for an eps-model.")
def _(x, v, alpha_bar):
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    return (x - noise * v) / signal, v


@from_v.mistake("signal and noise are swapped: the signal is sqrt(alpha_bar), the noise sqrt(1 - alpha_bar).")
def _(x, v, alpha_bar):
    signal, noise = (1 - alpha_bar) ** 0.5, alpha_bar**0.5
    return signal * x - noise * v, noise * x + signal * v


# -- the loss ----------------------------------------------------------------------------------------------------------


@exercise(
    minutes=6, difficulty=2, trains="the loss that Stable Diffusion was trained with",
    hint="Three lines: look up alpha_bar at t; mix x0 and eps as add_noise does; take the mean square of what the "
    "network answers minus what it should have answered.",
)  # fmt: skip
def noise_loss(network, x0, t, eps, alpha_bar):
    a = alpha_bar[t]
    x = a.sqrt() * x0 + (1 - a).sqrt() * eps
    return (network(x, t) - eps).square().mean()


@noise_loss.given
def _():
    chance = torch.Generator().manual_seed(3)
    alpha_bar = torch.linspace(0.95, 0.05, 10)
    for t in ([1, 8, 4, 6], [0, 3, 9, 5]):
        x0, eps = torch.randn(2, 4, generator=chance)
        yield _guess, x0, torch.tensor(t), eps, alpha_bar


def _guess(x, t):
    """Stands for a network: some function of both of its inputs."""
    return 0.4 * x + 0.1 * t


@noise_loss.mistake(
    "the target is x0, the clean data, and the network is asked for the noise: compare its answer with eps."
)
def _(network, x0, t, eps, alpha_bar):
    a = alpha_bar[t]
    return (network(a.sqrt() * x0 + (1 - a).sqrt() * eps, t) - x0).square().mean()


@noise_loss.mistake(
    "all samples are mixed with the first one's alpha_bar: each has a timestep of its own, so look up alpha_bar[t] "
    "with the whole of t."
)
def _(network, x0, t, eps, alpha_bar):
    a = alpha_bar[t[0]]
    return (network(a.sqrt() * x0 + (1 - a).sqrt() * eps, t) - eps).square().mean()


@noise_loss.mistake(
    "one timestep serves for all samples: then a batch teaches the network one noise level only; use t as it comes, "
    "a timestep for each."
)
def _(network, x0, t, eps, alpha_bar):
    a, t = alpha_bar[t[0]], t[:1].expand(len(t))
    return (network(a.sqrt() * x0 + (1 - a).sqrt() * eps, t) - eps).square().mean()


@noise_loss.mistake(
    "the noise is forgotten in the target: this is the size of the answer, and a network learns from it to say 0."
)
def _(network, x0, t, eps, alpha_bar):
    a = alpha_bar[t]
    return network(a.sqrt() * x0 + (1 - a).sqrt() * eps, t).square().mean()


@noise_loss.mistake(
    "the noise is forgotten in the input: the network is shown the clean x0, and no one could tell from that which eps "
    "was drawn."
)
def _(network, x0, t, eps, alpha_bar):
    return (network(x0, t) - eps).square().mean()


@noise_loss.mistake("the target is the noisy input: what is asked for is eps, only the noise in it.")
def _(network, x0, t, eps, alpha_bar):
    a = alpha_bar[t]
    x = a.sqrt() * x0 + (1 - a).sqrt() * eps
    return (network(x, t) - x).square().mean()


@noise_loss.mistake(
    "the target is the noise as it stands in x, sqrt(1 - alpha_bar) * eps; the network is asked for eps at unit size."
)
def _(network, x0, t, eps, alpha_bar):
    a = alpha_bar[t]
    scaled = (1 - a).sqrt() * eps
    return (network(a.sqrt() * x0 + scaled, t) - scaled).square().mean()


@noise_loss.mistake("the square roots are missing in the mix: alpha_bar and 1 - alpha_bar are variances.")
def _(network, x0, t, eps, alpha_bar):
    a = alpha_bar[t]
    return (network(a * x0 + (1 - a) * eps, t) - eps).square().mean()


@noise_loss.mistake("this is the sum: take the mean, or the loss and its gradient grow with the size of the batch.")
def _(network, x0, t, eps, alpha_bar):
    a = alpha_bar[t]
    return (network(a.sqrt() * x0 + (1 - a).sqrt() * eps, t) - eps).square().sum()


@noise_loss.mistake("the square is missing: without it wrong answers above and below eps cancel in the mean.")
def _(network, x0, t, eps, alpha_bar):
    a = alpha_bar[t]
    return (network(a.sqrt() * x0 + (1 - a).sqrt() * eps, t) - eps).mean()


@noise_loss.mistake(
    "this is the mean distance, not the mean square: its best answer is the median of all noises that could have been, "
    "and the average is wanted."
)
def _(network, x0, t, eps, alpha_bar):
    a = alpha_bar[t]
    return (network(a.sqrt() * x0 + (1 - a).sqrt() * eps, t) - eps).abs().mean()
