"""Every picture that the lessons show. Each function takes plain data and returns a matplotlib Figure.

    figures.grid(pictures, captions)                 # as the last line of a cell it shows itself, once
    figures.grid(pictures, captions).savefig("sheet.png")

A picture is a PIL image, a float tensor (3, H, W) in [-1, 1], or a uint8 array (H, W, 3); a batch (B, 3, H, W) is a
sequence of pictures. Of pictures up to 64 pixels wide, such as latents, the pixels are the subject, and they grow by
whole factors with hard edges; larger ones are enlarged or reduced smoothly. Colours are Okabe & Ito's (2008) for
categories, cividis for amounts and PuOr for signed values, all of which survive colour blindness. Captions and labels
are plain text; titles may hold $...$.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator

from . import paper
from .geometry import guidance_plane, guided_flow
from .heat import amounts, heat_maps, overlay
from .learning import planes, product, spread
from .machine import machine
from .paper import AMOUNT, BLACK, BLUE, COLOURS, DPI, GREY, ORANGE, PALE, PT, SIGNED, SKY, VERMILION, WIDTH
from .sheets import difference, distance, edge_colour, grid, guidance, latent_channels, overlap, psnr, strip
from .sizes import bars, to_scale
from .unet import unet

__all__ = ["attention", "curves", "density_over_time", "difference", "edge_colour", "field", "grid", "guidance"]
__all__ += ["histograms", "ladders", "latent_channels", "machine", "matrix", "noise_schedule", "number_line"]
__all__ += ["distance", "overlap", "psnr", "strip", "tokens", "walks"]
__all__ += ["planes", "product", "spread"]
__all__ += ["amounts", "bars", "guidance_plane", "guided_flow", "heat_maps", "overlay", "to_scale", "unet"]


@paper.house_style
def matrix(
    values, *, mask=None, row_labels=None, column_labels=None, xlabel=None, ylabel=None, title=None, label=None
) -> Figure:
    """A matrix as a heat map: similarities, a Gram matrix, a mask. Signed values get a scale with white zero.

    values: (rows, columns). mask: (rows, columns), true where a cell stays empty. label: what the colour means.
    """
    m = paper.numbers(values, "matrix")
    if m.ndim != 2:
        raise ValueError(f"A matrix has two dimensions, not shape {m.shape}.")
    if mask is not None:
        mask = paper.numbers(mask, "mask").astype(bool)
        if mask.shape != m.shape or mask.all():
            raise ValueError(f"The mask of this matrix must have its shape, {m.shape}, and leave a cell to draw.")
        m = np.ma.array(m, mask=mask)
    signed = m.min() < 0
    top = paper.scale(m)
    size = min(6.0, max(3.6, 0.62 * max(m.shape)))
    fig, ax = paper.chart(size + 1.6, size * min(1.3, max(0.45, m.shape[0] / m.shape[1])) + 1.0)
    norm = Normalize(-top, top) if signed else Normalize(m.min(), m.max() if m.max() > m.min() else m.min() + 1)
    shown = ax.imshow(m, cmap=SIGNED if signed else AMOUNT, norm=norm, interpolation="nearest", aspect="equal")
    ax.grid(False)
    for axis, names, n, what in (
        (ax.xaxis, column_labels, m.shape[1], "column"),
        (ax.yaxis, row_labels, len(m), "row"),
    ):
        if names is not None:
            paper.same_number(names, n, f"{what}_labels", f"{what}s")
            axis.set_ticks(range(n), [str(s) for s in names], parse_math=False)
    if column_labels is not None and max(len(str(s)) for s in column_labels) > 4:
        for tick in ax.get_xticklabels():
            tick.set(rotation=45, ha="right", rotation_mode="anchor")
    fig.colorbar(shown, ax=ax, label=label, shrink=0.9)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return paper.titled(fig, title, f"heat map of {m.shape[0]} × {m.shape[1]} values")


@paper.house_style
def attention(weights: Mapping, words: Sequence[str], *, mask=None, title=None) -> Figure:
    """Who looks at whom: a square table of numbers for each entry, a row for each word that looks.

    weights: caption -> (n, n), each on a scale of its own. mask: (n, n), true where a cell stays empty.
    """
    n = paper.something(words, "word")
    tables = {name: paper.numbers(values, name) for name, values in weights.items()}
    hidden = np.zeros((n, n), dtype=bool) if mask is None else paper.numbers(mask, "mask").astype(bool)
    columns = min(paper.something(tables, "table of weights"), 4)
    rows = math.ceil(len(tables) / columns)
    side = min(2.6, 7.6 / columns)
    fig, axes = paper.chart(min(WIDTH, side * columns + 1), (side + 0.75) * rows + 0.5, rows, columns)
    axes = np.ravel(axes)
    for k, (ax, (name, table)) in enumerate(zip(axes, tables.items(), strict=False)):
        if not table.shape == hidden.shape == (n, n):
            raise ValueError(f"{name!r} and the mask need shape {(n, n)}, a row and a column for each of {n} words.")
        shown = ax.imshow(np.ma.array(table, mask=hidden), cmap=AMOUNT, interpolation="nearest")
        for row, column in np.argwhere(~hidden) if n <= 6 else ():
            light = sum(shown.to_rgba(table[row, column])[:3]) > 1.5
            number = paper.signed(round(float(table[row, column]), 2) + 0.0, "g")
            put = {"ha": "center", "va": "center", "fontsize": 10, "color": "black" if light else "white"}
            ax.text(column, row, number, **put)
        ax.grid(False)
        ax.set_title(str(name), fontweight="normal", parse_math=False)
        names = [str(word) for word in words]
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 3 else {}
        ax.set_xticks(range(n), names, parse_math=False, **turned)
        ax.set_yticks(range(n), names if k % columns == 0 else [""] * n, parse_math=False)
        ax.set(xlabel="is looked at", ylabel="looks" if k % columns == 0 else None)
    for ax in axes[len(tables) :]:
        ax.remove()
    return paper.titled(fig, title, f"who looks at whom among {', '.join(map(str, words))}: {', '.join(tables)}")


@paper.house_style
def curves(lines: Mapping, *, xlabel, ylabel, title=None, log: str = "", slope: bool = False, reference=None) -> Figure:
    """Measured curves with their names beside them.

    lines: name -> (x, y), or y alone. log: "", "x", "y" or "xy".
    slope: print each curve's slope on log-log axes, fitted by least squares: the measured order of a solver.
    reference: (height, name) of a horizontal line to compare with.
    """
    paper.something(lines, "curve")
    fig, ax = paper.chart(WIDTH, 4.4)
    ends, places = [], []
    for k, (name, data) in enumerate(lines.items()):
        data = data if isinstance(data, tuple) else (range(len(data)), data)
        x, y = (paper.numbers(d, f"curve {name!r}").ravel() for d in data)
        paper.same_number(x, len(y), f"x values of {name!r}", "y values")
        for axis, v in zip("xy", (x, y), strict=True):
            if axis in log and (v <= 0).any():
                raise ValueError(f"A log axis cannot show {axis} values of curve {name!r} that are not positive.")
        if slope:
            name = f"{name} (slope {paper.signed(np.polyfit(np.log(x), np.log(y), 1)[0], '.2f')})"
        colour, marker = COLOURS[k % len(COLOURS)], "osD^vPX"[k % len(COLOURS)]
        ax.plot(x, y, color=colour, marker=marker if len(x) <= 40 else "", markersize=5)
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
    paper.titled(fig, title, f"{ylabel} against {xlabel} for {', '.join(map(str, lines))}")
    paper.name_ends(ax, ends)
    return fig


@paper.house_style
def noise_schedule(schedules, *, title=None) -> Figure:
    """What noise schedules do over the training timesteps: coefficients of picture and noise, log SNR, and betas.

    schedules: a NoiseSchedule, or a dict of name -> NoiseSchedule to compare.
    """
    several = isinstance(schedules, Mapping)
    named = schedules if several else {"": schedules}
    paper.something(named, "schedule")
    fig, axes = paper.chart(WIDTH, 6.0, 2, 2)
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
    paper.titled(fig, title or "How a picture fades into noise", "noise schedules: signal, noise, log SNR and betas")
    if several:  # the curves end too close together for names at their ends
        fig.legend(loc="outside lower center", ncols=min(4, len(named)), frameon=False, fontsize=11)
    else:
        paper.name_ends(first, [(float(s.signal[-1]), "signal", BLUE), (float(s.noise[-1]), "noise", VERMILION)])
    return fig


@paper.house_style
def histograms(values: Mapping, *, mean=0.0, std=1.0, title=None, xlabel="value") -> Figure:
    """Measured values against Gaussian densities, a panel for each entry: formula and measurement side by side.

    values: caption -> numbers of any shape, or caption -> {name: numbers} to lay several measurements over each other.
    mean, std: of the Gaussian; one number, or one for each panel.
    """
    paper.something(values, "set of values")
    means, stds = (np.broadcast_to(np.asarray(v, dtype=float), len(values)) for v in (mean, std))
    columns = min(len(values), 3)
    rows = math.ceil(len(values) / columns)
    fig, axes = paper.chart(min(WIDTH, 3.2 * columns + 1), 2.7 * rows + 0.6, rows, columns, sharex=True)
    axes = np.ravel(axes)
    sets = [
        {k: paper.numbers(v, caption).ravel() for k, v in (data if isinstance(data, Mapping) else {"": data}).items()}
        for caption, data in values.items()
    ]
    low = min(min(v.min() for s in sets for v in s.values()), *(means - 3.5 * stds))
    high = max(max(v.max() for s in sets for v in s.values()), *(means + 3.5 * stds))
    x = np.linspace(low, high, 1200)
    for ax, caption, group, mu, sigma in zip(axes, values, sets, means, stds, strict=False):
        notes = []
        for (name, v), colour in zip(group.items(), itertools.cycle((SKY, *COLOURS[1:]))):
            bins = np.linspace(v.min(), v.max() + 1e-9, int(np.clip(np.sqrt(v.size), 20, 60)))
            outline = {"histtype": "step", "linewidth": 1.8} if notes else {}  # the first is filled
            ax.hist(v, bins, density=True, color=colour, **outline)
            notes.append((f"{name or 'measured'} {paper.signed(v.mean(), '+.2f')} ± {v.std():.2f}", colour))
        density = np.exp(-0.5 * ((x - mu) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
        ax.plot(x, density, color=BLACK, linewidth=1.5, linestyle=(0, (4, 2)))
        notes.append((f"formula {paper.signed(mu, '+.2f')} ± {sigma:.2f}", BLACK))
        corner = {"transform": ax.transAxes, "va": "top", "ha": "right", "fontsize": 10, "parse_math": False}
        for k, (note, colour) in enumerate(notes):
            ax.text(0.98, 0.97 - 0.1 * k, note, color=paper.ink(colour), **corner)
        ax.set_title(str(caption), fontweight="normal", parse_math=False)
        ax.set_ylim(0, ax.get_ylim()[1] * (1.25 + 0.1 * len(group)))
        ax.set_yticks([])
        ax.set_xlabel(xlabel)
        ax.tick_params(labelbottom=True)
    for ax in axes[len(values) :]:
        ax.remove()
    return paper.titled(fig, title, f"histograms against Gaussian densities: {', '.join(map(str, values))}")


@paper.house_style
def field(x, fields: Mapping, *, samples=None, density=None, title=None) -> Figure:
    """What a network answers on a line, beside the exact answer, a panel for each timestep; grey is where data are.

    x: (X,), the positions. fields: caption -> (learned, exact, density), each (X,). samples: numbers made with this
    network, in a last panel over density (X,), which they should have.
    """
    paper.something(fields, "field")
    x = paper.numbers(x, "x").ravel()
    count = len(fields) + (samples is not None)
    fig, axes = paper.chart(WIDTH, 2.3 * math.ceil(count / 2) + 0.4, math.ceil(count / 2), 2)
    axes = list(axes.flat)
    for ax, (caption, parts) in zip(axes, fields.items(), strict=False):
        learned, exact, p = (paper.numbers(part, f"field {caption!r}").ravel() for part in parts)
        for part in (learned, exact, p):
            paper.same_number(part, len(x), f"values of {caption!r}", "positions")
        ax.fill_between(x, -3, -3 + 4 * p / p.max(), color=PALE, alpha=0.5, linewidth=0)
        ax.plot(x, exact, color=BLACK, linewidth=1.5, linestyle=(0, (4, 2)))
        ax.plot(x, learned, color=VERMILION)
        ax.set(ylim=(-3, 3), xlim=(x[0], x[-1]), xlabel="$x_t$", ylabel="predicted noise")
        ax.set_title(str(caption), fontweight="normal", parse_math=False)
    for k, (name, tone) in enumerate((("learned", VERMILION), ("exact", BLACK), ("data", GREY))):
        put = {"transform": axes[0].transAxes, "va": "top", "fontweight": "bold", "fontsize": 10}
        axes[0].text(0.03, 0.96 - 0.12 * k, name, color=paper.ink(tone), **put)
    if samples is not None:
        samples, p = paper.numbers(samples, "samples").ravel(), paper.numbers(density, "density").ravel()
        ax = axes[len(fields)]
        ax.hist(np.clip(samples, x[0], x[-1]), np.linspace(x[0], x[-1], 61), density=True, color=SKY)
        ax.plot(x, p, color=BLACK, linewidth=1.5, linestyle=(0, (4, 2)))
        ax.set(xlim=(x[0], x[-1]), ylim=(0, 1.45 * p.max()), xlabel="$x_0$", yticks=[])
        ax.set_title("made from noise by this network", fontweight="normal")
    for ax in axes[count:]:
        ax.remove()
    return paper.titled(fig, title, f"learned and exact answers on a line: {', '.join(map(str, fields))}")


@paper.house_style
def density_over_time(x, density, *, paths=None, timesteps=None, title=None) -> Figure:
    """A one-dimensional distribution while it diffuses: bright where x is likely, with sample paths drawn over it.

    x: (X,), the positions. density: (T, X), row k is the density at timesteps[k]. paths: (N, T), one sample a row.
    """
    x, p = paper.numbers(x, "x").ravel(), paper.numbers(density, "density")
    if p.ndim != 2 or p.shape[1] != len(x):
        raise ValueError(f"density needs shape (timesteps, {len(x)}), a row for each timestep, not {p.shape}.")
    t = np.arange(len(p)) if timesteps is None else paper.numbers(timesteps, "timesteps").ravel()
    paper.same_number(t, len(p), "timesteps", "rows of density")
    fig, ax = paper.chart(WIDTH, 4.0)
    # A power below one keeps the faint late density visible beside the sharp early peaks.
    shown = ax.pcolormesh(t, x, p.T, cmap=AMOUNT, norm=PowerNorm(0.5, 0, p.max()), shading="nearest", rasterized=True)
    ax.grid(False)
    if paths is not None:
        paths = paper.numbers(paths, "paths")
        if paths.ndim != 2 or paths.shape[1] != len(t):
            raise ValueError(f"paths needs shape (samples, {len(t)}), a column for each timestep, not {paths.shape}.")
        for path in paths:
            ax.plot(t, path, color="black", linewidth=2.2, alpha=0.5)
            ax.plot(t, path, color="white", linewidth=1.0)
    ax.set(xlabel="training timestep t", ylabel="$x_t$", ylim=(x.min(), x.max()))
    fig.colorbar(shown, ax=ax, label="probability density", pad=0.01)
    return paper.titled(fig, title or "Two roads into one Gaussian", "a density over time, with sample paths")


@paper.house_style
def walks(paths, panels: Mapping, *, density=None, title=None) -> Figure:
    """Points on their way from noise (left) to data (right), as the panels' walks take them and as they should go.

    paths: (noise (T,), places (T, N)), the right way, grey in each panel. panels: caption -> (noise (K,), places
    (K, N)), a coloured line with a mark at each of its K places for each of N points. noise: 1 at the start and 0 at
    the data. density: (places (X,), values (X,)) of the data, drawn at the right edge.
    """
    paper.something(panels, "panel")
    right_noise, right = (paper.numbers(part, "paths") for part in paths)
    fig, axes = paper.chart(WIDTH, 3.5, 1, len(panels), sharey=True)
    for k, (ax, (name, walk)) in enumerate(zip(np.ravel(axes), panels.items(), strict=True)):
        noise, places = (paper.numbers(part, f"walk {name!r}") for part in walk)
        paper.same_number(noise, len(places), f"noise levels of {name!r}", "rows of places")
        ax.plot(right_noise, right, color=PALE, linewidth=2.2, zorder=1)
        ax.plot(noise, places, color=COLOURS[k % len(COLOURS)], linewidth=1.1, marker="o", markersize=3.5, zorder=3)
        if density is not None:
            x, height = (paper.numbers(part, "density") for part in density)
            ax.fill_betweenx(x, 0, -0.22 * height / height.max(), color=GREY, alpha=0.45, linewidth=0, zorder=2)
        ax.set(xlim=(1.03, -0.24 if density is not None else -0.05), xticks=[1, 0.5, 0], xlabel="share of noise")
        ax.set_title(paper.wrap(name, 10.5, WIDTH * DPI / len(panels) - 24 * PT), fontsize=10.5)
    np.ravel(axes)[0].set_ylabel("place on the line")
    return paper.titled(fig, title, f"walks from noise to data: {', '.join(map(str, panels))}")


@paper.house_style
def tokens(pieces: Sequence[str], ids: Sequence[int], *, positions=None, dropped=(), title=None) -> Figure:
    """What the text encoder reads: each piece in its box, its position above, its id below; one colour for each word.

    pieces: the tokenizer's own, with CLIP's "</w>" at the end of a word and its two special tokens; ids: as many.
    Everything after the first end token is padding and shown as one box. positions: of the pieces, if they are not all
    from 0 on. dropped: what did not fit, crossed out; a text or its pieces.
    """
    paper.same_number(ids, len(pieces), "ids", "pieces")
    positions = range(len(pieces)) if positions is None else positions
    paper.same_number(positions, len(pieces), "positions", "pieces")
    paper.something(pieces, "token")
    end = next((k for k, piece in enumerate(pieces) if piece == "<|endoftext|>"), len(pieces) - 1)
    padding = len(pieces) - 1 - end
    boxes, word = [], 0  # (position, text, id, colour, joined to the next)
    for k in range(end + 1):
        special = pieces[k].startswith("<|") and pieces[k].endswith("|>")
        whole = special or pieces[k].endswith("</w>")
        text = pieces[k] if special else pieces[k].removesuffix("</w>")
        boxes.append((str(positions[k]), text, str(ids[k]), "#e3e3e3" if special else paper.tint(word), not whole))
        word += whole and not special
    if padding:
        span = f"{positions[end + 1]}" if padding == 1 else f"{positions[end + 1]}–{positions[-1]}"
        boxes.append((span, f"padding × {padding}", str(ids[-1]), "#f4f4f4", False))
    dropped = dropped.split() if isinstance(dropped, str) else dropped
    boxes += [("lost", piece.removesuffix("</w>"), "—", "white", False) for piece in dropped]

    high, low, gap, margin = 26 * PT, 18 * PT, 7 * PT, 8 * PT
    full = WIDTH * DPI
    x, y, placed = margin, 0.0, []
    for where, text, number, colour, joined in boxes:
        width = max(paper.text_width(text, 12), paper.text_width(number, 10), paper.text_width(where, 10)) + 14 * PT
        if x + width > full - margin and x > margin:
            x, y = margin, y + high + 2 * low + gap
        placed.append((x, y, width, where, text, number, colour))
        x += width + (1 * PT if joined else gap)
    if not title:
        title = f"{len(pieces)} tokens" + (f", of which {padding} are padding" if padding else "")
        title += f"; {len(dropped)} more did not fit" if dropped else ""
    top = margin + 22 * PT
    fig = paper.canvas(max(p[0] + p[2] for p in placed) + margin, top + y + high + 2 * low + margin, title)
    w, h = fig.get_size_inches() * DPI
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, w), ylim=(h, 0))
    ax.axis("off")
    rounded = f"round,pad=0,rounding_size={4 * PT}"
    for x, y, width, where, text, number, colour in placed:
        lost = where == "lost"
        edge = VERMILION if lost else GREY
        box = FancyBboxPatch((x, top + y + low), width, high, rounded, facecolor=colour, edgecolor=edge, linewidth=0.8)
        ax.add_patch(box).set_linestyle("--" if lost else "-")
        centre, middle = x + width / 2, top + y + low + high / 2
        put = {"ha": "center", "parse_math": False}
        ax.text(centre, top + y + low - 4 * PT, where, va="bottom", fontsize=10, color=edge, **put)
        ax.text(centre, middle, text, va="center_baseline", fontsize=12, color=GREY if lost else "black", **put)
        ax.text(centre, top + y + low + high + 3 * PT, number, va="top", fontsize=10, color=GREY, **put)
        if lost:
            ax.plot([x + 4 * PT, x + width - 4 * PT], [middle, middle], color=VERMILION, linewidth=1.2)
    fig.alt = f"{title}: " + ", ".join(f"{text} ({number})" for _, _, _, _, text, number, _ in placed)
    return fig


@paper.house_style
def ladders(schedule, runs: Mapping, *, title=None) -> Figure:
    """The noise levels that runs stop at, under three rulers: timestep, alpha-bar and sigma name the same place.

    schedule: a NoiseSchedule. runs: name -> Levels, noisiest first, such as `Plan.levels`. A run that ends without any
    noise ends at the bar on the right, which no logarithm reaches.
    """
    paper.something(runs, "run")
    finite = schedule.sigma[schedule.alpha_bar > 0].numpy()
    top, bottom = math.log(finite[-1]), math.log(finite[0])
    gap = 0.06 * (top - bottom)
    clean = bottom - 2 * gap

    def place(sigma) -> float:  # sigma 0 lies at the bar, and what is beyond the table at its end
        return clean if sigma == 0 else min(math.log(sigma), top) if sigma < math.inf else top

    last = len(finite) - 1
    rulers = {
        "timestep": [(f"{t:g}", finite[t]) for t in (last, *range(last // 100 * 100, 0, -100), 50, 20, 0) if t <= last],
        "alpha-bar": [
            (f"{a:g}", math.sqrt((1 - a) / a))
            for a in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)
        ],
        "sigma": [(f"{s:g}", s) for s in (100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)],
    }
    ends = {"timestep": "end", "alpha-bar": "1", "sigma": "0"}
    fig, ax = paper.chart(WIDTH, 1.75 + 0.36 * len(runs))
    put = {"ha": "center", "fontsize": 9.5}
    for row, (name, ticks) in enumerate(rulers.items()):
        ax.plot([top, bottom], [row, row], color=GREY, linewidth=1.2)
        free = math.inf  # from left to right, each label where the one before leaves room
        for label, sigma in ticks:
            x = math.log(sigma)
            if bottom - 1e-9 <= x <= top + 1e-9:
                ax.plot([x, x], [row, row + 0.16], color=GREY, linewidth=1)
                if x < free:
                    ax.text(x, row - 0.12, label, va="bottom", **put)
                    free = x - gap * (0.45 + 0.17 * len(label))
        paged = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        ax.text(clean, row - 0.12, ends[name], va="bottom", bbox=paged, **put)
        ax.text(top + 0.7 * gap, row, name, ha="right", va="center", fontsize=10.5)
    first, height = len(rulers) + 0.25, len(rulers) + len(runs) - 0.1
    ax.plot([clean, clean], [0.1, height], color=GREY, linewidth=1.2, linestyle=(0, (2, 2)))
    for row, (name, levels) in enumerate(runs.items()):
        x, y = [place(level.sigma) for level in levels], [first + row] * len(levels)
        colour = COLOURS[row % len(COLOURS)]
        ax.plot(x, y, color=colour, marker="o", markersize=7, linewidth=1.5)
        beside = {"ha": "right", "va": "center", "fontsize": 10.5, "fontweight": "bold", "parse_math": False}
        ax.text(top + 0.7 * gap, first + row, str(name), color=paper.ink(colour), **beside)
    ax.set(xlim=(top + 0.4 * gap, clean - 0.5 * gap), ylim=(height + 0.15, -0.75))
    ax.axis("off")
    counts = (f"{name}: {', '.join(f'{level.sigma:.3g}' for level in levels)}" for name, levels in runs.items())
    return paper.titled(fig, title, f"the noise levels sigma of each run; {'; '.join(counts)}")


@paper.house_style
def number_line(timesteps: Sequence[int], start: int | Mapping = 0, *, title=None) -> Figure:
    """The steps of a run on a line, noise on the left; steps before `start` are skipped and grey (image-to-image).

    timesteps: of the whole run, largest first. start: the index of the first step taken, or name -> index.
    """
    timesteps = [int(t) for t in timesteps]
    n = paper.something(timesteps, "timestep")
    runs = start if isinstance(start, Mapping) else {"": start}
    for s in runs.values():
        if not 0 <= s <= n:
            raise ValueError(f"start must be from 0 to {n}, the number of steps, not {s}.")
    fig, ax = paper.chart(WIDTH, 1.3 + 0.36 * len(runs))
    beside = {"textcoords": "offset points", "va": "center", "fontsize": 10.5, "parse_math": False}
    for row, (name, s) in enumerate(runs.items()):
        ax.plot([0, s], [row, row], color=PALE, linewidth=2, zorder=1)
        ax.plot([s, n], [row, row], color=BLUE, linewidth=3, zorder=1, solid_capstyle="butt")
        ax.plot(range(s), [row] * s, "o", color="white", markeredgecolor="#9a9a9a", markersize=6)
        ax.plot(range(s, n), [row] * (n - s), "o", color=BLUE, markersize=7)
        ax.plot([n], [row], marker=">", color=BLUE if s < n else PALE, markersize=8)
        ax.annotate(f"{n - s} of {n} steps", (n, row), xytext=(12, 0), **beside)
        ax.annotate(paper.wrap(name, 10.5, 1.6 * DPI), (0, row), xytext=(-20, 0), ha="right", **beside)
    last = len(runs) - 1
    for k in range(0, n, max(1, math.ceil(n / 13))):
        ax.text(k, last + 0.52, str(k), ha="center", va="center", fontsize=10)
        ax.text(k, last + 0.94, str(timesteps[k]), ha="center", va="center", fontsize=10, color=GREY)
    for word, below, tone in (("index", 0.52, "black"), ("timestep", 0.94, GREY)):
        ax.annotate(word, (0, last + below), xytext=(-20, 0), ha="right", color=tone, **{**beside, "fontsize": 10})
    ax.set(xlim=(-0.5, n + 0.5), ylim=(last + 1.15, -0.55))
    ax.axis("off")
    message = (f"{name or 'the run'} starts at index {s} and takes {n - s} of {n} steps" for name, s in runs.items())
    return paper.titled(fig, title or "From noise (left) to picture (right)", "; ".join(message))
