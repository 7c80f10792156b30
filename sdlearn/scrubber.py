"""Pictures to drag through by hand, in one HTML output that needs no kernel, no network and no other file.

    sdlearn.scrub(frames, labels)          # a slider over time, guidance scales, strengths, ...
    sdlearn.compare(before, after)         # one picture over the other, with a border to move

The output carries its frames (lossless, as data URIs) and its script. It lives in a shadow tree, so that neither the page's
style nor its keyboard shortcuts get in, and nothing gets out. Where scripts do not run, a strip of the frames stands in.
"""

from __future__ import annotations

import base64
import html
import io
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from . import figures

SMALL = 128  # pictures up to this many pixels wide are enlarged crisply, by whole factors
ROW = 720  # CSS pixels for all pictures of a row together


@dataclass(frozen=True, eq=False)
class Scrubber:
    """What `scrub` and `compare` return; a notebook shows it by itself.

    frames: rows of RGB pictures, one row a frame. labels: one for each frame. alt: what the pictures show, in words.
    """

    frames: list[list[Image.Image]]
    labels: list[str]
    alt: str
    html: str = field(repr=False)

    def save_html(self, path) -> None:
        """Write a page that holds nothing else, to open in any browser."""
        head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(self.alt)}'
        page = f'<!doctype html><html lang="en"><head>{head}</title></head><body><main>{self.html}</main></body></html>'
        Path(path).write_text(page, encoding="utf-8")

    def strip(self) -> Figure:
        """The frames as a still picture, first to last."""
        rows = {f"{k + 1}" if len(self.frames[0]) > 1 else "": column for k, column in enumerate(zip(*self.frames, strict=True))}
        return figures.strip(rows, self.labels)

    def _repr_html_(self) -> str:
        return self.html

    def _repr_mimebundle_(self, include=None, exclude=None):
        still = base64.b64encode(self.strip().png()).decode()
        return {"text/html": self.html, "image/png": still, "text/plain": self.alt}, {"image/png": {"alt": self.alt}}


def scrub(
    frames: Sequence,
    labels: Sequence[str] | None = None,
    *,
    names: Sequence[str] | None = None,
    caption: str | None = None,
    alt: str | None = None,
    start: int = 0,
    fps: float = 4,
) -> Scrubber:
    """Frames under a slider, with play, keys (arrows, Home, End, space) and dragging on the picture.

    frames: pictures or matplotlib Figures of one size; or rows of them, such as [x_t, x_0] pairs, shown side by side.
    labels: the text in step with each frame, such as "t = 981". names: one over each picture of a row, such as "x_t".
    caption: said below. alt: what the pictures show, for readers who do not see them; by default the caption.
    start: index of the first frame shown; negative counts from the end. fps: frames a second when playing.
    """
    rows = _rows(frames)
    count = len(rows)
    labels = [f"{k + 1} of {count}" for k in range(count)] if labels is None else [str(label) for label in labels]
    if len(labels) != count:
        raise ValueError(f"There are {len(labels)} labels for {count} frames; give as many.")
    if names is not None and len(names) != len(rows[0]):
        raise ValueError(f"There are {len(names)} names for {len(rows[0])} pictures in a row; give as many.")
    if not -count <= start < count:
        raise ValueError(f"start must be the index of one of the {count} frames, not {start}.")
    if not fps > 0:
        raise ValueError(f"fps must be more than 0, not {fps}.")
    return _scrubber("frames", rows, labels, names, caption, alt, start % count, 1000 / fps)


def compare(a, b, *, labels: Sequence[str] = ("before", "after"), caption: str | None = None, alt=None) -> Scrubber:
    """Two pictures of one size, one over the other: the border between them follows slider, keys and pointer."""
    rows = _rows([a, b])
    if len(labels) != 2:
        raise ValueError(f"compare needs two labels, one for each picture, not {len(labels)}.")
    labels = [str(label) for label in labels]
    return _scrubber("compare", rows, labels, None, caption, alt or caption or " and ".join(labels), 50, 0)


