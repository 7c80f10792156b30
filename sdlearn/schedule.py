"""The noise schedule: how much of the picture and how much noise there is at every training timestep.

Forward process (Ho et al. 2020, eq. 2 and 4), for t = 0 .. num_train_timesteps - 1:

    q(x_t | x_{t-1}) = N( sqrt(1 - beta_t) x_{t-1},  beta_t I )
    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps,      alpha_bar_t = prod_{s <= t} (1 - beta_s)

The betas are *variances of noise*, fixed before training; nothing here is learned and nothing here knows of a network.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import pairwise
from numbers import Real

import numpy as np
import torch
from torch import Tensor


def _cosine(start: float, end: float, n: int) -> Tensor:
    f = [math.cos((t / n + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(n + 1)]
    return torch.tensor([min(1 - after / before, 0.999) for before, after in pairwise(f)])


_evenly = partial(torch.linspace, dtype=torch.float32)
BETAS = {
    "linear": _evenly,  # Ho et al. 2020
    "scaled_linear": lambda start, end, n: _evenly(start**0.5, end**0.5, n) ** 2,  # Rombach et al. 2022
    "squaredcos_cap_v2": _cosine,  # Nichol & Dhariwal 2021, eq. 17
}
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing", "linspace")


@dataclass(frozen=True)
class Level:
    """One noise level of a run: x = signal * x_0 + noise * eps."""

    timestep: float  # what the network is asked with
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

    def add_noise(self, x0: Tensor, noise: Tensor) -> Tensor:
        """x0 noised to this level, on the scale of its sampler (diffusers: the scheduler's add_noise)."""
        return self.signal * x0 + self.noise * noise


CLEAN = Level(-1.0, 1.0, 0.0)  # where a run ends that takes all of the noise away


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The forward process of a model, and the conversions between noise, clean picture and velocity.

    Parameters are those of diffusers' scheduler configs, the defaults Stable Diffusion 1.x's. The tables are float64
    tensors of shape (num_train_timesteps,), made by the same float32 arithmetic as in training.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: str = "epsilon"
    timestep_spacing: str | None = None  # None leaves it to each sampler, as diffusers does for Stable Diffusion 1.x
    steps_offset: int = 1  # added to the "leading" timesteps, so that they end at 1 instead of 0
    set_alpha_to_one: bool = False  # whether DDIM and PLMS end at alpha_bar = 1, or (Stable Diffusion) at alpha_bar[0]
    rescale_betas_zero_snr: bool = False  # make the last timestep pure noise (Lin et al. 2023, algorithm 1)

    betas: Tensor = field(init=False, repr=False)
    alpha_bar: Tensor = field(init=False, repr=False)

    def __post_init__(self):
        choice("prediction_type", self.prediction_type, PREDICTION_TYPES)
        choice("beta_schedule", self.beta_schedule, BETAS)
        choice("timestep_spacing", self.timestep_spacing or "leading", SPACINGS)
        n = whole_number("num_train_timesteps", self.num_train_timesteps, 1)
        whole_number("steps_offset", self.steps_offset, 0)
        # In float32 on purpose: checkpoints were trained with this rounding, and diffusers samples with it.
        betas = BETAS[self.beta_schedule](self.beta_start, self.beta_end, n).float()
        if self.trained_betas is not None:
            betas = torch.tensor(self.trained_betas, dtype=torch.float32)
        if len(betas) != n:
            raise ValueError(f"There are {len(betas)} trained_betas for num_train_timesteps={n}; give one for each.")
        if not ((betas >= 0) & (betas < 1)).all():
            found = f"from {betas.min():g} to {betas.max():g}; look at beta_start, beta_end or trained_betas"
            raise ValueError(f"The betas are variances from 0 to below 1, and cannot go {found}.")
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        if self.rescale_betas_zero_snr:  # shift and stretch sqrt(alpha_bar) to end at exactly 0 and start where it did
            root = alpha_bar.sqrt()
            alpha_bar = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
            betas = 1 - torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
            alpha_bar = torch.cumprod(1 - betas, dim=0)
        # Frozen means frozen for users; the two tables follow from the other fields.
        object.__setattr__(self, "betas", betas.double())
        object.__setattr__(self, "alpha_bar", alpha_bar.double())

    @classmethod
    def from_config(cls, config: dict) -> NoiseSchedule:
        """The schedule that a diffusers `scheduler_config.json` describes; keys of no concern here are passed over."""
        ours = {f.name for f in fields(cls) if f.init}
        # A scheduler object records which values were its class's defaults; that spacing was not chosen.
        if "timestep_spacing" in config.get("_use_default_values", ()):
            ours.remove("timestep_spacing")
        values = {k: v for k, v in config.items() if k in ours and v is not None}
        if "trained_betas" in values:
            values["trained_betas"] = tuple(values["trained_betas"])
            values["num_train_timesteps"] = len(values["trained_betas"])
        # StableDiffusionPipeline insists on an offset of 1 whatever the file says, and pictures depend on it.
        values["steps_offset"] = values.get("steps_offset") or 1
        return cls(**values)

    @property
    def signal(self) -> Tensor:
        """sqrt(alpha_bar): the share of the picture in x_t, shape (num_train_timesteps,)."""
        return self.alpha_bar.sqrt()

    @property
    def noise(self) -> Tensor:
        """sqrt(1 - alpha_bar): the standard deviation of the noise in x_t, shape (num_train_timesteps,)."""
        return (1 - self.alpha_bar).sqrt()

    @property
    def sigma(self) -> Tensor:
        """noise / signal: the noise level when the picture is kept at full strength (Karras et al. 2022)."""
        return self.noise / self.signal

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar)."""
        return self.alpha_bar / (1 - self.alpha_bar)

    @property
    def final_alpha_bar(self) -> float:
        """Where the last DDIM or PLMS step ends."""
        return 1.0 if self.set_alpha_to_one else self.alpha_bar[0].item()

    def add_noise(self, x0: Tensor, noise: Tensor, timestep: int | Sequence[int] | Tensor) -> Tensor:
        """x_t of x0 (B, ...), in one jump (Ho et al. 2020, eq. 4); timestep: one for all, or one for each picture."""
        signal, noise_level = self._coefficients(timestep, x0)
        return signal * x0 + noise_level * noise

    def to_x0(self, x: Tensor, output: Tensor, timestep: int | Sequence[int] | Tensor) -> Tensor:
        """The clean picture that the model's `output` for x_t stands for; shapes (B, ...)."""
        return self._read(x, output, timestep)[0]

    def to_eps(self, x: Tensor, output: Tensor, timestep: int | Sequence[int] | Tensor) -> Tensor:
        """The noise that the model's `output` for x_t stands for; shapes (B, ...)."""
        return self._read(x, output, timestep)[1]

    def to_v(self, x: Tensor, output: Tensor, timestep: int | Sequence[int] | Tensor) -> Tensor:
        """The velocity signal_t eps - noise_t x_0 that `output` stands for (Salimans & Ho 2022); shapes (B, ...)."""
        x0, eps, signal, noise = self._read(x, output, timestep)
        return signal * eps - noise * x0

    def _read(self, x: Tensor, output: Tensor, timestep) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        signal, noise = self._coefficients(timestep, x)
        if self.prediction_type == "epsilon" and (signal == 0).any():
            raise ValueError(f"At timestep {timestep} nothing of the picture is left; its noise says nothing of x_0.")
        return *convert(x, output, signal, noise, self.prediction_type), signal, noise

    def _coefficients(self, timestep, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise at one timestep, or at one for each picture, in a shape that multiplies `like`."""
        if not like.is_floating_point():
            raise TypeError(f"Noise mixes with tensors of floats, not {like.dtype}; bring them to [-1, 1] as floats.")
        t = torch.as_tensor(timestep).cpu()
        if (t != t.round()).any():
            raise ValueError(f"A training timestep is a whole number, not {timestep}; a sampler's Level has fractions.")
        if t.min() < 0 or t.max() >= self.num_train_timesteps:
            raise ValueError(f"timestep {timestep} is outside 0..{self.num_train_timesteps - 1}, the trained range.")
        if t.ndim and len(t) not in (1, len(like)):
            raise ValueError(f"There are {len(t)} timesteps for a batch of {len(like)}; give one, or one for each.")
        shape = (-1, *[1] * (like.ndim - 1)) if t.ndim else ()
        return tuple(table[t.long()].to(like).reshape(shape) for table in (self.signal, self.noise))

    def timesteps(self, num_inference_steps: int, spacing: str | None = None) -> tuple[int, ...]:
        """The training timesteps that a run of `num_inference_steps` visits, largest first (Lin et al. 2023, table 2).

        leading: every (T // n)-th from the bottom, shifted by steps_offset; never reaches the last timestep.
        trailing: every (T / n)-th from the top, so the last one, pure noise, is always included.
        linspace: n evenly spaced numbers with both ends, rounded.
        """
        spacing = (self.timestep_spacing or "leading") if spacing is None else spacing
        return tuple(round(t) for t in self.spaced(num_inference_steps, spacing))

    def spaced(self, n: int, spacing: str) -> list[float]:
        """As `timesteps`, but "linspace" is not rounded: the sigma samplers ask between the training timesteps."""
        total = self.num_train_timesteps
        choice("spacing", spacing, SPACINGS)
        n = whole_number("num_inference_steps", n, 1, total)
        # diffusers' numpy expressions, whose rounding of .5 decides between neighbours; with two differences:
        if spacing == "leading":
            steps = (np.arange(n) * (total // n) + float(self.steps_offset))[::-1].tolist()
        elif spacing == "trailing":
            # It counts down in floats and for some n (61, 103, ...) goes one too far, to timestep -1.
            steps = (np.arange(total, 0, -total / n).round() - 1)[:n].tolist()
        else:
            # Its single step would begin at timestep 0, where there is no noise to take away.
            steps = np.linspace(0, total - 1, n)[::-1].tolist() if n > 1 else [total - 1.0]
        if steps[0] >= total:
            cure = "take fewer steps or spacing='trailing'"
            raise ValueError(f"{n} steps would start at timestep {steps[0]:g}, which was never trained; {cure}.")
        return steps


def plain(value: object) -> object:
    """A single number of numpy's or torch's as Python's own, and anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def number(name: str, value: object, low: float = 0, high: float = math.inf, whole: bool = False) -> float:
    """The value as a finite float, or as an int, or a ValueError that names what it should have been."""
    value = plain(value)
    real = isinstance(value, Real) and not isinstance(value, bool) and low <= value <= high and abs(value) < math.inf
    if real and (value % 1 == 0 or not whole):
        return int(value) if whole else float(value)
    bounds = f" from {low} to {high}" if high < math.inf else f" of at least {low}" if low > -math.inf else ""
    raise ValueError(f"{name} must be a {'whole' if whole else 'finite'} number{bounds}, not {value!r}.")


whole_number = partial(number, whole=True)


def choice(name: str, value: object, names: Collection[str]) -> str:
    """The value if it is one of the names, or a ValueError that lists them."""
    if isinstance(value, str) and value in names:
        return value
    raise ValueError(f"Unknown {name} {value!r}; choose one of {', '.join(names)}.")


def convert(x: Tensor, output: Tensor, signal, noise, prediction_type: str) -> tuple[Tensor, Tensor]:
    """A network's output for x = signal x_0 + noise eps, read as (x_0, eps), on whatever scale x is.

    signal, noise: Python floats, or tensors that broadcast.
    """
    if prediction_type == "epsilon":
        return (x - noise * output) / signal, output
    if prediction_type == "sample":
        return output, (x - signal * output) / noise
    # v is defined on the variance-preserving x, so bring x to that scale first (Salimans & Ho 2022, appendix D).
    size = (signal**2 + noise**2) ** 0.5
    a, s, unit = signal / size, noise / size, x / size
    return a * unit - s * output, s * unit + a * output
