"""How large things are: a model's parts to scale, and bars of what adds up."""

import math
from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from . import paper
from .paper import COLOURS, DPI, GREY, PT, WIDTH


@paper.house_style
def to_scale(models: Mapping, pictures: Mapping | None = None, *, title=None) -> Figure:
    """Models to scale, a row each: every part is a square with as much area as it has numbers, and at the end the
    picture with as much as it has pixels.

    models: name -> {part: how many numbers}, the same parts in each. pictures: name -> a picture, or the (width,
    height) of one that is not there.
    """
    paper.something(models, "model")
    columns = list(next(iter(models.values())))
    for name, row in models.items():
        if list(row) != columns:
            raise ValueError(f"Every model needs the same parts: {', '.join(columns)}; not {', '.join(row)} ({name}).")
    pictures = pictures or {}
    shown = {name: p if isinstance(p, tuple) else paper.picture(p).size for name, p in pictures.items()}
    left, gap, line = 78 * PT, 20 * PT, 14 * PT
    room = WIDTH * DPI - left - gap * (len(columns) + bool(shown))
    sides = {part: max(math.sqrt(row[part]) for row in models.values()) for part in columns}
    largest = max((max(size) for size in shown.values()), default=0)
    share = 0.72 if shown else 1.0  # of the width, for the parts
    least = 62 * PT  # for the words under a square
    scale = share * room / sum(sides.values())
    while sum(max(least, scale * side) for side in sides.values()) > share * room:
        scale *= 0.98
    widths = [max(least, scale * sides[part]) for part in columns]
    pixel = (1 - share) * room / largest if shown else 0
    heights = [
        max([scale * math.sqrt(max(row.values())), pixel * shown[name][1] if name in shown else 0])
        for name, row in models.items()
    ]
    head = (24 * PT if title else 0) + 26 * PT
    fig = paper.canvas(WIDTH * DPI - 1, head + sum(heights) + len(models) * (2.9 * line), title)
    w, h = fig.get_size_inches() * DPI
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, w), ylim=(h, 0))
    ax.axis("off")
    beside = {"fontsize": 10.5, "parse_math": False, "va": "center"}
    y = head
    for k, (name, row) in enumerate(models.items()):
        x, bottom = left, y + heights[k]
        ax.text(left - 12 * PT, bottom - line / 2, paper.wrap(name, 10.5, 66 * PT, bold=True), ha="right",
                fontweight="bold", **beside | {"va": "bottom"})  # fmt: skip
        for part, width, colour in zip(columns, widths, COLOURS, strict=False):
            side = scale * math.sqrt(row[part])
            ax.add_patch(Rectangle((x + (width - side) / 2, bottom - side), side, side, color=colour, linewidth=0))
            ax.text(x + width / 2, bottom + 0.75 * line, _count(row[part]), ha="center", **beside)
            if k == 0:
                ax.text(x + width / 2, head - 13 * PT, part, ha="center", color=paper.ink(colour), **beside)
            x += width + gap
        if name in shown:
            across, down = (pixel * side for side in shown[name])
            middle = x + (1 - share) * room / 2
            place = (middle - across / 2, middle + across / 2, bottom, bottom - down)
            if not isinstance(pictures[name], tuple):
                ax.imshow(paper.picture(pictures[name]), extent=place, aspect="auto", interpolation="antialiased")
                ax.set(xlim=(0, w), ylim=(h, 0))
            ax.add_patch(Rectangle((place[0], place[3]), across, down, fill=False, edgecolor=GREY, linewidth=0.8))
            words = "{} × {}".format(*shown[name])
            ax.text(middle, bottom + 0.75 * line, words, ha="center", **beside)
            if k == 0:
                ax.text(middle, head - 13 * PT, "picture, pixels", ha="center", color=GREY, **beside)
        y = bottom + 2.9 * line
    said = (f"{name}: {', '.join(f'{part} {_count(n)}' for part, n in row.items())}" for name, row in models.items())
    return paper.titled(fig, None, f"{title or 'Parts to scale'}; {'; '.join(said)}")


@paper.house_style
def bars(rows: Mapping, *, xlabel, marks: Mapping | None = None, form: str = ".1f", title=None) -> Figure:
    """What adds up: a bar for each row, its pieces end to end, and the sum behind it.

    rows: name -> {piece: amount}; a piece has one colour wherever it stands. marks: name -> an amount to compare with,
    a dashed line from top to bottom. form: of the sums.
    """
    paper.something(rows, "bar")
    pieces = list(dict.fromkeys(piece for row in rows.values() for piece in row))
    sums = {name: sum(paper.numbers(list(row.values()), name)) for name, row in rows.items()}
    top = max([*sums.values(), *(marks or {}).values()])
    fig, ax = paper.chart(WIDTH, 0.4 * len(rows) + 1.5 + 0.2 * bool(marks))
    for piece, colour in zip(pieces, COLOURS, strict=False):
        starts = [sum(v for p, v in row.items() if pieces.index(p) < pieces.index(piece)) for row in rows.values()]
        amounts = [row.get(piece, 0) for row in rows.values()]
        ax.barh(range(len(rows)), amounts, left=starts, color=colour, height=0.66, label=str(piece))
    for k, total in enumerate(sums.values()):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        ax.annotate(format(total, form), (total, k), xytext=(5, 0), textcoords="offset points", va="center", bbox=box)
    for name, place in (marks or {}).items():
        ax.axvline(place, color=GREY, linewidth=1.3, linestyle=(0, (4, 3)), zorder=0)
        ax.annotate(name, (place, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                    ha="center", color=GREY, parse_math=False)  # fmt: skip
    ax.set_yticks(range(len(rows)), [str(name) for name in rows], parse_math=False)
    ax.set(xlabel=xlabel, xlim=(0, 1.1 * top), ylim=(len(rows) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    if len(pieces) > 1:
        fig.legend(loc="outside lower center", ncols=min(5, len(pieces)), frameon=False, fontsize=10.5)
    said = "; ".join(
        f"{name} {total:{form}} ({', '.join(f'{p} {v:{form}}' for p, v in rows[name].items())})"
        for name, total in sums.items()
    )
    return paper.titled(fig, title, f"{xlabel}: {said}")


def _count(n: int) -> str:
    return f"{n / 1e6:.1f} M" if n >= 1e5 else f"{n / 1e3:.1f} k" if n >= 1e3 else str(n)
