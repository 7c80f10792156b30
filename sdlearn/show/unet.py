"""The UNet as a drawing, made from its module tree; weights are not needed."""

from itertools import zip_longest

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from . import paper
from .paper import BLUE, DPI, GREY, VERMILION, Picture


def skip_counts(unet) -> list[tuple[int, tuple[int, int]]]:
    """(how many, their height and width in latents) of the skips of each level, from the outermost inwards.

    The first convolution sends one, every residual block on the way down one, and every halving one of its result.
    """
    size = unet.config.sample_size
    rows, columns = (size, size) if isinstance(size, int) else size
    levels, arriving = [], 1
    for block in unet.down_blocks:
        levels.append((arriving + len(block.resnets), (rows, columns)))
        arriving = 1 if getattr(block, "downsamplers", None) else 0
        if arriving:
            rows, columns = -(-rows // 2), -(-columns // 2)
    return levels


@paper.house_style
def unet(unet, *, title=None) -> Figure:
    """Where the time, the text and the skip connections enter a UNet2DConditionModel (of any size, also on "meta").

    Blue squares: residual blocks, which take the time. Orange squares: attention that reads the text. Dashed: skips.
    """
    levels = skip_counts(unet)
    n = len(levels)
    fig = Picture(figsize=(6.6, 1.06 * n + 2.1), dpi=DPI)
    ax = fig.add_axes((0, 0, 1, 1), xlim=(-0.2, 10.2), ylim=(-1.75, n + 0.5 + 0.45 * bool(title)))
    ax.axis("off")
    centre = {"ha": "center", "va": "center", "fontsize": 10}

    def square(x: float, y: float, letter: str) -> None:
        colour = {"t": BLUE, "c": VERMILION}[letter]
        edge = {"boxstyle": "square,pad=0.25", "facecolor": colour, "edgecolor": "none"}
        ax.text(x, y, letter, color="white", weight="bold", bbox=edge, **centre)

    def arrow(start: tuple, end: tuple, **way) -> None:
        paint = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.6, "shrinkA": 2, "shrinkB": 2}
        ax.annotate("", end, start, arrowprops=paint | way)

    def box(name: str, block, x: float, y: float) -> None:
        ax.add_patch(Rectangle((x, y), 3.3, 0.66, facecolor="#f0f0f0", edgecolor=GREY))
        ax.text(x + 1.65, y + 0.49, f"{name}: {block.resnets[0].out_channels} channels", **centre)
        pairs = zip_longest(block.resnets, getattr(block, "attentions", ()))
        letters = "".join("t" if attention is None else "tc" for _, attention in pairs)
        for k, letter in enumerate(letters):
            square(x + 1.65 + 0.4 * (k - (len(letters) - 1) / 2), y + 0.18, letter)

    ax.text(1.65, n + 0.16, "noisy latents", **centre)
    ax.text(8.35, n + 0.16, "prediction", **centre)
    for x, letter, words in ((0.15, "t", "residual block: takes the time"), (5.2, "c", "attention: reads the text")):
        square(x, -1.48, letter)
        ax.text(x + 0.35, -1.48, words, **centre | {"ha": "left"})
    for k, (count, (rows, columns)) in enumerate(levels):
        y = n - 1 - k  # the innermost level stands lowest, and the way up begins there
        box(f"down {k}", unet.down_blocks[k], 0, y)
        box(f"up {y}", unet.up_blocks[y], 6.7, y)
        arrow((3.3, y + 0.25), (6.7, y + 0.25), color=GREY, linestyle="--")
        ax.text(5, y + 0.43, f"{count} skips of {rows} × {columns}", color=GREY, **centre)
        arrow((1.65, y + 1), (1.65, y + 0.66))
        arrow((8.35, y + 0.66), (8.35, y + 1))
    box("mid", unet.mid_block, 3.35, -0.95)
    arrow((1.65, 0), (3.35, -0.62), connectionstyle="angle,angleA=-90,angleB=180")
    arrow((6.65, -0.62), (8.35, 0), connectionstyle="angle,angleA=0,angleB=-90")
    if title:
        ax.text(-0.05, n + 0.72, title, fontsize=12.5, fontweight="bold", va="center")
    skips = ", ".join(f"{count} of {rows} × {columns}" for count, (rows, columns) in levels)
    fig.alt = f"{title or 'The UNet'}: {n} blocks on the way down, {n} on the way up, and skips across: {skips}"
    return fig
