"""The whole of Stable Diffusion on one drawing, with the shapes of the model in use.

    figures.machine(sd)                  # as the last line of a cell it shows itself
    figures.machine(sd, here="text")     # the same map, with "you are here" on what notebook 03 opens

The drawing is inline SVG: it grows with the column, takes its ink from the page, light or dark, and asks for nothing.
Outlined boxes are stations, one for each notebook; filled boxes compute; what has neither is words and tensors.
"""

import itertools
import random
import uuid
from collections.abc import Mapping
from html import escape
from pathlib import Path

from ..model import StableDiffusion, check_model
from .predict import Shown

STATIONS = {  # id: (the notebook that opens it, what it is)
    "machine": ("00", "the whole machine"),
    "noise": ("01", "forward noising and its schedule"),
    "scheduler": ("02", "the scheduler's step"),
    "text": ("03", "tokenizer and text encoder"),
    "autoencoder": ("04", "encoder and decoder"),
    "loop": ("05", "the loop of UNet, guidance and scheduler"),
    "start": ("06", "starting from a picture"),
    "attention": ("07", "where the UNet listens to the words"),
    "hole": ("08", "keeping what is outside a hole"),
    "knowledge": ("09", "where the UNet's knowledge comes from"),
}
WIDTH, HEIGHT = 800, 578

_STYLE = Path(__file__).with_suffix(".css")


def machine(sd: StableDiffusion, here: str | None = None, *, links: Mapping[str, str] | None = None) -> Shown:
    """A map of the machine, from words, a seed or a picture to a picture, with the shapes of this model's tensors.

    here: the station to mark "you are here": "machine" (the whole), "noise", "scheduler", "text", "autoencoder",
    "loop", "start", "attention", "hole" or "knowledge". links: station -> address, for a map to click on (on the site;
    JupyterLab takes no links in SVG). Raises ValueError for another station.
    """
    check_model(sd)
    for name in [*([] if here is None else [here]), *(links or {})]:
        if name not in STATIONS:
            raise ValueError(f"The machine has no station {name!r}; choose from {', '.join(map(repr, STATIONS))}.")
    drawing = "drawing-" + uuid.uuid4().hex[:12]
    length = sd.tokenizer.model_max_length
    ids, states = f"(1, {length})", f"(1, {length}, {sd.text_encoder.config.hidden_size})"
    latents, pixels = str((1, *sd.latent_shape())), f"(3, {sd.height}, {sd.width})"
    timesteps = len(sd.schedule.betas)

    def station(name: str, frame: tuple, label_y: float, *inside: str) -> str:
        number, what = STATIONS[name]
        content = _box("frame", *frame) + "".join(inside) + _label(frame, label_y, number, name == here)
        marks = f'id="{drawing}-{name}" class="{name}{" here" * (name == here)}"'
        if name not in (links or {}):
            return f"<g {marks}>{content}</g>"
        return f'<a {marks} href="{escape(links[name])}" aria-label="Notebook {number}: {escape(what)}">{content}</a>'

    def flow(path: str) -> str:
        return f'<path class="flow" d="{path}" marker-end="url(#{drawing}-tip)"/>'

    title = _text(156 if here == "machine" else 56, 31, "Stable Diffusion, the whole machine", "title")
    # fmt: off
    parts = [
        station("machine", (2, 2, WIDTH - 4, HEIGHT - 4), 14, title),
        # From words to states.
        _text(16, 104, "“a house”", "name"), _text(16, 121, "words"),
        station("text", (150, 62, 296, 82), 52, _part(162, 80, 118, 52, "Tokenizer", f"ids {ids}"),
                _part(302, 80, 132, 52, "Text encoder", f"states {states}")),
        flow("M108 106 H160"), flow("M280 106 H300"),
        # From a seed to noise.
        _text(16, 270, "seed", "name"), _tile(84, 237, noise=1), _lines(112, 316, "", "noise latents", latents),
        flow("M60 265 H82"),
        # The loop.
        station("loop", (180, 178, 422, 182), 168, _text(196, 201, "The loop", "name"),
                _part(366, 232, 110, 66, "Guidance", "without + w ×", "(with − without)"),
                _text(366, 331, "N times round")),
        station("scheduler", (496, 220, 94, 90), 210, _lines(543, 265, "Scheduler", "one step of", "the sampler")),
        station("attention", (214, 208, 140, 62), 261, _part(222, 214, 124, 46, "UNet", "with the words")),
        station("knowledge", (214, 278, 140, 59), 327, _part(222, 284, 124, 46, "UNet", "without words")),
        flow("M142 265 H204 V237 H220"), flow("M204 265 V307 H220"), flow("M334 132 V212"),
        flow("M346 246 H364"), flow("M346 292 H364"), flow("M476 265 H494"), flow("M514 310 V350 H204 V310"),
        # Between latents and pictures.
        station("autoencoder", (624, 196, 164, 284), 186, _text(638, 223, "Autoencoder", "name"),
                _part(636, 232, 140, 66, "Decoder", f"{latents} to", pixels), _tile(678, 306, noise=0),
                _lines(706, 379, "", f"latents: each side ÷ {sd.vae_factor}"),
                _part(636, 398, 140, 66, "Encoder", f"{pixels} to", latents)),
        flow("M590 265 H634"),
        _picture(730, 62), _text(720, 88, "new picture", "name", "end"), _text(720, 106, pixels, "", "end"),
        flow("M772 232 V122"),
        # From a picture to a later step of the same loop.
        _picture(730, 504, sketch=True), _text(720, 530, "your picture", "name", "end"),
        _text(720, 548, pixels, "", "end"), flow("M772 504 V466"), flow("M636 431 H606"),
        station("noise", (462, 398, 142, 66), 454, _lines(533, 425, "Forward noising", f"{timesteps} timesteps")),
        _text(542, 380, "noise levels", "", "end"), flow("M550 398 V312"), flow("M460 431 H444"),
        _tile(386, 403, noise=0.5), _lines(414, 482, "", "noised latents", latents), flow("M384 431 H368"),
        station("start", (196, 398, 170, 66), 454, _lines(281, 425, "Start part way", "fewer steps to go")),
        _text(326, 380, "joins at a later step", "", "end"), flow("M334 398 V350"),
        # Around a hole the noised picture comes back after every step.
        station("hole", (454, 494, 158, 56), 540, _lines(533, 517, "Keep the outside", "after every step")),
        flow("M560 464 V492"), flow("M454 513 H190 V362"),
        # How to read it.
        _text(16, 534, "A number is the notebook that opens the part."),
        _text(16, 552, f"Shapes are those of this model, which draws {sd.width} × {sd.height} pixels."),
    ]
    # fmt: on
    alt = (
        f"A map of Stable Diffusion. Words become token ids {ids} and the text encoder's states {states}; a seed "
        f"becomes noise latents {latents}. At every step of the loop the UNet answers without and with the words, "
        "guidance weighs the two answers, and the scheduler takes one step towards less noise. The decoder turns the "
        f"last latents into a picture {pixels}. A picture to start from goes through the encoder and forward noising, "
        f"whose schedule has {timesteps} timesteps, and joins the loop at a later step. If only a hole is to be "
        "redrawn, the noised picture is put back outside the hole after every step."
    )
    if here:
        alt += " You are here: {1} (notebook {0}).".format(*STATIONS[here])
    label = "Map of the machine: " + STATIONS[here or "machine"][1]
    far = " far" * (here in ("noise", "scheduler", "autoencoder", "hole"))  # a narrow screen begins with the right half
    role = "group" if links else "img"  # a screen reader looks for no links inside an image
    style = _STYLE.read_text(encoding="utf-8")
    html = (
        f'<div class="sdlearn-machine{far} tex2jax_ignore mathjax_ignore" role="region" tabindex="0" '
        f'aria-label="{escape(label)}"><style>{style}</style><svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" role="{role}" aria-label="{escape(alt)}"><defs><marker id="{drawing}-tip" '
        'viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse" '
        'orient="auto"><path class="shade" d="M0 0 L8 4 L0 8 Z"/></marker></defs>\n'
    )
    return Shown(alt, html + "\n".join(parts) + "\n</svg></div>")