def _scrubber(kind, rows, labels, names, caption, alt, start, delay) -> Scrubber:
    alt = alt or caption or f"{len(rows)} pictures, from {labels[0]} to {labels[-1]}"
    width, height = rows[0][0].size
    across = 1 if kind == "compare" else len(rows[0])
    room = min(320, (ROW - 8 * (across - 1)) // across) if width <= SMALL else (ROW - 8 * (across - 1)) // across
    shown = max(1, room // width) * width if width <= SMALL else min(width, room)
    uris: dict[str, int] = {}
    places = [[uris.setdefault(_uri(image), len(uris)) for image in row] for row in rows]
    data = {
        "id": f"sdlearn-{uuid.uuid4().hex[:12]}",
        "kind": kind,
        "uris": list(uris),
        "frames": places,
        "labels": labels,
        "names": [str(n) for n in names or []],
        "caption": caption or "",
        "alt": alt,
        "width": width,
        "height": height,
        "shown": shown,
        "crisp": width <= SMALL,
        "start": start,
        "delay": delay,
    }
    # Inside <script>, "<" could end the script or open a comment; JSON can spell it otherwise.
    script = _SCRIPT.replace("DATA", json.dumps(data).replace("<", "\\u003c"))
    still = _uri(_side_by_side(rows))
    page = (
        f'<div id="{data["id"]}" class="sdlearn-scrubber tex2jax_ignore mathjax_ignore" data-lm-suppress-shortcuts="true">'
        f'<img class="dark-light" src="{still}" alt="{html.escape(alt)}" style="max-width:100%;height:auto">'
        f"<p>{html.escape(caption or '')}</p></div><script>{script}</script>"
    )
    return Scrubber(rows, labels, alt, page)


def _rows(frames) -> list[list[Image.Image]]:
    frames = list(frames)
    if not frames:
        raise ValueError("There is nothing to scrub through: give at least one frame.")
    rows = [[_still(f) for f in (frame if isinstance(frame, (list, tuple)) else [frame])] for frame in frames]
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        raise ValueError("Every frame needs the same number of pictures, at least one.")
    sizes = sorted({image.size for row in rows for image in row})
    if len(sizes) > 1:
        said = ", ".join(f"{w} × {h}" for w, h in sizes)
        raise ValueError(f"All pictures must have one size, or they would jump; these have {said}.")
    return rows


def _still(frame) -> Image.Image:
    if not isinstance(frame, Figure):
        return figures.picture(frame)
    file = io.BytesIO()
    frame.savefig(file, format="png", dpi=frame.dpi)
    return figures.picture(Image.open(file))


def _uri(image: Image.Image) -> str:
    """The picture without loss, as WebP or PNG, whichever is smaller."""
    kept = []
    for form, options in (("webp", {"lossless": True, "quality": 90}), ("png", {"optimize": True})):
        file = io.BytesIO()
        image.save(file, form, **options)
        kept.append((len(file.getvalue()), form, file.getvalue()))
    _, form, content = min(kept)
    return f"data:image/{form};base64,{base64.b64encode(content).decode()}"


def _side_by_side(rows: list[list[Image.Image]]) -> Image.Image:
    """At most six frames, first and last among them, each above the next of its row: what shows without scripts."""
    last, (width, height) = len(rows) - 1, rows[0][0].size
    chosen = sorted({round(k * last / 5) for k in range(6)})
    scale = min(1, 160 / width)
    w, h = round(width * scale), round(height * scale)
    sheet = Image.new("RGB", (len(chosen) * (w + 4) - 4, len(rows[0]) * (h + 4) - 4), "white")
    for column, k in enumerate(chosen):
        for line, image in enumerate(rows[k]):
            small = image if scale == 1 else image.resize((w, h), Image.Resampling.LANCZOS)
            sheet.paste(small, (column * (w + 4), line * (h + 4)))
    return sheet


# Each output runs this once. It looks its own element up by id (a notebook opened in two views has two of them), fills a
# shadow tree with plain DOM calls, so that no text is ever read as HTML, and leaves nothing in the global scope.
_SCRIPT = r"""(() => {
const data = DATA;
const style = `
:host { all: initial; display: block; max-width: 100%; margin: 8px 0; }
.card { --back: #ffffff; --ink: #1f2328; --soft: #57606a; --line: #c9d1d9; --accent: #0072b2;
  box-sizing: border-box; max-width: 100%; padding: 12px; border: 1px solid var(--line); border-radius: 8px;
  background: var(--back); color: var(--ink); font: 15px/1.4 system-ui, -apple-system, "Segoe UI", sans-serif; margin: 0; }
.card.dark { --back: #1c2128; --ink: #e6edf3; --soft: #adbac7; --line: #444c56; --accent: #56b4e9; }
.stage { position: relative; display: flex; gap: 8px; justify-content: center; touch-action: pan-y; cursor: ew-resize;
  user-select: none; -webkit-user-select: none; }
.cell { flex: 0 1 auto; min-width: 0; text-align: center; }
.name { color: var(--soft); min-height: 1.4em; overflow-wrap: anywhere; }
img { display: block; width: 100%; height: auto; -webkit-user-drag: none; }
img.crisp { image-rendering: pixelated; }
.over { position: absolute; inset: 0; margin: 0 auto; }
.edge { position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px; background: #ffffff; outline: 1px solid #000000; }
.label { text-align: center; font-variant-numeric: tabular-nums; font-weight: 600; margin: 8px 0 4px; min-height: 1.4em;
  overflow-wrap: anywhere; }
.sides { display: flex; justify-content: space-between; gap: 12px; }
.bar { display: flex; gap: 10px; align-items: center; }
input { flex: 1; min-width: 0; height: 40px; margin: 0; accent-color: var(--accent); cursor: pointer; touch-action: pan-y; }
button { flex: none; width: 40px; height: 40px; padding: 0; border: 1px solid var(--line); border-radius: 50%; cursor: pointer;
  background: var(--back); color: var(--accent); display: grid; place-items: center; }
button svg { width: 18px; height: 18px; fill: currentColor; }
input:focus-visible, button:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
figcaption { color: var(--soft); margin-top: 6px; text-align: left; overflow-wrap: anywhere; }`;
const make = (tag, attributes, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
const icon = (path) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 18 18");
  svg.setAttribute("aria-hidden", "true");
  shape.setAttribute("d", path);
  svg.append(shape);
  return svg;
};
const build = (host) => {
  const root = host.attachShadow({mode: "open"});
  const comparing = data.kind === "compare";
  const last = comparing ? 100 : data.frames.length - 1;
  const image = () => make("img", {class: data.crisp ? "crisp" : "", width: data.width, height: data.height, alt: "", draggable: "false"});
  const stage = make("div", {class: "stage"});
  const images = comparing ? [image(), image()] : data.frames[0].map(image);
  const label = make("div", {class: comparing ? "label sides" : "label"});
  const slider = make("input", {type: "range", min: 0, max: last, step: 1, "aria-label": data.caption || data.alt});
  const edge = make("div", {class: "edge"});
  const play = make("button", {type: "button"});
  let index = 0, timer = null;
  if (comparing) {
    const holder = make("div", {class: "cell", style: `position: relative; width: ${data.shown}px`}, ...images, edge);
    images[1].classList.add("over");
    images.forEach((img, k) => { img.src = data.uris[data.frames[k][0]]; img.alt = `${data.alt}: ${data.labels[k]}`; });
    label.append(...data.labels.map((text) => make("span", {}, text)));
    stage.append(holder);
  } else {
    images.forEach((img, k) => stage.append(make("div", {class: "cell", style: `width: ${data.shown}px`},
      ...(data.names.length ? [make("div", {class: "name"}, data.names[k])] : []), img)));
  }
  const show = (wanted) => {
    index = Math.max(0, Math.min(last, Math.round(wanted)));
    slider.value = index;
    if (comparing) {
      images[1].style.clipPath = `inset(0 0 0 ${index}%)`;
      edge.style.left = `${index}%`;
      slider.setAttribute("aria-valuetext", `${index} % ${data.labels[0]}, ${100 - index} % ${data.labels[1]}`);
      return;
    }
    label.textContent = data.labels[index];
    slider.setAttribute("aria-valuetext", data.labels[index]);
    images.forEach((img, k) => {
      img.src = data.uris[data.frames[index][k]];
      img.alt = [data.alt, data.names[k], data.labels[index]].filter(Boolean).join(", ");
    });
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.setAttribute("aria-label", "Play");
    play.replaceChildren(icon("M4 2 L16 9 L4 16 Z"));
  };
  const toggle = () => {
    if (timer !== null) return stop();
    if (index === last) show(0);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    timer = setInterval(() => {
      if (!host.isConnected || index >= last) return stop();
      show(index + 1);
    }, calm ? Math.max(data.delay, 1000) : data.delay);
    play.setAttribute("aria-label", "Pause");
    play.replaceChildren(icon("M3 2 H7 V16 H3 Z M11 2 H15 V16 H11 Z"));
  };
  const card = make("figure", {class: "card", style: `width: ${Math.max(images.length * (comparing ? 0 : data.shown + 8), data.shown, 288) + 34}px`},
    stage, label);
  if (last > 0) card.append(make("div", {class: "bar"}, ...(comparing ? [] : [play]), slider));
  if (data.caption) card.append(make("figcaption", {}, data.caption));
  root.append(make("style", {}, style), card);

  slider.addEventListener("input", () => { stop(); show(+slider.value); });
  play.addEventListener("click", toggle);
  card.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const to = {ArrowRight: index + 1, ArrowUp: index + 1, ArrowLeft: index - 1, ArrowDown: index - 1, Home: 0, End: last,
      PageUp: index + last / 10, PageDown: index - last / 10}[event.key];
    if (to !== undefined) { stop(); show(to); event.preventDefault(); }
    else if (event.key === " " && !comparing && root.activeElement === slider) { toggle(); event.preventDefault(); }
    if (event.key !== "Tab") event.stopPropagation();  // the page's own shortcuts would turn pages or select cells
  });
  const drag = (event) => {
    if (!(event.buttons & 1) || last === 0) return;
    const box = (comparing ? images[0] : stage).getBoundingClientRect();
    stop();
    show((event.clientX - box.left) / box.width * last);
  };
  stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); drag(event); });
  stage.addEventListener("pointermove", drag);
  // Dark or light is what the page behind really is: Jupyter Book, JupyterLab and Colab each have a switch of their own.
  const tone = () => {
    let dark = document.documentElement.getAttribute("theme") === "dark";
    for (let node = host; node; node = node.parentElement) {
      const [r, g, b, a = 1] = (getComputedStyle(node).backgroundColor.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
      if (a > 0.5) { dark = 0.3 * r + 0.59 * g + 0.11 * b < 128; break; }
    }
    card.classList.toggle("dark", dark);
  };
  const watcher = new MutationObserver(() => setTimeout(tone, 300));
  for (const node of [document.documentElement, document.body]) watcher.observe(node, {attributes: true});
  tone();
  stop();
  show(data.start);
};
for (const host of document.querySelectorAll("#" + data.id)) if (!host.shadowRoot) build(host);
})();"""
