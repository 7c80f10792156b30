"""What a network learns, seen: points in a plane, a matrix as the product of two thin ones, what lies around a mean."""

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from . import paper
from .paper import BLACK, COLOURS, DPI, GREY, PALE, PT, SIGNED, SKY, WIDTH

WINDOW = 2.6  # half a side of what is shown of the plane


@paper.house_style
def planes(panels: Mapping, *, behind=None, notes=None, colours=None, columns: int | None = None, title=None) -> Figure:
    """Points in the plane, a panel for each entry; points outside the window are drawn at its edge, as crosses.

    panels: caption -> (N, 2). behind: (M, 2), grey in every panel. notes: a line under each panel. colours: the number
    of each panel's colour; by default each has its own.
    """
    count = paper.something(panels, "panel")
    columns = columns or min(count, 4)
    rows = -(-count // columns)
    side = WIDTH / columns
    fig, axes = paper.chart(WIDTH, (side + 0.25 + 0.4 * bool(notes)) * rows + 0.4 * bool(title), rows, columns)
    axes = np.ravel(axes)
    for k, (ax, (name, points)) in enumerate(zip(axes, panels.items(), strict=False)):
        x = paper.numbers(points, name)
        colour = COLOURS[(colours[k] if colours is not None else k) % len(COLOURS)]
        if behind is not None:
            ax.plot(*paper.numbers(behind, "points behind").T, ".", color="#dcdcdc", markersize=4, zorder=0)
        near = (np.abs(x) <= WINDOW).all(1)
        ax.plot(*x[near].T, "o", color=colour, markersize=2.6, markeredgewidth=0, alpha=0.8)
        ax.plot(*np.clip(x[~near], -WINDOW, WINDOW).T, "x", color=colour, markersize=4, markeredgewidth=0.8)
        reach = 1.04 * WINDOW
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
        ax.grid(False)
        for spine in ax.spines.values():
            spine.set(visible=True, color=PALE)
        room = side * DPI - 20 * PT  # and large letters: as a scrubber's frame it is shown smaller than a figure
        ax.set_title(paper.wrap(name, 13, room), fontsize=13, parse_math=False)
        if notes is not None:
            ax.set_xlabel(paper.wrap(notes[k], 12.5, room), parse_math=False, fontsize=12.5)
    for ax in axes[count:]:
        ax.remove()
    said = [f"{name} ({notes[k]})" if notes is not None else str(name) for k, name in enumerate(panels)]
    return paper.titled(fig, title, f"points in the plane: {', '.join(said)}")


@paper.house_style
def product(b, a, beside=None, *, names=("B", "A", "B A", "W"), title=None) -> Figure:
    """Two thin matrices to scale with what they make: b (m, r) times a (r, n), their product (m, n), and another matrix
    (m, n) beside it. Orange and purple are the signs; each matrix has a scale of its own.

    names: of the four.
    """
    tall, flat = (paper.numbers(part, "matrix") for part in (b, a))
    if tall.ndim != 2 or flat.ndim != 2 or tall.shape[1] != flat.shape[0]:
        raise ValueError(f"b (m, r) and a (r, n) must fit together, not {tall.shape} and {flat.shape}.")
    both = tall @ flat
    shown = [tall, flat, both, *([] if beside is None else [paper.numbers(beside, "matrix")])]
    for other in shown[3:]:
        paper.same_shape(other, both)
    signs, gap, margin = ["×", "=", "   "], 36 * PT, 40 * PT
    wide = sum(m.shape[1] for m in shown)
    scale = (WIDTH * DPI - 2 * margin - gap * (len(shown) - 1)) / wide
    tallest = scale * max(len(m) for m in shown)
    head, foot = 26 * PT * bool(title) + 22 * PT, 40 * PT
    fig = paper.canvas(WIDTH * DPI - 1, head + tallest + foot, title)
    w, h = fig.get_size_inches() * DPI
    x, said = margin, []
    for k, m in enumerate(shown):
        width, height = scale * m.shape[1], scale * m.shape[0]
        top = head + (tallest - height) / 2
        ax = fig.add_axes((x / w, 1 - (top + height) / h, width / w, height / h))
        largest = np.quantile(np.abs(m), 0.995) or 1.0
        ax.imshow(m, cmap=SIGNED, norm=Normalize(-largest, largest), interpolation="nearest", aspect="auto")
        ax.axis("off")
        border = {"fill": False, "color": PALE, "linewidth": 1, "clip_on": False}
        ax.add_patch(Rectangle((0, 0), 1, 1, transform=ax.transAxes, **border))
        size = f"{m.shape[0]} × {m.shape[1]}"
        fig.text((x + width / 2) / w, 1 - (top - 6 * PT) / h, names[k], ha="center", va="bottom", fontweight="bold",
                 parse_math=False)  # fmt: skip
        rank = np.linalg.matrix_rank(m, tol=1e-5 * np.abs(m).max() * max(m.shape))
        below = f"{size}\n{m.size:,} numbers" if k != 2 else f"{size}\nrank {rank}"
        put = {"ha": "center", "va": "top", "fontsize": 9.5, "color": GREY, "linespacing": 1.35}
        fig.text((x + width / 2) / w, 1 - (top + height + 5 * PT) / h, below, **put)
        if k + 1 < len(shown):
            middle = (x + width + gap / 2) / w, 1 - (head + tallest / 2) / h
            fig.text(*middle, signs[k], ha="center", va="center", fontsize=16)
        said.append(f"{names[k]} {size}")
        x += width + gap
    return paper.titled(fig, None, f"{title or 'A product'}: {', '.join(said)}")


@paper.house_style
def spread(values, marks: Mapping, *, xlabel, title=None) -> Figure:
    """How numbers are spread, with named places among them. marks: name -> place, or None to draw none."""
    v = paper.numbers(values, "values").ravel()
    fig, ax = paper.chart(WIDTH, 3.4)
    low, high = np.quantile(v, [0.001, 0.999])
    low, high = min(low, *marks.values()), max(high, *marks.values())
    ax.hist(np.clip(v, low, high), np.linspace(low, high, 70), density=True, color=SKY)
    top = 1.1 * ax.get_ylim()[1]
    for k, (name, place) in enumerate(sorted(marks.items(), key=lambda mark: mark[1])):
        colour = (*COLOURS[1:3], BLACK)[k % 3]
        ax.plot([place, place], [0, top * (1 + 0.11 * k)], color=colour, linewidth=1.8)
        beside = {"xytext": (-5, 0), "ha": "right"} if k == 0 else {"xytext": (5, 0), "ha": "left"}
        ax.annotate(name, (place, top * (1 + 0.11 * k)), textcoords="offset points", va="top",
                    color=paper.ink(colour), fontweight="bold", parse_math=False, **beside)  # fmt: skip
    ax.set(xlabel=xlabel, yticks=[], xlim=(low, high), ylim=(0, top * (1 + 0.11 * len(marks))))
    ax.grid(False)
    said = ", ".join(f"{name} at {place:.3g}" for name, place in marks.items())
    return paper.titled(fig, title, f"{xlabel}: {said}")
