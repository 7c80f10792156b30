"""Guidance as geometry: a field of two prompts in the plane, and the straight line through two real predictions."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Circle

from . import paper
from .paper import BLACK, BLUE, DPI, GREEN, GREY, PALE, VERMILION, WIDTH, Picture

WINDOW = 3.4  # half a side of what is shown of the plane
PLANE = 5.6  # inches: the height of the figure of a line
DRAWN = 30  # of the ways; every end is drawn


def guided_flow(runs: Mapping, clouds: Mapping, arrows: Mapping | None = None) -> list[Figure]:
    """Points that flow down a guided field from noise to "pictures", a figure for each guidance scale.

    runs: scale -> (steps, N, 2), the way of N points. clouds: prompt -> (centre (2,), standard deviation), the wanted
    one first: where the pictures are. arrows: scale -> (places (M, 2), directions (M, 2)) of the field at one level.
    Beside each plane stands what is bought and what is paid, over all scales: the share of points that end nearest to
    the wanted cloud's centre, and the mean distance between two of them, as a share of the first scale's.
    """
    paper.something(runs, "run")
    paths = {scale: paper.numbers(path, f"run at scale {scale:g}") for scale, path in runs.items()}
    wanted, apart = zip(*(flow_measures(path[-1], clouds) for path in paths.values()), strict=True)
    apart = [value / apart[0] for value in apart]
    return [
        _flow(scale, path, clouds, (arrows or {}).get(scale), list(paths), (wanted, apart))
        for scale, path in paths.items()
    ]


def flow_measures(ends, clouds: Mapping) -> tuple[float, float]:
    """Of end points (N, 2): the share nearest to the first cloud's centre, and the mean distance of two of them."""
    ends = paper.numbers(ends, "end points")
    centres = np.stack([paper.numbers(centre, "centre") for centre, _ in clouds.values()])
    nearest = np.linalg.norm(ends[:, None] - centres, axis=-1).argmin(axis=1)
    between = np.linalg.norm(ends[:, None] - ends, axis=-1)
    return float((nearest == 0).mean()), float(between.sum() / (len(ends) * (len(ends) - 1)))


