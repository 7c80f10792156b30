"""Every picture that the lessons show. Each function takes plain data and returns a matplotlib Figure.

    figures.grid(pictures, captions)                 # as the last line of a cell it shows itself, once
    figures.grid(pictures, captions).savefig("sheet.png")

A picture is a PIL image, a float tensor (3, H, W) in [-1, 1], or a uint8 array (H, W, 3); a batch (B, 3, H, W) is a
sequence of pictures. Small pictures are enlarged by whole factors with nearest neighbour, because their pixels are the
subject; large ones are reduced smoothly. Colours are Okabe & Ito's (2008) for categories, cividis for amounts and PuOr
for signed values, all of which survive colour blindness. Captions and labels are plain text; titles may hold $...$.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from matplotlib import colormaps, style
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageOps

BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000",
)  # fmt: skip
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
AMOUNT, SIGNED = "cividis", "PuOr"
GREY, PALE = "#595959", "#c8c8c8"

WIDTH = 8.5  # inches: the column of a notebook, so that a point on paper is a point on the page
DPI = 144  # 16 * 9, so sides of a multiple of 9 pixels are exact in inches, which whole-pixel enlargement needs
PT = DPI / 72  # pixels in a point

_style = style.context(
    [
        "default",
        {
            "figure.facecolor": "white",
            "font.size": 10.5,
            "axes.titlesize": 11.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": GREY,
            "axes.grid": True,
            "grid.color": "#e6e6e6",
            "axes.axisbelow": True,
            "figure.titlesize": 12.5,
            "figure.titleweight": "bold",
            "lines.linewidth": 2,
        },
    ]
)


class Picture(Figure):
    """A Figure with a text alternative, that shows itself in a notebook without pyplot and at its size in inches."""

    alt = ""

    @_style
    def png(self) -> bytes:
        """The figure as the bytes of a PNG file."""
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=self.dpi)
        return file.getvalue()

    def _ipython_display_(self):
        # Pyplot's display hook exists only once pyplot is imported, and then crops; this is the same in both cases.
        from IPython.display import display

        png, width = base64.b64encode(self.png()).decode(), round(96 * self.get_figwidth())
        # HTML beside the PNG, because that is what carries the text alternative into JupyterLab and the book.
        image = (
            f'<img class="dark-light" src="data:image/png;base64,{png}" alt="{escape(self.alt)}" width="{width}" '
            'style="max-width:100%;height:auto">'
        )
        data = {"text/html": image, "image/png": png, "text/plain": self.alt}
        display(data, metadata={"image/png": {"width": width}}, raw=True)


# -- contact sheets ----------------------------------------------------------------------------------------------------


@_style
def grid(images, captions=None, *, columns=None, row_labels=None, column_labels=None, title=None) -> Figure:
    """A contact sheet.

    images: a sequence of pictures, or a sequence of rows of pictures.
    captions: one for each picture, in reading order. columns: how many side by side; by default what looks best.
    row_labels, column_labels: one for each row and column.
    """
    rows = _rows(images, columns)
    count = sum(map(len, rows))
    captions = [""] * count if captions is None else [str(c) for c in captions]
    _same_number(captions, count, "captions", "pictures")
    return _sheet(rows, captions, row_labels, column_labels, title)


def strip(rows: Mapping, labels=None, *, title=None, at_most: int = 7) -> Figure:
    """A trajectory: one row of pictures for each entry of `rows`, such as {"x_t": [...], "x_0": [...]}, first to last.

    labels: one for each column, such as "t = 981". Of a longer trajectory, `at_most` evenly spaced columns are shown,
    always with the first and the last.
    """
    if not isinstance(rows, Mapping):
        raise TypeError('strip needs a dict of rows, such as {"x_t": pictures, "x_0": pictures}.')
    lists = [list(row) for row in rows.values()]
    if not lists or not lists[0]:
        raise ValueError("There is nothing to draw: give at least one picture.")
    length = len(lists[0])
    for name, row in zip(rows, lists, strict=True):
        _same_number(row, length, f"pictures in row {name!r}", "pictures in the first row")
    if labels is not None:
        _same_number(labels, length, "labels", "columns")
    shown = sorted({round(k) for k in np.linspace(0, length - 1, min(at_most, length))})
    return grid(
        [[row[k] for k in shown] for row in lists],
        row_labels=list(rows),
        column_labels=None if labels is None else [labels[k] for k in shown],
        title=title,
    )


def difference(a, b, *, magnify: float = 8, labels=("before", "after"), title=None) -> Figure:
    """Two pictures and their absolute difference, magnified: black where they agree. The title gives the PSNR."""
    x, y = _unit(a), _unit(b)
    _same_shape(x, y)
    gap = Image.fromarray(np.uint8(np.clip(np.abs(x - y) * magnify, 0, 1) * 255 + 0.5))
    title = title or f"Where they differ: PSNR {psnr(a, b):.1f} dB"
    return grid([a, b, gap], [*labels, f"|difference| × {magnify:g}"], title=title)


def psnr(a, b) -> float:
    """Peak signal-to-noise ratio of two pictures in dB, 10 log10(peak^2 / mean squared error); infinite if equal.

    Tensors are measured as they are, unrounded; the peak is the whole range, 2 for [-1, 1] and 255 for 8 bits.
    """
    x, y = _unit(a), _unit(b)
    _same_shape(x, y)
    error = float(np.mean((x - y) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)


# -- latents and predictions -------------------------------------------------------------------------------------------


@_style
def latent_channels(latents, *, image=None, captions=None, title=None) -> Figure:
    """The channels of latents (C, h, w) or (B, C, h, w) as maps on one scale: orange is below zero, purple above.

    image: the picture they stand for, shown first (one for each of B). captions: one for each of B.
    """
    x = _numbers(latents, "latents")
    if x.ndim not in (3, 4):
        raise ValueError(f"Latents have shape (C, h, w) or (B, C, h, w), not {x.shape}.")
    x = x.reshape(-1, *x.shape[-3:])
    top = _scale(x)
    rows = [[_coloured(channel, SIGNED, -top, top) for channel in one] for one in x]
    names = [f"channel {c}" for c in range(x.shape[1])]
    if image is not None:
        images = [image] if isinstance(image, Image.Image) or (len(x) == 1 and np.ndim(image) == 3) else list(image)
        _same_number(images, len(rows), "images", "latents")
        rows = [[picture(i), *row] for i, row in zip(images, rows, strict=True)]
        names = ["picture", *names]
    title = title or f"{x.shape[1]} latent channels of {x.shape[2]} × {x.shape[3]}, on one scale"
    return _sheet(rows, None, captions, names, title, bars={-1: (SIGNED, -top, top)})


@_style
def guidance(uncond, cond, guidance_scale: float, *, title=None) -> Figure:
    """Classifier-free guidance as maps: the two predictions, their difference, and uncond + scale * (cond - uncond).

    uncond, cond: (C, h, w) or (1, C, h, w); a row for each channel. The small difference has a scale of its own.
    """
    u, c = (_numbers(p, "prediction") for p in (uncond, cond))
    _same_shape(u, c)
    if u.ndim not in (3, 4) or (u.ndim == 4 and len(u) != 1):
        raise ValueError(f"Predictions for one picture have shape (C, h, w) or (1, C, h, w), not {u.shape}.")
    u, c = (p.reshape(p.shape[-3:]) for p in (u, c))
    gap, guided = c - u, u + guidance_scale * (c - u)
    top, small = _scale(np.stack([u, c, guided])), _scale(gap)
    rows = [
        [_coloured(m, SIGNED, -t, t) for m, t in zip(maps, (top, top, small, top), strict=True)]
        for maps in zip(u, c, gap, guided, strict=True)
    ]
    names = ["unconditional", "conditional", "difference", f"uncond + {guidance_scale:g} × difference"]
    title = title or "Guidance walks on along the difference between two predictions"
    bars = {2: (SIGNED, -small, small), 3: (SIGNED, -top, top)}
    return _sheet(rows, None, [f"channel {k}" for k in range(len(u))], names, title, bars)


@_style
def matrix(
    values, *, mask=None, row_labels=None, column_labels=None, xlabel=None, ylabel=None, title=None, label=None,
    numbers=None,
) -> Figure:  # fmt: skip
    """A matrix as a heat map: similarities, a Gram matrix, a mask. Signed values get a scale with white zero.

    values: (rows, columns). mask: (rows, columns), true where a cell stays empty. label: what the colour means.
    numbers: whether to print the values; None: if there is room.
    """
    m = _numbers(values, "matrix")
    if m.ndim != 2:
        raise ValueError(f"A matrix has two dimensions, not shape {m.shape}.")
    if mask is not None:
        mask = _numbers(mask, "mask").astype(bool)
        if mask.shape != m.shape or mask.all():
            raise ValueError(f"The mask of this matrix must have its shape, {m.shape}, and leave a cell to draw.")
        m = np.ma.array(m, mask=mask)
    signed = m.min() < 0
    top = _scale(m)
    size = min(6.0, max(3.6, 0.62 * max(m.shape)))
    height = size * min(1.3, max(0.45, m.shape[0] / m.shape[1])) + 1.0
    fig, ax = _chart(size + 1.6, height)
    norm = Normalize(-top, top) if signed else Normalize(m.min(), m.max() if m.max() > m.min() else m.min() + 1)
    shown = ax.imshow(m, cmap=SIGNED if signed else AMOUNT, norm=norm, interpolation="nearest", aspect="equal")
    ax.grid(False)
    for axis, names, n, what in (
        (ax.xaxis, column_labels, m.shape[1], "column_labels"),
        (ax.yaxis, row_labels, m.shape[0], "row_labels"),
    ):
        if names is not None:
            _same_number(names, n, what, "columns" if axis is ax.xaxis else "rows")
            axis.set_ticks(range(n), [str(s) for s in names], parse_math=False)
    if column_labels is not None and max(len(str(s)) for s in column_labels) > 4:
        ax.tick_params(axis="x", labelrotation=45)
        for tick in ax.get_xticklabels():
            tick.set(ha="right", rotation_mode="anchor")
    if numbers or (numbers is None and max(m.shape) <= 9):
        for (r, c), value in np.ma.ndenumerate(m):  # without the empty cells
            dark = np.dot(shown.cmap(norm(value))[:3], (0.3, 0.59, 0.11)) < 0.5
            ax.text(
                c, r, _signed(value, ".2f"), ha="center", va="center", fontsize=10, color="white" if dark else "black"
            )
    fig.colorbar(shown, ax=ax, label=label, shrink=0.9)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return _titled(fig, title, f"heat map of {m.shape[0]} × {m.shape[1]} values")


# -- curves ------------------------------------------------------------------------------------------------------------


@_style
def curves(lines: Mapping, *, xlabel, ylabel, title=None, log: str = "", slope: bool = False, reference=None) -> Figure:
    """Measured curves with their names beside them.

    lines: name -> (x, y), or (x, y, error) with error bars, or y alone. log: "", "x", "y" or "xy".
    slope: print each curve's slope on log-log axes, fitted by least squares: the measured order of a solver.
    reference: (height, name) of a horizontal line to compare with.
    """
    if not lines:
        raise ValueError("There is nothing to draw: give at least one curve.")
    fig, ax = _chart(WIDTH, 4.4)
    ends, places = [], []
    for k, (name, data) in enumerate(lines.items()):
        data = data if isinstance(data, tuple) else (range(len(data)), data)
        x, y, *error = (_numbers(d, f"curve {name!r}").ravel() for d in data)
        _same_number(x, len(y), f"x values of {name!r}", "y values")
        for axis, v in zip("xy", (x, y), strict=True):
            if axis in log and (v <= 0).any():
                raise ValueError(
                    f"Curve {name!r} has {axis} values that are not positive, which a log axis cannot show."
                )
        if slope:
            name = f"{name} (slope {_signed(np.polyfit(np.log(x), np.log(y), 1)[0], '.2f')})"
        colour, marker = COLOURS[k % len(COLOURS)], "osD^vPX"[k % len(COLOURS)]
        ax.errorbar(x, y, *error, color=colour, marker=marker if len(x) <= 40 else "", markersize=5, capsize=3)
        ends.append((y[np.argmax(x)], str(name), colour))
        places.append(x)
    ticks = np.unique(np.concatenate(places))
    if "x" in log:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")  # 0.1, not 10⁻¹
        if len(ticks) <= 10:  # the numbers that were measured, those with room for their label
            labelled, room = [], 0.06 * np.log(ticks[-1] / ticks[0])
            for t in ticks:
                if not labelled or np.log(t / labelled[-1]) > room:
                    labelled.append(t)
            ax.set_xticks(labelled)
            ax.set_xticks(np.setdiff1d(ticks, labelled), minor=True)
            ax.xaxis.set_minor_formatter("")
    elif (ticks == np.round(ticks)).all():
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))  # there is no step 2.5
    if "y" in log:
        ax.set_yscale("log")
    ax.margins(y=0.12)
    if reference:
        ax.axhline(reference[0], color=GREY, linewidth=1.2, linestyle=(0, (4, 3)))
        ends.append((reference[0], str(reference[1]), GREY))
    ax.set(xlabel=xlabel, ylabel=ylabel)
    _titled(fig, title, f"{ylabel} against {xlabel} for {', '.join(map(str, lines))}")
    _name_ends(ax, ends)
    return fig


@_style
def noise_schedule(schedules, *, title=None) -> Figure:
    """What noise schedules do over the training timesteps: coefficients of picture and noise, log SNR, and betas.

    schedules: a NoiseSchedule, or a dict of name -> NoiseSchedule to compare.
    """
    several = isinstance(schedules, Mapping)
    named = dict(schedules) if several else {"": schedules}
    if not named:
        raise ValueError("There is nothing to draw: give at least one schedule.")
    fig, axes = _chart(WIDTH, 6.0, 2, 2)
    first, second, ratio, betas = axes.flat
    for (name, s), colour in zip(named.items(), itertools.cycle(COLOURS)):
        # One schedule: a colour for each quantity. Several: a colour for each schedule.
        tones = (colour, colour, colour) if several else (BLUE, VERMILION, BLACK)
        first.plot(s.signal, color=tones[0], label=str(name))
        (second if several else first).plot(s.noise, color=tones[1])
        finite = s.snr > 0  # a schedule that ends in pure noise has log SNR -inf there
        ratio.plot(finite.nonzero().ravel(), s.snr[finite].log10(), color=tones[2])
        betas.plot(s.betas, color=tones[2])
    if any(s.betas.max() > 0.1 for s in named.values()):  # as the cosine's last ones are
        betas.set_yscale("log")
    heads = ["Signal  $\\sqrt{\\bar\\alpha_t}$", "Noise  $\\sqrt{1-\\bar\\alpha_t}$"]
    if not several:
        heads = ["Coefficients of picture and noise", "Their squares sum to one"]
        second.stackplot(range(len(s.betas)), s.signal**2, s.noise**2, colors=[SKY, ORANGE])
        half = int((s.signal**2 > 0.5).sum())
        second.text(half * 0.5, 0.3, "signal²", ha="center", fontweight="bold")
        second.text((half + len(s.betas)) / 2, 0.7, "noise²", ha="center", fontweight="bold")
    heads += ["Signal-to-noise ratio, $\\log_{10}$", "Noise variance added in step t,  $\\beta_t$"]
    for ax, head in zip(axes.flat, heads, strict=True):
        ax.set_title(head, fontweight="normal")
        ax.margins(x=0)
        ax.set_xlabel("training timestep t")
    ratio.axhline(0, color=GREY, linewidth=1)
    ratio.annotate("as much noise as signal", (0.98, 0), xycoords=("axes fraction", "data"), xytext=(0, 3),
                   textcoords="offset points", ha="right", color=GREY)  # fmt: skip
    _titled(fig, title or "How a picture fades into noise", "noise schedules: signal, noise, log SNR and betas")
    if several:  # the curves end too close together for names at their ends
        fig.legend(loc="outside lower center", ncols=min(4, len(named)), frameon=False, fontsize=11)
    else:
        _name_ends(first, [(float(s.signal[-1]), "signal", BLUE), (float(s.noise[-1]), "noise", VERMILION)])
    return fig


@_style
def histograms(values: Mapping, *, mean=0.0, std=1.0, title=None, xlabel="value") -> Figure:
    """Measured values against Gaussian densities, a panel for each entry: formula and measurement side by side.

    values: caption -> numbers of any shape, or caption -> {name: numbers} to lay several measurements over each other.
    mean, std: of the Gaussian; one number, or one for each panel.
    """
    if not values:
        raise ValueError("There is nothing to draw: give at least one set of values.")
    means, stds = (np.broadcast_to(np.asarray(v, dtype=float), len(values)) for v in (mean, std))
    columns = min(len(values), 3)
    rows = math.ceil(len(values) / columns)
    fig, axes = _chart(min(WIDTH, 3.2 * columns + 1), 2.7 * rows + 0.6, rows, columns, sharex=True)
    axes = np.ravel(axes)
    sets = [
        {k: _numbers(v, caption).ravel() for k, v in (data if isinstance(data, Mapping) else {"": data}).items()}
        for caption, data in values.items()
    ]
    low = min(min(v.min() for s in sets for v in s.values()), *(means - 3.5 * stds))
    high = max(max(v.max() for s in sets for v in s.values()), *(means + 3.5 * stds))
    x = np.linspace(low, high, 1200)
    for ax, caption, group, mu, sigma in zip(axes, values, sets, means, stds, strict=False):
        notes = []
        for (name, v), colour in zip(group.items(), itertools.cycle(COLOURS)):
            bins = np.linspace(v.min(), v.max() + 1e-9, int(np.clip(np.sqrt(v.size), 20, 60)))
            alone = {"color": SKY} if len(group) == 1 else {"histtype": "step", "linewidth": 1.8, "color": colour}
            ax.hist(v, bins, density=True, **alone)
            notes.append((f"{name or 'measured'} {_signed(v.mean(), '+.2f')} ± {v.std():.2f}", colour))
        density = np.exp(-0.5 * ((x - mu) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
        ax.plot(x, density, color=BLACK, linewidth=1.5, linestyle=(0, (4, 2)))
        notes.append((f"formula {_signed(mu, '+.2f')} ± {sigma:.2f}", BLACK))
        corner = {"transform": ax.transAxes, "va": "top", "ha": "right", "fontsize": 10, "parse_math": False}
        for k, (note, colour) in enumerate(notes):
            ax.text(0.98, 0.97 - 0.1 * k, note, color=_ink(colour), **corner)
        ax.set_title(str(caption), fontweight="normal", parse_math=False)
        ax.set_ylim(0, ax.get_ylim()[1] * (1.25 + 0.1 * len(group)))
        ax.set_yticks([])
        ax.set_xlabel(xlabel)
        ax.tick_params(labelbottom=True)
    for ax in axes[len(values) :]:
        ax.remove()
    return _titled(fig, title, f"histograms against Gaussian densities: {', '.join(map(str, values))}")


@_style
def density_over_time(x, density, *, paths=None, timesteps=None, title=None) -> Figure:
    """A one-dimensional distribution while it diffuses: bright where x is likely, with sample paths drawn over it.

    x: (X,), the positions. density: (T, X), row k is the density at timesteps[k]. paths: (N, T), one sample a row.
    """
    x, p = _numbers(x, "x").ravel(), _numbers(density, "density")
    if p.ndim != 2 or p.shape[1] != len(x):
        raise ValueError(f"density needs shape (timesteps, {len(x)}), a row for each timestep, not {p.shape}.")
    t = np.arange(len(p)) if timesteps is None else _numbers(timesteps, "timesteps").ravel()
    _same_number(t, len(p), "timesteps", "rows of density")
    fig, ax = _chart(WIDTH, 4.0)
    # A power below one keeps the faint late density visible beside the sharp early peaks.
    shown = ax.pcolormesh(t, x, p.T, cmap=AMOUNT, norm=PowerNorm(0.5, 0, p.max()), shading="nearest", rasterized=True)
    ax.grid(False)
    if paths is not None:
        paths = _numbers(paths, "paths")
        if paths.ndim != 2 or paths.shape[1] != len(t):
            raise ValueError(f"paths needs shape (samples, {len(t)}), a column for each timestep, not {paths.shape}.")
        for path in paths:
            ax.plot(t, path, color="black", linewidth=2.2, alpha=0.5)
            ax.plot(t, path, color="white", linewidth=1.0)
    ax.set(xlabel="training timestep t", ylabel="$x_t$", ylim=(x.min(), x.max()))
    fig.colorbar(shown, ax=ax, label="probability density", pad=0.01)
    return _titled(fig, title or "Two roads into one Gaussian", "a density over time, with sample paths")


# -- diagrams ----------------------------------------------------------------------------------------------------------


@_style
def tokens(
    pieces: Sequence[str], ids: Sequence[int], *, positions=None, dropped: str | Sequence[str] = (), title=None
) -> Figure:
    """What the text encoder reads: each piece in its box, its position above, its id below; one colour for each word.

    pieces: the tokenizer's own, with CLIP's "</w>" at the end of a word and its two special tokens; ids: as many.
    Everything after the first end token is padding and shown as one box. positions: of the pieces, if they are not all
    from 0 on. dropped: what did not fit, crossed out; a text or its pieces.
    """
    _same_number(ids, len(pieces), "ids", "pieces")
    positions = range(len(pieces)) if positions is None else positions
    _same_number(positions, len(pieces), "positions", "pieces")
    if not len(pieces):
        raise ValueError("There are no tokens to draw.")
    end = next((k for k, piece in enumerate(pieces) if piece == "<|endoftext|>"), len(pieces) - 1)
    padding = len(pieces) - 1 - end
    boxes, word = [], 0  # (position, text, id, colour, joined to the next)
    for k in range(end + 1):
        special = pieces[k].startswith("<|") and pieces[k].endswith("|>")
        whole = special or pieces[k].endswith("</w>")
        text = pieces[k] if special else pieces[k].removesuffix("</w>")
        boxes.append((str(positions[k]), text, str(ids[k]), "#e3e3e3" if special else _tint(word), not whole))
        word += whole and not special
    if padding:
        span = f"{positions[end + 1]}" if padding == 1 else f"{positions[end + 1]}–{positions[-1]}"
        boxes.append((span, f"padding × {padding}", str(ids[-1]), "#f4f4f4", False))
    dropped = dropped.split() if isinstance(dropped, str) else dropped
    if dropped:
        boxes += [("lost", piece.removesuffix("</w>"), "—", "white", False) for piece in dropped]

    high, low, gap, margin = 26 * PT, 18 * PT, 7 * PT, 8 * PT
    full = WIDTH * DPI
    x, y, placed = margin, 0.0, []
    for where, text, number, colour, joined in boxes:
        width = max(_width(text, 12), _width(number, 10), _width(where, 10)) + 14 * PT
        if x + width > full - margin and x > margin:
            x, y = margin, y + high + 2 * low + gap
        placed.append((x, y, width, where, text, number, colour))
        x += width + (1 * PT if joined else gap)
    if not title:
        title = f"{len(pieces)} tokens" + (f", of which {padding} are padding" if padding else "")
        title += f"; {len(dropped)} more did not fit" if dropped else ""
    top = margin + 22 * PT
    fig = _canvas(max(p[0] + p[2] for p in placed) + margin, top + y + high + 2 * low + margin, title)
    w, h = fig.get_size_inches() * DPI
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, w), ylim=(h, 0))
    ax.axis("off")
    for x, y, width, where, text, number, colour in placed:
        lost = where == "lost"
        edge = VERMILION if lost else GREY
        ax.add_patch(
            FancyBboxPatch(
                (x, top + y + low),
                width,
                high,
                boxstyle=f"round,pad=0,rounding_size={4 * PT}",
                facecolor=colour,
                edgecolor=edge,
                linewidth=0.8,
                linestyle="--" if lost else "-",
            )
        )
        centre, middle = x + width / 2, top + y + low + high / 2
        put = {"ha": "center", "parse_math": False}
        ax.text(centre, top + y + low - 4 * PT, where, va="bottom", fontsize=10, color=edge, **put)
        ax.text(centre, middle, text, va="center_baseline", fontsize=12, color=GREY if lost else "black", **put)
        ax.text(centre, top + y + low + high + 3 * PT, number, va="top", fontsize=10, color=GREY, **put)
        if lost:
            ax.plot([x + 4 * PT, x + width - 4 * PT], [middle, middle], color=VERMILION, linewidth=1.2)
    fig.alt = f"{title}: " + ", ".join(f"{text} ({number})" for _, _, _, _, text, number, _ in placed)
    return fig


@_style
def number_line(timesteps: Sequence[int], start: int | Mapping = 0, *, title=None) -> Figure:
    """The steps of a run on a line, noise on the left; steps before `start` are skipped and grey (image-to-image).

    timesteps: of the whole run, largest first. start: the index of the first step taken, or name -> index.
    """
    timesteps = [int(t) for t in timesteps]
    n = len(timesteps)
    if not n:
        raise ValueError("There are no timesteps to draw.")
    runs = dict(start) if isinstance(start, Mapping) else {"": start}
    for name, s in runs.items():
        if not 0 <= s <= n:
            raise ValueError(
                f"start{f' of {name!r}' if name else ''} must be from 0 to {n}, the number of steps, not {s}."
            )
    names = [_wrap(name, 10.5, 1.6 * DPI) for name in runs]
    fig, ax = _chart(WIDTH, 1.3 + 0.36 * len(runs))
    colour, every = BLUE, max(1, math.ceil(n / 13))
    beside = {"textcoords": "offset points", "va": "center", "fontsize": 10.5, "parse_math": False}
    for row, (s, name) in enumerate(zip(runs.values(), names, strict=True)):
        ax.plot([0, s], [row, row], color=PALE, linewidth=2, zorder=1)
        ax.plot([s, n], [row, row], color=colour, linewidth=3, zorder=1, solid_capstyle="butt")
        ax.plot(range(s), [row] * s, "o", color="white", markeredgecolor="#9a9a9a", markersize=6)
        ax.plot(range(s, n), [row] * (n - s), "o", color=colour, markersize=7)
        ax.plot([n], [row], marker=">", color=colour if s < n else PALE, markersize=8)
        steps = f"{n - s} of {n} steps"
        ax.annotate(steps, (n, row), xytext=(12, 0), **beside)
        ax.annotate(name, (0, row), xytext=(-20, 0), ha="right", **beside)
        if s and not name:
            ax.text((s - 1) / 2, row - 0.3, "skipped", ha="center", color=GREY, fontsize=10)
        if len(runs) == 1 and s < n:
            ax.text((s + n - 1) / 2, row - 0.3, "taken", ha="center", color=colour, fontsize=10)
    last = len(runs) - 1
    for k in range(0, n, every):
        ax.text(k, last + 0.52, str(k), ha="center", va="center", fontsize=10)
        ax.text(k, last + 0.94, str(timesteps[k]), ha="center", va="center", fontsize=10, color=GREY)
    for word, below, tone in (("index", 0.52, "black"), ("timestep", 0.94, GREY)):
        ax.annotate(word, (0, last + below), xytext=(-20, 0), ha="right", color=tone, **{**beside, "fontsize": 10})
    ax.set(xlim=(-0.5, n + 0.5), ylim=(last + 1.15, -0.55))
    ax.axis("off")
    said = "; ".join(
        f"{name or 'the run'} starts at index {s} and takes {n - s} of {n} steps" for name, s in runs.items()
    )
    return _titled(fig, title or "From noise (left) to picture (right)", said)


# -- plumbing: data in -------------------------------------------------------------------------------------------------


def picture(image) -> Image.Image:
    """A picture of any accepted kind as an RGB PIL image: transparency over white, camera rotation applied."""
    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image)
        if image.mode == "RGB":
            return image
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return Image.fromarray(np.uint8(np.clip(_unit(image), 0, 1) * 255 + 0.5))


def _unit(image) -> np.ndarray:
    """A picture as floats (H, W, 3), black 0 and white 1; tensors keep values beyond that range."""
    if isinstance(image, Image.Image):
        return np.asarray(picture(image), dtype=float) / 255
    x = _numbers(image, "picture")
    whole = str(image.dtype).endswith("uint8") if hasattr(image, "dtype") else False
    if whole and x.ndim == 3 and x.shape[2] == 3:
        return x / 255
    if not whole and x.ndim == 3 and x.shape[0] == 3:
        return x.transpose(1, 2, 0) / 2 + 0.5
    raise ValueError(
        "A picture is a PIL image, a float tensor (3, H, W) in [-1, 1] or a uint8 array (H, W, 3), "
        f"not {'whole' if whole else 'real'} numbers of shape {x.shape}."
    )


def _numbers(values, what: str) -> np.ndarray:
    """Tensor, array or sequence as a float64 array, finite and not empty."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    x = np.asarray(values, dtype=float)
    if x.size == 0:
        raise ValueError(f"There is nothing to draw: the {what} has no values.")
    if not np.isfinite(x).all():
        bad = x.size - np.isfinite(x).sum()
        raise ValueError(
            f"The {what} has {bad} of {x.size} values that are NaN or infinite; find the step that made them."
        )
    return x


