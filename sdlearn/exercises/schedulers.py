"""Notebook 02: who decides the steps from noise back to a picture."""

from __future__ import annotations

import torch

from ..schedule import NoiseSchedule
from . import exercise

# -- where to stop -----------------------------------------------------------------------------------------------------


@exercise(
    minutes=8, difficulty=2, trains="the three rules for choosing timesteps", tolerance=1e-6,
    hint="leading: i * (total // n) + offset. trailing: total - i * total / n, rounded, minus 1. linspace: n numbers "
    "with n - 1 equal gaps between total - 1 and 0, rounded. In which of them does i count from the bottom?",
)  # fmt: skip
def timesteps(n, spacing, total=1000, offset=1):
    if spacing == "leading":
        return [i * (total // n) + offset for i in reversed(range(n))]
    if spacing == "trailing":
        return [round(total - i * total / n) - 1 for i in range(n)]
    return [round(i * (total - 1) / (n - 1)) for i in reversed(range(n))]


@timesteps.given
def _():
    yield 30, "leading", 1000, 1  # 30 does not divide 1000
    yield 7, "trailing", 1000, 1
    yield 7, "linspace", 1000, 1
    yield 20, "leading", 500, 0


def _but(spacing, wrong):
    """The right timesteps, except with one spacing."""

    def answer(n, asked, total, offset):
        return wrong(n, total, offset) if asked == spacing else timesteps.answer(n, asked, total, offset)

    return answer


timesteps.mistake("the offset is forgotten: leading is shifted up by it, so that the last timestep is 1 and not 0.")(
    _but("leading", lambda n, total, offset: [i * (total // n) for i in reversed(range(n))])
)
timesteps.mistake("leading counts in whole steps of total // n; here the steps are total / n, rounded afterwards.")(
    _but("leading", lambda n, total, offset: [round(i * total / n) + offset for i in reversed(range(n))])
)
timesteps.mistake("leading is counted from the bottom: it ends at the offset, and begins wherever that leads to.")(
    _but("leading", lambda n, total, offset: [total - 1 - i * (total // n) for i in range(n)])
)
timesteps.mistake("trailing begins at total - 1, the last timestep there is: subtract 1, and add no offset.")(
    _but("trailing", lambda n, total, offset: [round(total - i * total / n) for i in range(n)])
)
timesteps.mistake("the numbers of trailing are rounded down; round them to the nearest whole number.")(
    _but("trailing", lambda n, total, offset: [int(total - i * total / n) - 1 for i in range(n)])
)
timesteps.mistake("trailing does not come down to 0: its last timestep is one step away from the bottom.")(
    _but("trailing", lambda n, total, offset: [round(i * (total - 1) / (n - 1)) for i in reversed(range(n))])
)
timesteps.mistake("the lower end of linspace is missing: n numbers have n - 1 gaps between them, not n.")(
    _but("linspace", lambda n, total, offset: [round((n - i) * (total - 1) / n) for i in range(n)])
)
timesteps.mistake("linspace runs from total - 1 down to 0: with total as its upper end it begins one too high.")(
    _but("linspace", lambda n, total, offset: [round(i * total / (n - 1)) for i in reversed(range(n))])
)
timesteps.mistake("the offset belongs to leading alone; linspace has both ends, 0 included.")(
    _but("linspace", lambda n, total, offset: [round(i * (total - 1) / (n - 1)) + offset for i in reversed(range(n))])
)
timesteps.mistake("the numbers of linspace are rounded down; round them to the nearest whole number.")(
    _but("linspace", lambda n, total, offset: [i * (total - 1) // (n - 1) for i in reversed(range(n))])
)


@timesteps.mistake("the list is upside down: a run begins at the noisiest level, so the largest timestep comes first.")
def _(n, spacing, total, offset):
    return timesteps.answer(n, spacing, total, offset)[::-1]


# -- DDPM --------------------------------------------------------------------------------------------------------------


@exercise(
    minutes=6, difficulty=2, trains="the mean of DDPM's step, by Bayes' rule",
    hint="Four lines: alpha, beta = 1 - alpha, and the two weights, which stand under the braces of the formula.",
)  # fmt: skip
def ddpm_mean(x, x0, alpha_bar, alpha_bar_next):
    alpha = alpha_bar / alpha_bar_next
    beta = 1 - alpha
    of_x0 = alpha_bar_next**0.5 * beta / (1 - alpha_bar)
    of_x = alpha**0.5 * (1 - alpha_bar_next) / (1 - alpha_bar)
    return of_x0 * x0 + of_x * x


@ddpm_mean.given
def _():
    chance = torch.Generator().manual_seed(0)
    for alpha_bar, alpha_bar_next in ((0.42, 0.6), (0.01, 0.04), (0.95, 1.0)):
        x, x0 = torch.randn(2, 1, 4, 4, 4, generator=chance)
        yield x, x0, alpha_bar, alpha_bar_next


def _mix(x, x0, of_x, of_x0):
    return of_x * x + of_x0 * x0


@ddpm_mean.mistake("the square roots are missing in both weights: alpha and alpha_bar are variances.")
def _(x, x0, a, b):
    return _mix(x, x0, a / b * (1 - b) / (1 - a), b * (1 - a / b) / (1 - a))


@ddpm_mean.mistake("the square root over alpha is missing in the weight of x.")
def _(x, x0, a, b):
    return _mix(x, x0, a / b * (1 - b) / (1 - a), b**0.5 * (1 - a / b) / (1 - a))


@ddpm_mean.mistake("the square root over alpha_bar_next is missing in the weight of x0.")
def _(x, x0, a, b):
    return _mix(x, x0, (a / b) ** 0.5 * (1 - b) / (1 - a), b * (1 - a / b) / (1 - a))


@ddpm_mean.mistake(
    "alpha_bar stands where alpha belongs: alpha is what this one step keeps, alpha_bar / alpha_bar_next."
)
def _(x, x0, a, b):
    return _mix(x, x0, a**0.5 * (1 - b) / (1 - a), b**0.5 * (1 - a) / (1 - a))


@ddpm_mean.mistake("the two weights are swapped: the one with beta in it belongs to x0.")
def _(x, x0, a, b):
    return _mix(x0, x, (a / b) ** 0.5 * (1 - b) / (1 - a), b**0.5 * (1 - a / b) / (1 - a))


@ddpm_mean.mistake("above the fractions stands alpha_bar where alpha_bar_next belongs: they weigh the level you go to.")
def _(x, x0, a, b):
    return _mix(x, x0, (a / b) ** 0.5, a**0.5 * (1 - a / b) / (1 - a))


@ddpm_mean.mistake("below the fractions stands 1 - alpha_bar_next; divide by 1 - alpha_bar, the noise you come from.")
def _(x, x0, a, b):
    return _mix(x, x0, (a / b) ** 0.5, b**0.5 * (1 - a / b) / (1 - b))


@ddpm_mean.mistake("the weights are not divided by 1 - alpha_bar.")
def _(x, x0, a, b):
    return _mix(x, x0, (a / b) ** 0.5 * (1 - b), b**0.5 * (1 - a / b))


@ddpm_mean.mistake(
    "this is DDIM's step, which keeps all of the predicted noise; DDPM's mean keeps less and leaves room for new noise."
)
def _(x, x0, a, b):
    return b**0.5 * x0 + (1 - b) ** 0.5 * (x - a**0.5 * x0) / (1 - a) ** 0.5


# -- DDIM --------------------------------------------------------------------------------------------------------------


@exercise(
    minutes=8, difficulty=2, trains="DDIM's step, and which alpha-bar belongs to it",
    hint="Where does step k lead? To timesteps[k + 1], or after the last timestep to final_alpha_bar. Look up that one "
    "alpha-bar, then mix x0 and eps as in notebook 01.",
)  # fmt: skip
def ddim_step(x0, eps, k, timesteps, alpha_bar, final_alpha_bar):
    last = k + 1 == len(timesteps)
    after = final_alpha_bar if last else alpha_bar[timesteps[k + 1]]
    return after**0.5 * x0 + (1 - after) ** 0.5 * eps


@ddim_step.given
def _():
    chance = torch.Generator().manual_seed(1)
    schedule = NoiseSchedule()
    for k, spacing, final in ((4, "leading", 0.99), (9, "leading", 0.99), (9, "trailing", 1.0)):
        x0, eps = torch.randn(2, 1, 4, 4, 4, generator=chance)
        yield x0, eps, k, schedule.timesteps(10, spacing), schedule.alpha_bar, final


def _last(k, steps) -> bool:
    return k + 1 == len(steps)


def _noised(x0, eps, a):
    return a**0.5 * x0 + (1 - a) ** 0.5 * eps


@ddim_step.mistake(
    "the last step ends at alpha-bar 1, without noise; Stable Diffusion's ends at final_alpha_bar, a little before."
)
def _(x0, eps, k, steps, alpha_bar, final):
    return _noised(x0, eps, 1.0 if _last(k, steps) else alpha_bar[steps[k + 1]])


@ddim_step.mistake(
    "the last step ends at alpha_bar[0] whatever the model says: use final_alpha_bar, which is 1 for some models."
)
def _(x0, eps, k, steps, alpha_bar, final):
    return _noised(x0, eps, alpha_bar[0] if _last(k, steps) else alpha_bar[steps[k + 1]])


@ddim_step.mistake("the square roots are missing: alpha_bar and 1 - alpha_bar are variances, and these are amplitudes.")
def _(x0, eps, k, steps, alpha_bar, final):
    a = final if _last(k, steps) else alpha_bar[steps[k + 1]]
    return a * x0 + (1 - a) * eps


@ddim_step.mistake(
    "the step leads nowhere: this is the level of timesteps[k], where you are; go to that of timesteps[k + 1]."
)
def _(x0, eps, k, steps, alpha_bar, final):
    return _noised(x0, eps, alpha_bar[steps[k]])


@ddim_step.mistake(
    "one timestep off: this goes from t to t - 1, the next in training; the next of this run is timesteps[k + 1]."
)
def _(x0, eps, k, steps, alpha_bar, final):
    return _noised(x0, eps, alpha_bar[steps[k] - 1])


@ddim_step.mistake(
    "one timestep off: this is the level beside timesteps[k + 1]; the first entry of alpha_bar belongs to timestep 0."
)
def _(x0, eps, k, steps, alpha_bar, final):
    return _noised(x0, eps, final if _last(k, steps) else alpha_bar[steps[k + 1] - 1])


@ddim_step.mistake(
    "the loop's counter stands where a timestep belongs: alpha_bar is indexed by t = timesteps[k + 1], not by k + 1."
)
def _(x0, eps, k, steps, alpha_bar, final):
    return _noised(x0, eps, final if _last(k, steps) else alpha_bar[k + 1])


@ddim_step.mistake(
    "the loop's counter stands where a timestep belongs: alpha_bar[k] is nearly clean; look up timesteps[k + 1] first."
)
def _(x0, eps, k, steps, alpha_bar, final):
    return _noised(x0, eps, final if _last(k, steps) else alpha_bar[k])


@ddim_step.mistake("picture and noise are swapped: alpha_bar is the share of the picture, x0.")
def _(x0, eps, k, steps, alpha_bar, final):
    return _noised(eps, x0, final if _last(k, steps) else alpha_bar[steps[k + 1]])


# -- Euler -------------------------------------------------------------------------------------------------------------


@exercise(
    minutes=4, difficulty=1, trains="Euler's method, in sigma",
    hint="Slope times the length of the step. The slope is eps, and sigma falls: the length has a sign.",
)  # fmt: skip
def euler_step(x, eps, sigma, sigma_next):
    return x + (sigma_next - sigma) * eps


@euler_step.given
def _():
    chance = torch.Generator().manual_seed(2)
    for sigma, sigma_next in ((5.0, 3.0), (0.4, 0.0)):
        x, eps = torch.randn(2, 1, 4, 4, 4, generator=chance)
        yield x, eps, sigma, sigma_next


@euler_step.mistake("the sign is turned round: sigma falls, so sigma_next - sigma is negative and noise is taken away.")
def _(x, eps, sigma, sigma_next):
    return x + (sigma - sigma_next) * eps


@euler_step.mistake("this goes all the way to x0; go only from sigma to sigma_next.")
def _(x, eps, sigma, sigma_next):
    return x - sigma * eps


@euler_step.mistake("the noise of the next level is added to what there is; take away the difference instead.")
def _(x, eps, sigma, sigma_next):
    return x + sigma_next * eps


@euler_step.mistake("the noise of the next level is taken away; what goes is the difference of sigma and sigma_next.")
def _(x, eps, sigma, sigma_next):
    return x - sigma_next * eps


@euler_step.mistake(
    "variances are subtracted here, as if the noise were independent; it is the same eps, so the sigmas are subtracted."
)
def _(x, eps, sigma, sigma_next):
    return x - (sigma**2 - sigma_next**2) ** 0.5 * eps


@euler_step.mistake("all of x is scaled down, the picture too; only its noise may shrink.")
def _(x, eps, sigma, sigma_next):
    return sigma_next / sigma * x
