"""Pictures to drag through by hand, in one HTML output that needs no kernel, no network and no other file.

    sdlearn.scrub(frames, labels)          # a slider over time, guidance scales, strengths, ...
    sdlearn.compare(before, after)         # one picture over the other, with a border to move
    sdlearn.scrub_plane(rows, across, down)     # a square to drag, one axis across and one down

The output carries its frames (lossless, as data URIs) and its script, scrubber.js. It lives in a shadow tree, so that
neither the page's style nor its keyboard shortcuts get in. Where scripts do not run, a strip of the frames stands in.
"""

import base64
import io
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from ..pictures import Picture, contact_sheet
from . import paper

WEBP = 16383  # pixels: the longest side that the format knows
FRAME = 16_000  # bytes, likewise, of one frame of a scrubber that need not be exact
STRIP = 100_000  # bytes of what stands in without scripts; a larger one is made smaller
ROW = 720  # CSS pixels for all pictures of a row together
_SCRIPT = Path(__file__).with_name("scrubber.js")


@dataclass(frozen=True, eq=False)
class Scrubber:
    """What `scrub` and `compare` return; a notebook shows it by itself.

    frames: rows of RGB pictures, one row a frame. labels: one for each frame. names: one for each picture of a row, or
    empty. alt: what the pictures show, in words.
    """

    frames: list[list[Image.Image]]
    labels: list[str]
    names: list[str]
    alt: str
    html: str = field(repr=False)

    def save_html(self, path) -> None:
        """Write a page that holds nothing else, to open in any browser."""
        head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        head += f"<title>{escape(self.alt)}</title>"
        page = f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>{self.html}</main></body></html>\n'
        Path(path).write_text(page, encoding="utf-8")

    def _repr_mimebundle_(self, include=None, exclude=None):
        file = io.BytesIO()
        _side_by_side(self.frames).save(file, "png")
        still = base64.b64encode(file.getvalue()).decode()
        return {"text/html": self.html, "image/png": still, "text/plain": self.alt}


def scrub(
    frames: Sequence,
    labels: Sequence[str] | None = None,
    *,
    names: Sequence[str] | None = None,
    caption: str | None = None,
    alt: str | None = None,
    start: int = 0,
    fps: float = 4,
    lossless: bool = True,
) -> Scrubber:
    """Frames under a slider, with play, keys (arrows, Home, End, space) and dragging on the picture.

    frames: pictures or matplotlib Figures of one size; or rows of them, such as [x_t, x_0] pairs, shown side by side.
    labels: the text in step with each frame, such as "t = 981". names: one over each picture of a row, such as "x_t".
    caption: shown below. alt: what the pictures show, for readers who do not see them; by default the caption.
    start: index of the first frame shown; negative counts from the end. fps: frames a second when playing. lossless: of
    a False one the frames of more than FRAME bytes are stored with some loss, which noise needs.
    """
    rows = _rows(frames)
    count = len(rows)
    labels = [f"{k + 1} of {count}" for k in range(count)] if labels is None else [str(label) for label in labels]
    paper.same_number(labels, count, "labels", "frames")
    if names is not None:
        paper.same_number(names, len(rows[0]), "names", "pictures in a row")
    if not -count <= start < count:
        raise ValueError(f"start must be the index of one of the {count} frames, not {start}.")
    if not fps > 0:
        raise ValueError(f"fps must be more than 0, not {fps}.")
    limit = None if lossless else FRAME
    return _scrubber("frames", rows, labels, names, caption, alt, start % count, 1000 / fps, limit=limit)


def compare(a, b, *, labels: Sequence[str] = ("before", "after"), caption: str | None = None, alt=None) -> Scrubber:
    """Two pictures of one size, one over the other: the border between them follows slider, keys and pointer."""
    rows = _rows([a, b])
    if len(labels) != 2:
        raise ValueError(f"compare needs two labels, one for each picture, not {len(labels)}.")
    labels = [str(label) for label in labels]
    return _scrubber("compare", rows, labels, None, caption, alt or caption or " and ".join(labels), 50, 0)


def scrub_plane(
    rows: Sequence[Sequence],
    across: Sequence,
    down: Sequence,
    *,
    axes: Sequence[str],
    caption: str | None = None,
    alt: str | None = None,
    start: tuple[int, int] = (0, 0),
) -> Scrubber:
    """One picture of many, chosen on a square: what goes along its two sides is varied, such as steps and guidance.

    rows: pictures or matplotlib Figures of one size; rows[i][j] belongs to down[i] and across[j], which are said as
    they are written. axes: the names of the two sides, the one across first. start: (i, j) of the first picture shown.
    caption, alt: as for `scrub`. Arrow keys go both ways.
    """
    rows = [list(row) for row in rows]
    across, down = ([str(label) for label in labels] for labels in (across, down))
    paper.same_number(down, len(rows), "labels down", "rows")
    for row in rows:
        paper.same_number(across, len(row), "labels across", "pictures in a row")
    paper.same_number(axes, 2, "names", "axes")
    i, j = start
    if not (-len(down) <= i < len(down) and -len(across) <= j < len(across)):
        raise ValueError(f"start must be a place among {len(down)} rows and {len(across)} columns, not {start}.")
    labels = [f"{axes[1]} {low}, {axes[0]} {right}" for low in down for right in across]
    place = i % len(down) * len(across) + j % len(across)
    plane = {"across": across, "down": down, "axes": [str(name) for name in axes]}
    frames = _rows([picture for row in rows for picture in row])
    return _scrubber("plane", frames, labels, None, caption, alt, place, 0, plane)