def _rows(images, columns) -> list[list[Image.Image]]:
    if isinstance(images, Image.Image) or (hasattr(images, "shape") and np.ndim(images) == 3):
        images = [images]
    images = list(images)
    if not images:
        raise ValueError("There is nothing to draw: give at least one picture.")
    if isinstance(images[0], (list, tuple)) or getattr(images[0], "ndim", 0) == 4:
        rows = [[picture(i) for i in row] for row in images]
        if columns is not None:
            raise ValueError("Rows of pictures already say how many columns there are; leave out columns.")
        if not all(rows):
            raise ValueError("A row of pictures is empty; give each row at least one.")
        return rows
    if columns is None:  # one row while pictures stay large enough to see, then nearly square
        n = len(images)
        columns = n if n <= 5 else math.ceil(n / 2) if n <= 10 else min(6, math.ceil(math.sqrt(n)))
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}.")
    return [[picture(i) for i in images[k : k + columns]] for k in range(0, len(images), columns)]


def _same_number(things, count: int, name: str, others: str):
    if len(things) != count:
        raise ValueError(f"There are {len(things)} {name} for {count} {others}; give as many.")


def _same_shape(a: np.ndarray, b: np.ndarray):
    if a.shape != b.shape:
        raise ValueError(f"Only pictures or tensors of one size can be compared, not {a.shape} with {b.shape}.")


