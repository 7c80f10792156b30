"""Sheets of pictures at whole-pixel places: contact sheets, trajectories, latents, guidance as maps."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from .. import pictures
from . import paper
from .paper import DPI, PALE, PT, SIGNED, WIDTH, Picture, picture


@paper.house_style
def grid(images, captions=None, *, columns=None, row_labels=None, column_labels=None, title=None) -> Figure:
    """A contact sheet.

    images: a sequence of pictures, or a sequence of rows of pictures.
    captions: one for each picture, in reading order. columns: how many side by side; by default what looks best.
    row_labels, column_labels: one for each row and column.
    """
    rows = _rows(images, columns)
    if captions is not None:
        captions = list(captions)
        paper.same_number(captions, sum(map(len, rows)), "captions", "pictures")
    return _sheet(rows, captions, row_labels, column_labels, title)


def strip(rows: Mapping, labels=None, *, title=None, at_most: int = 7) -> Figure:
    """A trajectory: one row of pictures for each entry of `rows`, such as {"x_t": [...], "x_0": [...]}, first to last.

    labels: one for each column, such as "t = 981". Of a longer trajectory, `at_most` evenly spaced columns are shown,
    always with the first and the last.
    """
    if not isinstance(rows, Mapping):
        raise TypeError('strip needs a dict of rows, such as {"x_t": pictures, "x_0": pictures}.')
    lists = [list(row) for row in rows.values()]
    length = paper.something(lists and lists[0], "picture")
    for name, row in zip(rows, lists, strict=True):
        paper.same_number(row, length, f"pictures in row {name!r}", "pictures in the first row")
    if labels is not None:
        paper.same_number(labels, length, "labels", "columns")
    shown = sorted({round(k) for k in np.linspace(0, length - 1, min(at_most, length))})
    labels = None if labels is None else [labels[k] for k in shown]
    thinned = [[row[k] for k in shown] for row in lists]
    return grid(thinned, row_labels=list(rows), column_labels=labels, title=title)


def difference(a, b, *, magnify: float = 8, labels=("before", "after"), title=None) -> Figure:
    """Two pictures and their absolute difference, magnified: black where they agree. The title gives the PSNR."""
    x, y = paper.unit(a), paper.unit(b)
    paper.same_shape(x, y)
    gap = Image.fromarray(np.uint8(np.clip(np.abs(x - y) * magnify, 0, 1) * 255 + 0.5))
    title = title or f"Where they differ: PSNR {psnr(a, b):.1f} dB"
    return grid([a, b, gap], [*labels, f"|difference| × {magnify:g}"], title=title)


def psnr(a, b) -> float:
    """Peak signal-to-noise ratio of two pictures in dB, 10 log10(peak^2 / mean squared error); infinite if equal.

    Tensors are measured as they are, unrounded; the peak is the whole range, 2 for [-1, 1] and 255 for 8 bits.
    """
    x, y = paper.unit(a), paper.unit(b)
    paper.same_shape(x, y)
    return pictures.psnr(*(torch.from_numpy(2 * v - 1).permute(2, 0, 1)[None] for v in (x, y))).item()


def distance(images, others) -> float:
    """How far pictures are from others: the root mean square difference, 0 (equal) to 1, averaged over the pairs.

    images, others: two pictures, or two sequences of as many.
    """
    if isinstance(images, pictures.Picture) or np.ndim(images) == 3:
        images, others = [images], [others]
    paper.same_number(others, paper.something(images, "picture"), "pictures", "pictures to compare with")
    return sum(10 ** (-psnr(a, b) / 20) for a, b in zip(images, others, strict=True)) / len(images)


def edge_colour(image) -> tuple[float, float, float]:
    """The mean red, green and blue, 0 to 255, of a picture's upper edge: there a centred subject leaves background."""
    x = paper.unit(image)
    red, green, blue = 255 * x[: max(1, len(x) // 16)].mean(axis=(0, 1))
    return float(red), float(green), float(blue)


def overlap(a, b) -> float:
    """How much of their outlines two pictures of one size share: area in common over area of both, 0 to 1.

    The background is what is like the upper left corner and connected with it.
    """
    paper.same_shape(paper.unit(a), paper.unit(b))
    a, b = (_outlined(paper.unit(x)) for x in (a, b))
    return float((a & b).sum() / max(1, (a | b).sum()))


def _outlined(x: np.ndarray) -> np.ndarray:
    unlike = np.abs(x - x[:1, :1]).max(axis=2) > 0.15
    filled = Image.fromarray(np.uint8(unlike) * 255).copy()  # or it could not be written to
    ImageDraw.floodfill(filled, (0, 0), 128)
    return np.asarray(filled) != 128


@paper.house_style
def latent_channels(latents, *, image=None, captions=None, title=None) -> Figure:
    """The channels of latents (C, h, w) or (B, C, h, w) as maps on one scale: orange is below zero, purple above.

    image: the picture they stand for, shown first (one for each of B). captions: one for each of B.
    """
    x = paper.numbers(latents, "latents")
    if x.ndim not in (3, 4):
        raise ValueError(f"Latents have shape (C, h, w) or (B, C, h, w), not {x.shape}.")
    x = x.reshape(-1, *x.shape[-3:])
    top = paper.scale(x)
    rows = [[_coloured(channel, top) for channel in one] for one in x]
    names = [f"channel {c}" for c in range(x.shape[1])]
    if image is not None:
        one = isinstance(image, pictures.Picture) or (len(x) == 1 and np.ndim(image) == 3)
        images = [image] if one else list(image)
        paper.same_number(images, len(rows), "images", "latents")
        rows = [[picture(i), *row] for i, row in zip(images, rows, strict=True)]
        names = ["picture", *names]
    title = title or f"{x.shape[1]} latent channels of {x.shape[2]} × {x.shape[3]}, on one scale"
    return _sheet(rows, None, captions, names, title, bars={-1: top})


@paper.house_style
def guidance(uncond, cond, guidance_scale: float, *, title=None) -> Figure:
    """Classifier-free guidance as maps: the two predictions, their difference, and uncond + scale * (cond - uncond).

    uncond, cond: (C, h, w) or (1, C, h, w); a row for each channel. The small difference has a scale of its own.
    """
    u, c = (paper.numbers(p, "prediction") for p in (uncond, cond))
    paper.same_shape(u, c)
    if u.ndim not in (3, 4) or (u.ndim == 4 and len(u) != 1):
        raise ValueError(f"Predictions for one picture have shape (C, h, w) or (1, C, h, w), not {u.shape}.")
    u, c = (p.reshape(p.shape[-3:]) for p in (u, c))
    gap, guided = c - u, u + guidance_scale * (c - u)
    top, small = paper.scale(np.stack([u, c, guided])), paper.scale(gap)
    rows = [
        [_coloured(m, t) for m, t in zip(maps, (top, top, small, top), strict=True)]
        for maps in zip(u, c, gap, guided, strict=True)
    ]
    names = ["unconditional", "conditional", "difference", f"uncond + {guidance_scale:g} × difference"]
    title = title or "Guidance walks on along the difference between two predictions"
    return _sheet(rows, None, [f"channel {k}" for k in range(len(u))], names, title, bars={2: small, 3: top})


def _rows(images, columns) -> list[list[Image.Image]]:
    alone = isinstance(images, pictures.Picture) or (hasattr(images, "shape") and np.ndim(images) == 3)
    images = [images] if alone else list(images)
    count = paper.something(images, "picture")
    if isinstance(images[0], (list, tuple)) or getattr(images[0], "ndim", 0) == 4:
        rows = [[picture(i) for i in row] for row in images]
        if columns is not None:
            raise ValueError("Rows of pictures already say how many columns there are; leave out columns.")
        if not all(rows):
            raise ValueError("A row of pictures is empty; give each row at least one.")
        return rows
    if columns is None:  # one row while pictures stay large enough to see, then nearly square
        columns = count if count <= 5 else math.ceil(count / 2) if count <= 10 else min(6, math.ceil(math.sqrt(count)))
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}.")
    return [[picture(i) for i in images[k : k + columns]] for k in range(0, len(images), columns)]


def _coloured(values: np.ndarray, top: float) -> Image.Image:
    return Image.fromarray(colormaps[SIGNED](Normalize(-top, top)(values), bytes=True)[..., :3])


def _sheet(rows, captions, row_labels, column_labels, title, bars=None) -> Picture:
    """Pictures at whole-pixel places. bars: column -> the largest magnitude, for a scale under that column."""
    columns = max(map(len, rows))
    if row_labels is not None:
        paper.same_number(row_labels, len(rows), "row labels", "rows")
    if column_labels is not None:
        paper.same_number(column_labels, columns, "column labels", "columns")
    margin, gap, line = 8 * PT, 6 * PT, 13 * PT
    sides = [paper.wrap(s, 10.5, 1.25 * DPI) for s in row_labels] if row_labels else []
    left = margin + (max(paper.text_width(t, 10.5) for s in sides for t in s.split("\n")) + 8 * PT if sides else 0)
    room = int((WIDTH * DPI - left - margin - gap * (columns - 1)) / columns)
    # The largest picture sets the cell: small ones grow by a whole factor, to 2.2 inches or in a tall sheet to 1.5,
    # large ones shrink to fit.
    limit = min(room, (2.2 if len(rows) <= 2 else 1.5) * DPI)
    widest = max((p for row in rows for p in row), key=lambda p: p.width)
    cell = int(max(1, limit // widest.width) * widest.width if widest.width <= room else room)

    captions = iter(captions or [""] * sum(map(len, rows)))
    under = [[paper.wrap(next(captions), 10, cell + gap - 2 * PT) for _ in row] for row in rows]
    over = [paper.wrap(s, 10.5, cell + gap - 2 * PT) for s in column_labels] if column_labels else []
    drawn = [[paper.enlarged(p, cell) for p in row] for row in rows]
    heads = max((t.count("\n") + 1 for t in over), default=0) * line + (4 * PT if over else 0)
    width = left + columns * cell + (columns - 1) * gap + margin
    title = paper.wrap(title, 12.5, max(width, 5 * DPI) - 2 * margin, bold=True, parse_math=True) if title else ""
    y = margin + (title.count("\n") + 1) * 17 * PT * bool(title) + heads
    places = []
    for r, (row, texts) in enumerate(zip(drawn, under, strict=True)):
        tall = max(p.height for p in row)
        places.append((y, tall))
        y += tall + (max(t.count("\n") + 1 for t in texts) * line + 5 * PT if any(texts) else 0)
        y += gap if r + 1 < len(rows) else 0
    foot = 34 * PT if bars else 0
    if title:
        width = max(width, max(paper.text_width(t, 12.5, bold=True) for t in title.split("\n")) + 2 * margin)
    fig = paper.canvas(width, y + foot + margin, title)
    w, h = fig.get_size_inches() * DPI

    def text(x, first, words, **kwargs):  # line by line, so that neighbours share their baselines
        for k, words_of_line in enumerate(words.split("\n")):
            fig.text(x / w, 1 - (first + k * line) / h, words_of_line, parse_math=False, va="baseline", **kwargs)

    for c, words in enumerate(over):
        first = places[0][0] - 5 * PT - words.count("\n") * line
        text(left + c * (cell + gap) + cell / 2, first, words, ha="center", fontsize=10.5)
    for r, (top, tall) in enumerate(places):
        if sides:
            middle = top + tall / 2 + 4 * PT - sides[r].count("\n") * line / 2
            text(left - 8 * PT, middle, sides[r], ha="right", fontsize=10.5)
        for c, (image, words) in enumerate(zip(drawn[r], under[r], strict=True)):
            x = int(left + c * (cell + gap) + (cell - image.width) // 2)
            upper = int(top + (tall - image.height) // 2)
            ax = fig.add_axes((x / w, 1 - (upper + image.height) / h, image.width / w, image.height / h))
            ax.imshow(np.asarray(image), interpolation="none", aspect="auto")
            ax.set(xticks=[], yticks=[])
            for spine in ax.spines.values():  # a hairline, so that white pictures have an edge on the white page
                spine.set(visible=True, color=PALE, linewidth=0.5)
            if words:
                text(left + c * (cell + gap) + cell / 2, top + tall + 12 * PT, words, ha="center", fontsize=10)
    for c, top in (bars or {}).items():
        x = left + (c % columns) * (cell + gap)
        ax = fig.add_axes((x / w, 1 - (y + 14 * PT) / h, cell / w, 7 * PT / h))
        bar = fig.colorbar(ScalarMappable(Normalize(-top, top), SIGNED), cax=ax, orientation="horizontal")
        bar.set_ticks([-top, 0, top], labels=[paper.signed(v, ".2g") for v in (-top, 0, top)])
        bar.outline.set(linewidth=0.5)
        for label, side in zip(ax.get_xticklabels(), ("left", "center", "right"), strict=True):
            label.set(ha=side, fontsize=10)
    words = [t.replace("\n", " ") for t in (*over, *sides, *(t for row in under for t in row)) if t]
    fig.alt = f"{title.replace(chr(10), ' ') or 'pictures'}: {', '.join(words) or f'{sum(map(len, rows))} pictures'}"
    return fig