@paper.house_style
def _flow(scale, path, clouds, arrows, scales, measured) -> Figure:
    fig, axes = paper.chart(WIDTH, 4.1, 1, 2, width_ratios=[1.05, 1])
    fig.set_dpi(120)  # a frame of a scrubber, which is shown smaller than a figure
    plane, gain = axes.flat
    plane.set(xlim=(-WINDOW, WINDOW), ylim=(-WINDOW, WINDOW), aspect="equal", xticks=[], yticks=[])
    plane.grid(False)
    for spine in plane.spines.values():
        spine.set(visible=True, color=PALE)
    corners = ((0.03, 0.03, "left", "bottom"), (0.97, 0.97, "right", "top"))
    behind = {"boxstyle": "square,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    for (name, (centre, spread)), colour, corner in zip(clouds.items(), (BLUE, VERMILION), corners, strict=True):
        x, y = paper.numbers(centre, "centre")
        left, low, ha, va = corner
        plane.text(left, low, name, color=paper.ink(colour), transform=plane.transAxes, ha=ha, va=va, bbox=behind,
                   fontweight="bold", parse_math=False, zorder=5)  # fmt: skip
        for reach in (1, 2):
            plane.add_patch(Circle((x, y), reach * spread, facecolor=colour, alpha=0.13, linewidth=0, zorder=0))
    if arrows:
        places, directions = (paper.numbers(a, "arrows") for a in arrows)
        size = np.linalg.norm(directions, axis=1, keepdims=True)
        unit = directions / np.where(size > 0, size, 1)
        plane.quiver(*places.T, *unit.T, color="#9a9a9a", width=0.004, scale=22, pivot="mid", zorder=1)
    for k in range(min(path.shape[1], DRAWN)):
        plane.plot(*path[:, k].T, color=BLACK, linewidth=0.7, alpha=0.28, zorder=2)
    plane.plot(*path[-1].T, "o", color=BLACK, markersize=3.5, zorder=3)
    plane.set_title(f"scale {scale:g}")
    wanted, apart = measured
    gain.plot(scales, wanted, "o-", color=GREEN, markersize=5)
    gain.plot(scales, apart, "s-", color=VERMILION, markersize=5)
    gain.axvline(scale, color=GREY, linewidth=1.2, linestyle=(0, (4, 3)))
    gain.set(xlabel="guidance scale", ylim=(0, 1.15))
    put = {"transform": gain.transAxes, "ha": "right", "va": "top", "fontweight": "bold", "bbox": behind}
    gain.text(0.97, 0.98, "share that obeys", color=paper.ink(GREEN), **put)
    gain.text(
        0.97, 0.2, "distance between two points,\nas a share of the first scale's", color=paper.ink(VERMILION), **put
    )
    obeys = wanted[scales.index(scale)]
    return paper.titled(fig, None, f"guidance scale {scale:g}: {obeys:.0%} of the points end with the prompt")


@paper.house_style
def guidance_plane(uncond, cond, scales: Sequence[float], images=None, *, title=None) -> Figure:
    """The straight line through two predictions, to scale, in the plane that holds both and the point "no noise".

    uncond, cond: of one picture, any shape. scales: where to put points on the line. images: the picture that each of
    these points stands for, shown beside the plane. The arc has the length that unit noise has.
    """
    u, c = (paper.numbers(p, "prediction").ravel() for p in (uncond, cond))
    paper.same_shape(u, c)
    paper.something(scales, "scale")
    unit = math.sqrt(len(u))
    step = np.linalg.norm(c - u) / unit
    start = u @ (c - u) / (np.linalg.norm(c - u) or 1.0) / unit
    height = math.sqrt(max(0.0, (u @ u) / unit**2 - start**2))
    fig = Picture(figsize=(WIDTH, PLANE), dpi=DPI)
    x = [start + scale * step for scale in scales]
    right = max(1.0, *x) + 0.12
    low = min(-0.16, *x) - 0.08
    box = (0.015, 0.02, 0.56, 0.87)
    ax = fig.add_axes(box, xlim=(low, right), ylim=(-0.09, height + 0.22), aspect="equal", anchor="W")
    ax.axis("off")
    ax.add_patch(Arc((0, 0), 2, 2, theta1=28, theta2=100, color=GREY, linestyle=(0, (4, 3)), linewidth=1.2))
    beside = {"textcoords": "offset points", "fontsize": 10}
    ax.plot([min(start, *x) - 0.05, max(start + step, *x) + 0.05], [height, height], color=BLACK, linewidth=1.2)
    for end, colour in ((start, VERMILION), (start + step, BLUE)):
        paint = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", (end, height), (0, 0), arrowprops=paint)
    ax.plot([0], [0], "o", color=BLACK, markersize=5)
    ax.annotate("no noise", (0, 0), xytext=(8, -2), textcoords="offset points", ha="left", va="center")
    last = -math.inf
    for place, scale in zip(x, scales, strict=True):
        colour = {0: VERMILION, 1: BLUE}.get(scale, BLACK)
        ax.plot([place], [height], "o", color=colour, markersize=7, zorder=4)
        if place - last > 0.045 * (right - low):
            ax.annotate(f"{scale:g}", (place, height), xytext=(0, 8), ha="center", va="bottom", fontweight="bold",
                        color=paper.ink(colour), **beside)  # fmt: skip
            last = place
    legend = {
        "unconditional (scale 0)": VERMILION,
        "conditional (scale 1)": BLUE,
        "dashes: as long as unit noise": GREY,
    }
    for k, (words, colour) in enumerate(legend.items()):
        fig.text(0.27, 0.2 - 0.04 * k, words, color=paper.ink(colour), fontweight="bold")
    pictures = [] if images is None else [paper.picture(image) for image in images]
    if pictures:
        paper.same_number(pictures, len(scales), "images", "scales")
        columns, cell = 2, int(1.35 * DPI)
        rows = math.ceil(len(pictures) / columns)
        cell = min(cell, int((PLANE - 0.55) / rows * DPI - 42))
        width, tall = fig.get_size_inches() * DPI
        for k, (image, scale) in enumerate(zip(pictures, scales, strict=True)):
            image = paper.enlarged(image, cell)
            left = int(0.6 * width + (k % columns) * (cell + 30))
            top = int(0.55 * DPI + (k // columns) * (cell + 40))
            place = (left / width, 1 - (top + image.height) / tall, image.width / width, image.height / tall)
            small = fig.add_axes(place, xticks=[], yticks=[])
            small.imshow(np.asarray(image), interpolation="none", aspect="auto")
            small.grid(False)
            for spine in small.spines.values():
                spine.set(visible=True, color=PALE, linewidth=0.5)
            small.text(0.5, -0.03, f"scale {scale:g}", transform=small.transAxes, ha="center", va="top", fontsize=10)
    title = title or "Guidance: the straight line through two predictions, to scale"
    fig.text(0.01, 0.985, title, va="top", fontsize=12.5, fontweight="bold")
    fig.alt = f"{title}: points at the scales {', '.join(f'{scale:g}' for scale in scales)}"
    return fig