def _scale(x: np.ndarray) -> float:
    """The largest magnitude, as the end of a scale with zero in its middle."""
    return float(np.abs(x).max()) or 1.0


def _coloured(values: np.ndarray, cmap: str, low: float, high: float) -> Image.Image:
    return Image.fromarray(colormaps[cmap](Normalize(low, high)(values), bytes=True)[..., :3])


def _ink(colour: str) -> tuple[float, ...]:
    """A category colour, dark enough for text on white."""
    return tuple(0.72 * part for part in to_rgb(colour))


def _tint(k: int) -> tuple[float, ...]:
    """A light tint of the k-th category colour, on which black text is readable."""
    colour = (SKY, ORANGE, GREEN, PURPLE, VERMILION, BLUE)[k % 6]
    return tuple(1 - 0.42 * (1 - part) for part in to_rgb(colour))


# -- plumbing: ink on paper --------------------------------------------------------------------------------------------


def _chart(width: float, height: float, rows: int = 1, columns: int = 1, **options):
    fig = Picture(figsize=(width, height), dpi=DPI, layout="constrained")
    fig.get_layout_engine().set(w_pad=0.09, h_pad=0.09, hspace=0.04)
    return fig, fig.subplots(rows, columns, squeeze=rows * columns == 1, **options)


