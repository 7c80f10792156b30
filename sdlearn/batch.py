"""What is asked of a run: settings that are checked once, written into the picture, compared, and drawn from again.

    settings = Settings("a fox", seed=7, num_inference_steps=50)
    image = text_to_image(sd, **settings)
    text_to_image(sd, **read_settings(image))              # the same picture

Nothing here knows how a picture is drawn.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import InitVar, asdict, dataclass, fields, replace
from functools import partial
from types import FunctionType

import torch
from PIL import Image
from torch import Tensor

from .autoencoder import Generators
from .guidance import GuidanceScale, interval
from .pictures import SETTINGS_KEY
from .samplers import Sampler, get_sampler
from .schedule import SPACINGS, choice, number, plain, whole_number
from .text import as_texts

Prompt = str | Sequence[str]


@dataclass(frozen=True, eq=False)
class Settings:
    """What a picture, or a batch of them, is drawn from: the parameters of `sampling.denoise`, which explains them.

    Every value is brought to plain Python and checked here; what depends on a model is checked when it is there.
    """

    prompt: Prompt | None = None
    negative_prompt: Prompt | None = None
    seed: int | None = None
    seeds: Sequence[int] | None = None
    num_inference_steps: int = 25
    guidance_scale: GuidanceScale = 7.5
    sampler: str | Sampler = "ddim"
    height: int | None = None
    width: int | None = None
    guidance_rescale: float = 0.0
    eta: float | None = None
    spacing: str | None = None
    start_step: int | None = None
    clip_skip: int | None = None
    long_prompt: bool = False
    prompt_weights: bool = False
    latents: Tensor | None = None
    image_latents: Tensor | None = None
    mask: Tensor | None = None
    unet_channels: Tensor | None = None
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    progress: bool = True
    model: str | None = None  # the name of the model that drew, and its number format: in a call only for comparison
    dtype: str | None = None
    generator: InitVar[None] = None

    def __post_init__(self, generator):
        if generator is not None:
            raise TypeError("Give seed or seeds instead of a generator: a picture remembers its seed.")
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in CHECKS and not (value is None and f.default is None):
                object.__setattr__(self, f.name, CHECKS[f.name](f.name, value))
        if self.seed is not None and self.seeds is not None:
            raise ValueError("Give either seed or seeds, not both.")
        if (self.prompt is None) == (self.prompt_embeds is None):
            raise ValueError("Give either a prompt or prompt_embeds.")
        if self.negative_prompt is not None and self.negative_prompt_embeds is not None:
            raise ValueError("Give either a negative_prompt or negative_prompt_embeds, not both.")

    def keys(self) -> Iterator[str]:  # with the next one: `text_to_image(sd, **settings)` asks for the same again
        return (f.name for f in fields(self) if getattr(self, f.name) is not None)

    def __getitem__(self, name: str) -> object:
        return getattr(self, name)

    def by(self, sd) -> Settings:
        """The same settings, for that model to draw."""
        size = {"height": self.height or sd.height, "width": self.width or sd.width}
        return replace(self, model=sd.name, dtype=str(sd.dtype).removeprefix("torch."), **size)

    def written(self) -> dict:
        """The settings as JSON holds them; `Kind` stands for what it cannot hold."""
        found = {name: _written(self[name]) for name in self.keys() if name != "progress"}
        return {"prompt": None, "negative_prompt": ""} | found

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Settings) and (found := other.written()) == self.written() and not self.difference(found)
        )

    __hash__ = None

    def difference(self, found: dict) -> str | None:
        """The first setting that was written with another value, or cannot be compared; None if all are the same."""
        usual = {f.name: f.default for f in fields(self)} | {"negative_prompt": ""}  # where older pictures lack names
        wanted, found = usual | self.written(), usual | {"model": self.model, "dtype": self.dtype} | found
        differ = (name for name in usual if found[name] != wanted[name] or isinstance(wanted[name], Kind))
        return next(differ, None)


class Kind(str):
    """The type of a value that a file cannot hold and that has no name, a lambda or a tensor: equal to no other."""


def _texts(name: str, value: object) -> str | tuple[str, ...]:
    found = as_texts(name, value)
    return value if isinstance(value, str) else found


def _seeds(name: str, value: object) -> tuple[int, ...]:
    several = isinstance(plain(value), Iterable) and not isinstance(value, str)
    return tuple(CHECKS["seed"](name, seed) for seed in (value if several else [value]))


def _flag(name: str, value: object) -> bool:
    if not isinstance(plain(value), bool):
        raise TypeError(f"{name} must be True or False, not {value!r}.")
    return plain(value)


def _tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch tensor, not {type(value).__name__}; torch.as_tensor makes one.")
    if not torch.isfinite(value).all():
        raise ValueError(f"{name} holds values that are not finite; look where they come from before the run.")
    return value


def _guidance_scale(name: str, value: object) -> GuidanceScale:
    if isinstance(value, dict) and value.keys() == interval.__dataclass_fields__.keys():  # as a picture carries it
        return interval(**value)
    return value if callable(value) else number(name, value, low=-math.inf)


# What brings a value into shape, or raises an error that names it; None passes where it is the default.
CHECKS: dict[str, Callable[[str, object], object]] = {
    **dict.fromkeys(("prompt", "negative_prompt"), _texts),
    "seed": lambda name, value: whole_number("A seed", value, 0, 2**63 - 1),
    "seeds": _seeds,
    **dict.fromkeys(("num_inference_steps", "height", "width"), partial(whole_number, low=1)),
    **dict.fromkeys(("start_step", "clip_skip"), partial(whole_number, low=0)),
    "guidance_scale": _guidance_scale,
    **dict.fromkeys(("guidance_rescale", "eta"), partial(number, high=1)),
    "sampler": lambda name, value: get_sampler(value),
    "spacing": partial(choice, names=SPACINGS),
    **dict.fromkeys(("long_prompt", "prompt_weights", "progress"), _flag),
    **dict.fromkeys(("latents", "image_latents", "mask", "unet_channels"), _tensor),
    **dict.fromkeys(("prompt_embeds", "negative_prompt_embeds"), _tensor),
}


def _written(value: object) -> object:
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, interval | Sampler):
        return value.name if isinstance(value, Sampler) else asdict(value)
    if isinstance(value, FunctionType) and "<" not in value.__qualname__:  # neither a lambda nor a closure
        return f"{value.__module__}.{value.__qualname__}"
    return Kind(type(value).__name__)


class Batch:
    """The pictures of one call: how many, from which seeds, and what each remembers of how it was drawn."""

    def __init__(self, asked: Settings, generator: Generators = None, **lists: Sequence):
        """lists: what else there is one of for each picture, by the name that an error shall give it."""
        if generator is not None and (asked.seed is not None or asked.seeds is not None):
            raise ValueError("Give either seeds or a generator, not both.")
        one = not isinstance(generator, Sequence)
        lists |= {} if one else {"generator": generator}
        self.size = n = _agreed(dict(**asked) | lists)
        self.many = n > 1 or asked.seeds is not None or not (asked.prompt is None or isinstance(asked.prompt, str))
        # Without a seed one is drawn and recorded, so that a lucky picture can be drawn again.
        seeds = asked.seeds or ([secrets.randbelow(2**32) for _ in range(n)] if asked.seed is None else asked.seed)
        self.seeds = each(seeds, n)
        self.generators = generator or [torch.Generator("cpu").manual_seed(seed) for seed in self.seeds]
        for g in [generator] if one else generator:
            if g is not None and (not isinstance(g, torch.Generator) or g.device.type != "cpu"):
                raise TypeError(f"generator must be torch.Generator('cpu'), or one for each picture, not {g!r}.")
        texts = zip(each(asked.prompt, n), each(asked.negative_prompt, n), self.seeds, strict=True)
        self.settings = [replace(asked, prompt=p, negative_prompt=neg, seed=s, seeds=None) for p, neg, s in texts]

    def sign(self, sd, images: list[Image.Image], **further) -> Image.Image | list[Image.Image]:
        """Put into each picture the settings that draw it again; one picture alone comes without its list."""
        for image, settings in zip(images, self.settings, strict=True):
            drawn = settings.by(sd).written() | {"width": image.width, "height": image.height}
            image.info[SETTINGS_KEY] = json.dumps(drawn | further)
        return images if self.many else images[0]


def each(value, n: int) -> list:
    """One for each of n pictures: a list of n as it is, anything single n times."""
    single = isinstance(value, str) or not isinstance(value, Iterable)
    values = [value] if single else list(value)
    return values * n if len(values) == 1 else values


def _agreed(given: dict[str, object]) -> int:
    """The batch size that all lists and tensors agree on; what is single goes along with the others."""
    counts = {name: len(g) for name, g in given.items() if isinstance(g, tuple | list) or getattr(g, "ndim", 0)}
    for name, count in counts.items():
        if count == 0:
            raise ValueError(f"The list of {name} is empty; give at least one.")
    several = {name: count for name, count in counts.items() if count > 1}
    if len(set(several.values())) > 1:
        found = ", ".join(f"{count} of {name}" for name, count in several.items())
        raise ValueError(f"The batch does not fit together: {found}; give equal numbers, or one for all.")
    return max(several.values(), default=1)