def _scrubber(kind, rows, labels, names, caption, alt, start, delay, more=None, limit=None) -> Scrubber:
    names = [str(name) for name in names or []]
    alt = alt or caption or f"{len(rows)} pictures, from {labels[0]} to {labels[-1]}"
    width, height = rows[0][0].size
    across = 1 if kind == "compare" else len(rows[0])
    room = (ROW - 8 * (across - 1)) // across
    crisp, most = width <= paper.CRISP, max(1, min(320, room) // width) * width
    shown = most if crisp else min(max(width, min(320, 3 * width)), room)
    uris: dict[str, int] = {}
    places = [[uris.setdefault(picture_uri(image, limit), len(uris)) for image in row] for row in rows]
    data = {"id": f"sdlearn-{uuid.uuid4().hex[:12]}", "kind": kind, "start": start, "delay": delay}
    data |= {
        "uris": list(uris),
        "frames": places,
        "labels": labels,
        "names": names,
        "caption": caption or "",
        "alt": alt,
    }
    data |= {"width": width, "height": height, "shown": shown, "crisp": crisp, **(more or {})}
    # Inside <script>, "<" could end the script or open a comment; JSON can spell it otherwise.
    script = _SCRIPT.read_text(encoding="utf-8").replace("DATA", json.dumps(data).replace("<", "\\u003c"))
    strip = picture_uri(_side_by_side(rows), most=STRIP)
    still = f'<img class="dark-light" loading="lazy" src="{strip}" alt="{escape(alt)}" style="max-width:100%">'
    still += f"<p>{escape(caption)}</p>" if caption else ""
    page = (
        f'<div id="{data["id"]}" class="tex2jax_ignore mathjax_ignore" data-lm-suppress-shortcuts="true">{still}</div>'
    )
    return Scrubber(rows, labels, names, alt, f"{page}<script>{script}</script>")


def _rows(frames) -> list[list[Image.Image]]:
    if isinstance(frames, Picture):
        raise TypeError("Frames are a sequence of pictures, not one; a single picture needs no slider.")
    frames = list(frames)
    if not frames:
        raise ValueError("There is nothing to scrub through: give at least one frame.")
    rows = [[_still(f) for f in (frame if isinstance(frame, (list, tuple)) else [frame])] for frame in frames]
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        raise ValueError("Every frame needs the same number of pictures, at least one.")
    sizes = sorted({image.size for row in rows for image in row})
    if len(sizes) > 1:
        message = ", ".join(f"{w} × {h}" for w, h in sizes)
        raise ValueError(f"All pictures must have one size, or they would jump; these have {message}.")
    return rows


def _still(frame) -> Image.Image:
    if not isinstance(frame, Figure):
        return paper.picture(frame)
    file = io.BytesIO()
    frame.savefig(file, format="png", dpi=frame.dpi)
    return paper.picture(Image.open(file))


def picture_uri(image: Image.Image, most: int | None = None) -> str:
    """The picture without loss, as WebP or PNG, whichever is smaller; with some where that takes more than `most`."""
    kept = []
    for form, options in (("webp", {"lossless": True, "quality": 90}), ("png", {"optimize": True})):
        if form == "webp" and max(image.size) > WEBP:
            continue
        file = io.BytesIO()
        image.save(file, form, **options)
        kept.append((len(file.getvalue()), form, file.getvalue()))
    size, form, content = min(kept)
    if most is not None and size > most and max(image.size) <= WEBP:
        file = io.BytesIO()
        image.save(file, "webp", quality=80)
        form, content = "webp", file.getvalue()
    return f"data:image/{form};base64,{base64.b64encode(content).decode()}"


def _side_by_side(rows: list[list[Image.Image]]) -> Image.Image:
    """At most six frames, first and last among them, each above the next of its row: what shows without scripts."""
    last, (width, height) = len(rows) - 1, rows[0][0].size
    chosen = sorted({round(k * last / 5) for k in range(6)})
    shown = [rows[k][line] for line in range(len(rows[0])) for k in chosen]
    if width > 160:
        size = 160, max(1, round(height * 160 / width))
        shown = [image.resize(size, Image.Resampling.LANCZOS) for image in shown]
    return contact_sheet(shown, len(chosen), gap=4)
