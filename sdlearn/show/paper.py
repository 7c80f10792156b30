"""What every figure stands on: the house's colours and type, data taken in and checked, text measured and placed."""

import base64
import io
import math
import re
import textwrap
import uuid
from html import escape

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from PIL import Image

from .. import pictures

BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000",
)  # fmt: skip
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
AMOUNT, SIGNED = "cividis", "PuOr"
GREY, PALE = "#595959", "#c8c8c8"

WIDTH = 8.5  # inches: the column of a notebook, so that a point on paper is a point on the page
DPI = 144  # 16 * 9, so sides of a multiple of 9 pixels are exact in inches, which whole-pixel enlargement needs
PT = DPI / 72  # pixels in a point
SVG = 200_000  # characters of a drawing
CRISP = 64  # of a picture up to this many pixels wide (latents, maps) the pixels are the subject

house_style = style.context(["default", {
    "font.size": 10.5, "figure.titlesize": 12.5, "figure.titleweight": "bold",
    "axes.titlesize": 11.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e6e6e6", "lines.linewidth": 2,
}])  # fmt: skip


def enlarged(image: Image.Image, room: int, most: int = 3) -> Image.Image:
    """The picture at most `room` pixels wide: by a whole factor, with hard edges, where its pixels are the subject, and
    smoothly, to at most `most` times its size, where it is a picture of something. Larger ones are reduced smoothly."""
    if image.width <= min(CRISP, room):
        factor = room // image.width
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    width = min(room, most * image.width)
    return image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)


class Picture(Figure):
    """A Figure with a text alternative, that shows itself in a notebook without pyplot and at its size in inches."""

    alt = ""

    @house_style
    def png(self) -> bytes:
        """The figure as the bytes of a PNG file."""
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=self.dpi)
        return file.getvalue()

    @house_style
    def svg(self) -> str | None:
        """A chart as inline SVG; None for what holds pictures or so many marks that a PNG is smaller.

        Each colour #rrggbb is var(--ink-rrggbb, #rrggbb), so that a dark page may put another in its place.
        """
        if self.images or any(ax.images for ax in self.axes):
            return None
        file, own = io.StringIO(), f"chart-{uuid.uuid4().hex[:8]}"
        with matplotlib.rc_context({"svg.fonttype": "path"}):
            self.savefig(file, format="svg", metadata={"Date": None})
        drawing = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|\n\s*", " ", file.getvalue(), flags=re.DOTALL)
        if len(drawing) > SVG:
            return None
        drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}-", drawing)
        drawing = re.sub(r"\b(fill|stroke): #([0-9a-f]{6})", r"\1: var(--ink-\2, #\2)", drawing)
        drawing = drawing.replace('<style type="text/css">*', f"<style>#{own} *")  # not the whole page
        width, box = round(96 * self.get_figwidth()), re.search(r'viewBox="[^"]+"', drawing)[0]
        head = f'<svg id="{own}" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box} '
        head += f'role="img" aria-label="{escape(self.alt)}" width="{width}" style="max-width:100%;height:auto;'
        head += 'fill:var(--ink-000000, #000000)">'  # what is black says nothing of its fill
        return head + drawing[re.search("<svg.*?>", drawing).end() :]

    def _ipython_display_(self):
        # Pyplot's display hook exists only once pyplot is imported, and then crops; this is the same in both cases.
        from IPython.display import display

        png, width = base64.b64encode(self.png()).decode(), round(96 * self.get_figwidth())
        # HTML beside the PNG, because that is what carries the text alternative into JupyterLab and the book.
        image = f'<img class="dark-light" src="data:image/png;base64,{png}" alt="{escape(self.alt)}" width="{width}" '
        image += 'style="max-width:100%;height:auto">'
        data = {"text/html": self.svg() or image, "image/png": png, "text/plain": self.alt}
        display(data, metadata={"image/png": {"width": width}}, raw=True)


def picture(image) -> Image.Image:
    """A picture of any accepted kind as an upright RGB PIL image."""
    if isinstance(image, pictures.Picture):
        return pictures.open_image(image)
    return Image.fromarray(np.uint8(np.clip(unit(image), 0, 1) * 255 + 0.5))


