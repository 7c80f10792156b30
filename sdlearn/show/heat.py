"""Heat maps over pictures: where a word is heard, and how loud."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from . import paper
from .paper import AMOUNT, BLUE, WIDTH
from .sheets import grid


def overlay(image, heat, *, top: float | None = None, smooth: bool = True) -> Image.Image:
    """A heat map (h, w) of any size in colour, from dark blue to yellow, shaded by the picture under it.

    top: the amount that is yellow, where 0 is blue; None for the map's own smallest and largest. smooth: False shows
    the map's own pixels.
    """
    picture, values = paper.picture(image), paper.numbers(heat, "heat map")
    if values.ndim != 2:
        raise ValueError(f"A heat map has two dimensions, height and width, not shape {values.shape}.")
    low, high = (values.min(), values.max()) if top is None else (0.0, top)
    values = Image.fromarray(np.float32((values - low) / (high - low or 1)))
    way = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    colour = colormaps[AMOUNT](np.clip(np.asarray(values.resize(picture.size, way)), 0, 1))[..., :3]
    shade = np.asarray(picture.convert("L"), dtype=float)[..., None] / 255
    return Image.fromarray(np.uint8(255 * colour * (0.6 + 0.4 * shade) + 0.5))


def heat_maps(image, maps: Mapping, *, top=None, smooth: bool = True, columns=None, title=None) -> Figure:
    """A picture, and over it a heat map for each word, with its smallest and its largest amount.

    maps: word -> (h, w). top: one amount that is yellow in all of them; None gives each a scale of its own.
    """
    paper.something(maps, "heat map")
    values = {word: paper.numbers(heat, f"heat map of {word!r}") for word, heat in maps.items()}
    shown = [overlay(image, heat, top=top, smooth=smooth) for heat in values.values()]
    captions = [f"{word}: {100 * heat.min():.0f}–{heat.max():.0%}" for word, heat in values.items()]
    return grid([image, *shown], ["the picture", *captions], columns=columns, title=title)


@paper.house_style
def amounts(names: Sequence[str], values, *, xlabel, title=None) -> Figure:
    """A bar for each name, from the first down, with its share in percent. values: as many, from 0 to 1."""
    values = paper.numbers(values, "amounts").ravel()
    paper.same_number(names, len(values), "names", "amounts")
    fig, ax = paper.chart(WIDTH, 0.27 * len(values) + 0.9)
    ax.barh(range(len(values)), values, color=BLUE)
    for k, value in enumerate(values):
        ax.annotate(f"{value:.1%}", (value, k), xytext=(4, 0), textcoords="offset points", va="center", fontsize=10)
    ax.set_yticks(range(len(values)), [str(name) for name in names], parse_math=False)
    ax.set(xlabel=xlabel, xlim=(0, 1.12 * values.max()), ylim=(len(values) - 0.4, -0.6))
    ax.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.grid(False)
    said = ", ".join(f"{name} {value:.1%}" for name, value in zip(names, values, strict=True))
    return paper.titled(fig, title, f"{xlabel}: {said}")