def _titled(fig: Picture, title: str | None, alt: str) -> Picture:
    if title:
        fig.suptitle(title, x=0.01, ha="left")
    fig.alt = f"{title}: {alt}" if title else alt
    return fig


def _canvas(width: float, height: float, title: str | None, indent: float = 0) -> Picture:
    """An empty figure of at least this many pixels, with its title in the top left corner."""
    w, h = (9 * math.ceil(side / 9) for side in (width, height))
    fig = Picture(figsize=(w / DPI, h / DPI), dpi=DPI)
    if title:
        fig.text((8 * PT + indent) / w, 1 - 6 * PT / h, title, va="top", fontsize=12.5, fontweight="bold")
    return fig


def _sheet(rows, captions, row_labels, column_labels, title, bars=None) -> Picture:
    """Pictures at whole-pixel places. bars: column -> (colour map, low, high), a scale under that column."""
    columns = max(map(len, rows))
    if row_labels is not None:
        _same_number(row_labels, len(rows), "row labels", "rows")
    if column_labels is not None:
        _same_number(column_labels, columns, "column labels", "columns")
    margin, gap, line = 8 * PT, 6 * PT, 13 * PT
    sides = [_wrap(s, 10.5, 1.25 * DPI) for s in row_labels] if row_labels else []
    left = margin + (max(_width(t, 10.5) for s in sides for t in s.split("\n")) + 8 * PT if sides else 0)
    room = int((WIDTH * DPI - left - margin - gap * (columns - 1)) / columns)
    # The largest picture sets the cell: small ones grow by a whole factor, to 2.2 inches or in a tall sheet to 1.5,
    # large ones shrink to fit.
    limit = min(room, (2.2 if len(rows) <= 2 else 1.5) * DPI)
    widest = max((p for row in rows for p in row), key=lambda p: p.width)
    cell = max(1, limit // widest.width) * widest.width if widest.width <= room else room
    cell = int(cell)

    captions = iter(captions or [""] * sum(map(len, rows)))
    under = [[_wrap(next(captions), 10, cell + gap - 2 * PT) for _ in row] for row in rows]
    over = [_wrap(s, 10.5, cell + gap - 2 * PT) for s in column_labels] if column_labels else []
    drawn = [[_fit(p, cell) for p in row] for row in rows]
    heads = max((t.count("\n") + 1 for t in over), default=0) * line + (4 * PT if over else 0)
    width = left + columns * cell + (columns - 1) * gap + margin
    title = _wrap(title, 12.5, max(width, 5 * DPI) - 2 * margin, bold=True, parse_math=True) if title else ""
    y = margin + (title.count("\n") + 1) * 17 * PT * bool(title) + heads
    places = []
    for r, (row, texts) in enumerate(zip(drawn, under, strict=True)):
        tall = max(p.height for p in row)
        places.append((y, tall))
        y += tall + (max(t.count("\n") + 1 for t in texts) * line + 5 * PT if any(texts) else 0)
        y += gap if r + 1 < len(rows) else 0
    foot = 34 * PT if bars else 0
    if title:
        width = max(width, max(_width(t, 12.5, bold=True) for t in title.split("\n")) + 2 * margin)
    fig = _canvas(width, y + foot + margin, title)
    w, h = fig.get_size_inches() * DPI

    def text(
        x, first, words, **kwargs
    ):  # line by line, so that neighbours share their baselines whatever their letters
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
    for c, (cmap, low, high) in (bars or {}).items():
        x = left + (c % columns) * (cell + gap)
        ax = fig.add_axes((x / w, 1 - (y + 14 * PT) / h, cell / w, 7 * PT / h))
        bar = fig.colorbar(ScalarMappable(Normalize(low, high), cmap), cax=ax, orientation="horizontal")
        bar.set_ticks([low, 0, high], labels=[_signed(v, ".2g") for v in (low, 0, high)])
        bar.outline.set(linewidth=0.5)
        for label, side in zip(ax.get_xticklabels(), ("left", "center", "right"), strict=True):
            label.set(ha=side, fontsize=10)
    said = [t.replace("\n", " ") for t in (*over, *sides, *(t for row in under for t in row)) if t]
    fig.alt = f"{title.replace(chr(10), ' ') or 'pictures'}: {', '.join(said) or f'{sum(map(len, rows))} pictures'}"
    return fig


def _fit(image: Image.Image, cell: int) -> Image.Image:
    """Enlarged by a whole factor to at most `cell` pixels wide, or reduced to it smoothly."""
    if image.width <= cell:
        factor = cell // image.width
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return image.resize((cell, max(1, round(image.height * cell / image.width))), Image.Resampling.LANCZOS)


def _signed(value: float, form: str) -> str:
    return format(value, form).replace("-", "\u2212")  # a minus sign, as on the axes, not a hyphen


def _width(text: str, size: float, *, bold: bool = False, parse_math: bool = False) -> float:
    """The width of one line of text in pixels."""
    font = FontProperties(size=size, weight="bold" if bold else "normal")
    math_inside = parse_math and text.count("$") >= 2
    return text_to_path.get_text_width_height_descent(text or " ", font, math_inside)[0] * PT


def _wrap(text, size: float, width: float, *, bold: bool = False, parse_math: bool = False) -> str:
    """Text in lines of at most `width` pixels, broken between words, and inside a word only if it is too long alone."""
    lines = []
    for paragraph in str(text).split("\n"):
        current = ""
        for word in paragraph.split():
            trial = f"{current} {word}".strip()
            if not current or _width(trial, size, bold=bold, parse_math=parse_math) <= width:
                current = trial
            else:
                lines.append(current)
                current = word
            while (
                not parse_math and len(current) > 1 and " " not in current and _width(current, size, bold=bold) > width
            ):
                fits = next(k for k in range(len(current) - 1, 0, -1) if k == 1 or _width(current[:k], size) <= width)
                lines.append(current[:fits])
                current = current[fits:]
        lines.append(current)
    return "\n".join(lines)


def _name_ends(ax, curves):
    """Write each curve's name at the right edge, at the height where it ends, moved apart where they would touch.

    curves: (last y, name, colour).
    """
    ax.figure.draw_without_rendering()  # settles the axis limits and the height of the axes
    size, curves = 10.5, sorted(curves)
    height = ax.get_position().height * ax.figure.get_size_inches()[1] * 72
    ends = [(ax.transScale + ax.transLimits).transform((1, y))[1] * height for y, _, _ in curves]
    gap = min(1.3 * size, height / len(curves))
    for k in range(1, len(ends)):
        ends[k] = max(ends[k], ends[k - 1] + gap)
    ends[-1] = min(ends[-1], height)
    for k in reversed(range(len(ends) - 1)):
        ends[k] = min(ends[k], ends[k + 1] - gap)
    for end, (_, name, colour) in zip(ends, curves, strict=True):
        ax.annotate(name, (1, end / height), xycoords="axes fraction", xytext=(6, 0), textcoords="offset points",
                    va="center", color=_ink(colour), fontsize=size, fontweight="bold", parse_math=False)  # fmt: skip