def _box(kind: str, x: float, y: float, width: float, height: float, radius: float = 10) -> str:
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}"/>'


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    # A line each: where a page takes the drawing away and leaves its words, they do not run into one another.
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>\n'


def _lines(x: float, y: float, name: str, *lines: str) -> str:
    """A name and what it says, centred about (x, y)."""
    rows = [(name, "name")] * bool(name) + [(line, "") for line in lines]
    top = y + 5 - 17 * (len(rows) - 1) / 2
    return "".join(_text(x, top + 17 * k, words, kind, "middle") for k, (words, kind) in enumerate(rows))


def _part(x: float, y: float, width: float, height: float, *lines: str) -> str:
    return _box("part", x, y, width, height, 7) + _lines(x + width / 2, y + height / 2, *lines)


def _label(frame: tuple, y: float, number: str, here: bool) -> str:
    """On the border of a station the number of its notebook, and the words for it where the lesson is."""
    left, _, room, _ = frame
    width, words = (132, f"{number} · you are here") if here else (32, number)
    x = left + min(12, room + 4 - width)
    return _box("label", x, y, width, 20) + _text(x + width / 2, y + 14.5, words, "", "middle")


def _tile(x: float, y: float, noise: float) -> str:
    """Latents as an eye has them, 56 pixels a side: a house in eight by eight squares, under a share of noise."""
    house = ("...##...", "..####..", ".######.", "########", ".######.", ".##..##.", ".##..##.", ".##..##.")
    dice, shades = random.Random(3), {}
    for row, column in itertools.product(range(8), range(8)):
        shade = round((1 - noise) * 0.75 * (house[row][column] == "#") + noise * dice.random(), 1)
        shades[shade] = shades.get(shade, "") + f"M{x + 7 * column} {y + 7 * row}h7v7h-7z"
    return "".join(f'<path class="shade" fill-opacity="{shade}" d="{d}"/>' for shade, d in shades.items())


def _picture(x: float, y: float, sketch: bool = False) -> str:
    """A framed house, 58 pixels a side."""
    house = "M29 10 L50 29 H44 V48 H34 V36 H24 V48 H14 V29 H8 Z"
    kind = "flow" if sketch else "shade"
    return f'<g transform="translate({x} {y})">{_box("frame", 0, 0, 58, 58, 6)}<path class="{kind}" d="{house}"/></g>'