def unit(image) -> np.ndarray:
    """A picture as floats (H, W, 3), black 0 and white 1; tensors keep values beyond that range."""
    if isinstance(image, pictures.Picture):
        return np.asarray(picture(image), dtype=float) / 255
    x = numbers(image, "picture")
    whole = str(image.dtype).endswith("uint8") if hasattr(image, "dtype") else False
    if whole and x.ndim == 3 and x.shape[2] == 3:
        return x / 255
    if not whole and x.ndim == 3 and x.shape[0] == 3:
        return x.transpose(1, 2, 0) / 2 + 0.5
    raise ValueError(
        "A picture is a PIL image, the path of one, a float tensor (3, H, W) in [-1, 1] or a uint8 array (H, W, 3), "
        f"not {'whole' if whole else 'real'} numbers of shape {x.shape}."
    )


def numbers(values, what: str) -> np.ndarray:
    """Tensor, array or sequence as a float64 array, finite and not empty."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    x = np.asarray(values, dtype=float)
    if x.size == 0:
        raise ValueError(f"There is nothing to draw: the {what} has no values.")
    if bad := x.size - np.isfinite(x).sum():
        found = f"The {what} has {bad} of {x.size} values that are NaN or infinite"
        raise ValueError(f"{found}; find the step that made them.")
    return x


def something(things, kind: str) -> int:
    """How many there are; ValueError for none."""
    if not len(things):
        raise ValueError(f"There is nothing to draw: give at least one {kind}.")
    return len(things)


def same_number(things, count: int, name: str, others: str):
    if len(things) != count:
        raise ValueError(f"There are {len(things)} {name} for {count} {others}; give as many.")


def same_shape(a: np.ndarray, b: np.ndarray):
    if a.shape != b.shape:
        raise ValueError(f"Only pictures or tensors of one size can be compared, not {a.shape} with {b.shape}.")


def scale(x: np.ndarray) -> float:
    """The largest magnitude, as the end of a scale with zero in its middle."""
    return float(np.abs(x).max()) or 1.0


def ink(colour: str) -> tuple[float, ...]:
    """A category colour, dark enough for text on white."""
    return tuple(0.72 * part for part in to_rgb(colour))


def tint(k: int) -> tuple[float, ...]:
    """A light tint of the k-th category colour, on which black text is readable."""
    colour = (SKY, ORANGE, GREEN, PURPLE, VERMILION, BLUE)[k % 6]
    return tuple(1 - 0.42 * (1 - part) for part in to_rgb(colour))


def chart(width: float, height: float, rows: int = 1, columns: int = 1, **options):
    fig = Picture(figsize=(width, height), dpi=DPI, layout="constrained")
    fig.get_layout_engine().set(w_pad=0.09, h_pad=0.09, hspace=0.04)
    return fig, fig.subplots(rows, columns, squeeze=rows * columns == 1, **options)


def titled(fig: Picture, title: str | None, alt: str) -> Picture:
    if title:
        fig.suptitle(title, x=0.01, ha="left")
    fig.alt = f"{title}: {alt}" if title else alt
    return fig


def canvas(width: float, height: float, title: str | None) -> Picture:
    """An empty figure of at least this many pixels, with its title in the top left corner."""
    w, h = (9 * math.ceil(side / 9) for side in (width, height))
    fig = Picture(figsize=(w / DPI, h / DPI), dpi=DPI)
    if title:
        fig.text(8 * PT / w, 1 - 6 * PT / h, title, va="top", fontsize=12.5, fontweight="bold")
    return fig


def signed(value: float, form: str) -> str:
    return format(value, form).replace("-", "\u2212")  # a minus sign, as on the axes, not a hyphen


def text_width(text: str, size: float, *, bold: bool = False, parse_math: bool = False) -> float:
    """The width of one line of text in pixels."""
    font = FontProperties(size=size, weight="bold" if bold else "normal")
    math_inside = parse_math and text.count("$") >= 2
    return text_to_path.get_text_width_height_descent(text or " ", font, math_inside)[0] * PT


def wrap(text, size: float, width: float, **font) -> str:
    """Text in lines of at most `width` pixels, broken between words, and inside a word only if it is too long alone."""
    lines = []
    for paragraph in str(text).split("\n"):
        letters = max(1, len(paragraph))
        while (cut := textwrap.wrap(paragraph, letters, break_on_hyphens=False)) and letters > 1:
            if max(text_width(line, size, **font) for line in cut) <= width:
                break
            letters -= 1
        lines += cut or [""]
    return "\n".join(lines)


def name_ends(ax, curves):
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
                    va="center", color=ink(colour), fontsize=size, fontweight="bold", parse_math=False)  # fmt: skip
