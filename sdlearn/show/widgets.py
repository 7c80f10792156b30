"""Live controls beside a picture, for readers with a kernel; for everyone else the same picture in a scrubber.

    widgets.prompt_explorer(sd)     # as the last line of a cell

An explorer is a generator of `Frame`s and a few ipywidgets (7.7 or 8) whose values are its arguments. A thread runs it
a short pause after a change; where a newer change has made it stale it never starts, or stops at its next frame, so
there is no queue. What goes wrong stands in place of the picture.
"""

import copy
import functools
import io
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

import torch
from PIL import Image, ImageColor, ImageOps

from .. import attention, autoencoder, samplers, sampling, text
from ..batch import Settings
from ..hub import checkpoints
from ..model import StableDiffusion, check_model
from ..pictures import contact_sheet, fit, to_images, to_tensor
from ..schedule import number
from . import figures
from .scrubber import Scrubber, picture_uri, scrub

PAUSE = 0.3  # seconds without a further change before work begins
REFRESH = 0.25  # seconds between two pictures of one run
SKETCH = 8  # cells along one side of the sketch
PROMPT = "seed num_inference_steps guidance_scale sampler negative_prompt again inside"  # parts on the site
BOARD = 320  # pixels of a page that the board for holes is wide
SENTENCES = ("an unbelievable snorfleblat", "Fox FOX foxes", "cat CAT cats!")  # to look at without a kernel

# A page that brings no widget to life keeps the scrubber; where the widget appears, the scrubber goes.
_STILL = """<div id="ID"LIVE>SCRUBBER</div><script>(() => {
  let looks = 0;
  const timer = setInterval(() => {
    const live = document.querySelector(".ID"), still = document.getElementById("ID");
    if (live && still) still.style.display = "none";
    if (live || ++looks === 40) clearInterval(timer);
  }, 250);
})();</script>"""


@dataclass(frozen=True)
class Frame:
    """One state of an explorer: how much is done (0..1), what to say, and a picture that is made only if shown."""

    done: float
    label: str
    picture: Callable[[], Image.Image]


class Explorer:
    """Shows itself in a notebook.

    work(**values): yields Frames for one set of values. controls(ipywidgets): the widgets by argument name. first: the
    Frame of their first values. fallback: what shows without a kernel or without ipywidgets. script: HTML for the page
    that finds the widgets by the class `id` and makes more of them; without it they must be of use, too. live: what the
    built site puts here to compute in the reader's browser: the `element`, and its attributes; None for nothing.
    """

    script = ""
    live: dict | None = None

    def __init__(self, work: Callable[..., Iterator[Frame]], controls: Callable, first: Frame, fallback: Scrubber):
        self.work, self.fallback, self.box = work, fallback, None
        self.id = f"explorer-{uuid.uuid4().hex[:12]}"
        try:
            import ipywidgets
        except ImportError:  # the scrubber needs nothing
            return
        self.controls = controls(ipywidgets)
        for control in self.controls.values():
            control.style.description_width = "initial"
            control.observe(lambda change: self.redraw(), "value")
        image = first.picture()
        wide = max(image.width, min(320, 3 * image.width))  # the page enlarges it smoothly
        self.picture = ipywidgets.Image(value=_png(image), format="png", width=wide)
        self.progress = ipywidgets.FloatProgress(value=1, min=0, max=1, layout={"width": "320px"})
        self.message = ipywidgets.HTML()
        self._say(first.label)
        self.panel = ipywidgets.VBox(list(self.controls.values()), layout={"min_width": "300px"})
        view = ipywidgets.VBox([self.picture, self.progress, self.message])
        side_by_side = {"display": "flex", "flex_flow": "row wrap", "grid_gap": "16px"}
        self.box = ipywidgets.Box([self.panel, view], layout=side_by_side)
        self.box.add_class(self.id)
        self._lock = threading.Lock()  # one run at a time
        self._thread = None  # of the newest wish

    def redraw(self) -> None:
        """Ask for a picture of the controls' present values; returns at once."""
        self._thread = threading.Timer(PAUSE, self._serve)
        self._thread.daemon = True
        self._thread.start()

    def _serve(self) -> None:
        wish, shown = threading.current_thread(), 0.0
        with self._lock:
            if wish is not self._thread:  # there was a change in the meantime
                return
            try:
                self._say("…")
                for frame in self.work(**{name: control.value for name, control in self.controls.items()}):
                    if wish is not self._thread:
                        return
                    self.progress.value = frame.done
                    if time.monotonic() - shown > REFRESH:
                        self.picture.value = _png(frame.picture())
                        self._say(frame.label)
                        shown = time.monotonic()
                self.picture.value = _png(frame.picture())
                self.progress.value = 1
                self._say(frame.label)
            except Exception as error:  # whatever it is, the reader must see it here: a thread has no cell to fail in
                self._say(f"{type(error).__name__}: {error}", alarm=True)

    def _say(self, words: str, alarm: bool = False) -> None:
        style = ' role="alert" style="color:#b3261e;white-space:pre-wrap"' if alarm else ""
        self.message.value = f"<span{style}>{escape(words)}</span>"

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        if self.box is None:
            return display(self.fallback)
        display(self.box)
        display(HTML(self.still() + self.script))

    def still(self) -> str:
        """The scrubber as HTML that makes room for what is alive."""
        live = f' data-live="{escape(json.dumps(self.live))}"' if self.live else ""
        return _STILL.replace("ID", self.id).replace("LIVE", live).replace("SCRUBBER", self.fallback.html)


def _live(sd: StableDiffusion, element: str, asleep: str, given: dict, shows: str | None = None) -> dict | None:
    """What the site puts in an explorer's place. It draws with the course's own model as it is shipped: None for
    another, or for one with a LoRA beside it.

    element: "sd-playground" or "sd-trip". asleep: the words of the button that wakes it. given, shows: as page.mjs and
    trip.mjs say.
    """
    if sd.name != checkpoints.DEFAULT or getattr(sd.unet, "peft_config", None):
        return None
    shown = {} if shows is None else {"shows": shows}
    return {"element": element, "asleep": asleep, "given": json.dumps(given), **shown}


def prompt_explorer(
    sd: StableDiffusion,
    prompt: str = "a glossy fox on a pink background",
    *,
    negative_prompt: str = "",
    seed: int = 1,
    num_inference_steps: int = 15,
    guidance_scale: float = 4.0,
    sampler: str = "dpm++2m",
) -> Explorer:
    """Type a prompt and turn every knob of the loop; the picture is the network's guess at each step."""

    def draw(prompt, negative_prompt, **knobs):
        return _trajectory(sd, Settings(prompt, negative_prompt or None, **knobs))

    def controls(w):
        return {
            "prompt": w.Text(prompt, description="prompt"),
            "negative_prompt": w.Text(negative_prompt, description="negative prompt"),
            "seed": _slider(w.IntSlider, "seed", seed, 0, 100),
            "num_inference_steps": _slider(w.IntSlider, "steps", num_inference_steps, 1, 50),
            "guidance_scale": _slider(w.FloatSlider, "guidance", guidance_scale, 1, 15, step=0.5),
            "sampler": w.Dropdown(options=list(samplers.SAMPLERS), value=sampler, description="sampler"),
        }

    knobs = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "sampler": sampler}
    frames = list(draw(prompt, negative_prompt, seed=seed, **knobs))
    explorer = Explorer(
        draw, controls, frames[-1], _scrubbed(frames, f"{prompt}: what the network believes at each step")
    )
    given = {"prompt": prompt, "negative_prompt": negative_prompt, "seed": seed, **knobs}
    explorer.live = _live(sd, "sd-playground", "Draw here, live", given, PROMPT)
    return explorer


def steps_explorer(
    sd: StableDiffusion, distilled: StableDiffusion, prompt: str = "a glossy fox on a pink background", seed: int = 1
) -> Explorer:
    """Type a prompt and choose how many steps it gets: the model with guidance, and beside it the same model distilled
    to few steps, which is asked once a step in place of twice."""
    plain = {"sampler": "ddim", "spacing": "trailing", "guidance_scale": 4.0}
    ways = [(sd, plain), (distilled, {"sampler": "lcm", "guidance_scale": 1.0})]

    def draw(prompt, seed, num_inference_steps):
        asked = {"seed": seed, "num_inference_steps": num_inference_steps, "progress": False}
        drawn = [sampling.text_to_image(model, prompt, **asked, **how) for model, how in ways]
        label = f"{num_inference_steps} steps: as it is, and distilled"
        yield Frame(1, label, lambda: contact_sheet(drawn, columns=2, gap=8))

    def controls(w):
        return {
            "prompt": w.Text(prompt, description="prompt"),
            "seed": _slider(w.IntSlider, "seed", seed, 0, 100),
            "num_inference_steps": _slider(w.IntSlider, "steps", 4, 1, 12),
        }

    frames = [frame for steps in (1, 2, 4, 8) for frame in draw(prompt, seed, steps)]
    return Explorer(draw, controls, frames[2], _scrubbed(frames, f"{prompt}, in few steps", start=2))


def noise_explorer(sd: StableDiffusion, image, *, seed: int = 1, timestep: int = 300) -> Explorer:
    """A picture at any training timestep, noised as pixels or as latents."""
    check_model(sd)
    original = fit(image, sd.width, sd.height)
    places = {"pixels": to_tensor(original).to(sd.device), "latents": autoencoder.encode(sd, original)}
    last = sd.schedule.num_train_timesteps - 1

    def noised(timestep, seed, space):
        x0 = places[space]
        noise = autoencoder.draw_noise(torch.Generator().manual_seed(seed), x0.shape).to(x0)
        x = sd.schedule.add_noise(x0, noise, timestep)
        signal, amount = (float(table[timestep]) for table in (sd.schedule.signal, sd.schedule.noise))
        label = f"t = {timestep}: {signal:.3f} × picture + {amount:.3f} × noise"
        yield Frame(1, label, lambda: to_images(autoencoder.decode(sd, x) if space == "latents" else x)[0])

    def controls(w):
        return {
            "timestep": w.IntSlider(timestep, 0, last, description="timestep"),
            "seed": _slider(w.IntSlider, "seed", seed, 0, 100),
            "space": w.ToggleButtons(options=list(places), description="noise added to"),
        }

    shown = [[frame for space in places for frame in noised(last * k // 7, seed, space)] for k in range(8)]
    fallback = _scrubbed(shown, "The same picture at growing timesteps", names=["in pixels", "in latents"], start=3)
    explorer = Explorer(noised, controls, next(noised(timestep, seed, "pixels")), fallback)
    given = {"picture": picture_uri(original), "timestep": timestep, "seed": seed}
    explorer.live = _live(sd, "sd-trip", "Add noise to your own picture", given)
    return explorer


def token_explorer(sd: StableDiffusion, prompt: str = "a picture of a foxaroo") -> Explorer:
    """Type a sentence; see its pieces, their ids, and for each piece the nearest rows of the token table."""

    def read(prompt):
        found = text.tokens(sd, prompt)
        words = {piece: number for piece, number in zip(found.pieces, found.ids, strict=True) if piece[:2] != "<|"}
        near = [(piece.removesuffix("</w>"), neighbours(sd, number)) for piece, number in words.items()]
        sentence = "; ".join(f"{piece}: {' '.join(rows) or 'none'}" for piece, rows in near)
        sheet = figures.tokens(found.pieces, found.ids, dropped=found.lost)
        label = f"Nearest in the token table. {sentence}" if near else "The empty prompt: two marks and padding."
        yield Frame(1, label, lambda: Image.open(io.BytesIO(sheet.png())))

    frames = [frame for sentence in (prompt, *SENTENCES) for frame in read(sentence)]
    fallback = _scrubbed(frames, "Sentences in pieces, with places and ids", start=0)
    layout = {"width": "480px"}
    explorer = Explorer(
        read, lambda w: {"prompt": w.Text(prompt, description="sentence", layout=layout)}, frames[0], fallback
    )
    explorer.live = _live(sd, "sd-playground", "Type your own sentence", {"prompt": prompt}, "near")
    return explorer


def neighbours(sd: StableDiffusion, token: int, count: int = 3) -> list[str]:
    """The pieces whose rows point most nearly the same way; none for a row that was never trained."""
    table = sd.text_encoder.get_input_embeddings().weight.detach().float()
    norms = table.norm(dim=1)
    if norms[token] == 0:
        return []
    cosines = table @ table[token] / (norms * norms[token]).clamp_min(1e-12)
    cosines[[token, *sd.tokenizer.all_special_ids]] = -1
    nearest = sd.tokenizer.convert_ids_to_tokens(cosines.topk(count).indices.tolist())
    return [piece.removesuffix("</w>") for piece in nearest]


def attention_explorer(
    sd: StableDiffusion,
    prompt: str = "a glossy cat and a dog",
    *,
    seed: int = 1,
    num_inference_steps: int = 12,
    guidance_scale: float = 4.0,
) -> Explorer:
    """Type a prompt; see where in its picture each token is heard, and how much of all attention it gets."""
    check_model(sd)
    weights = {id(tensor): tensor for tensor in (*sd.unet.parameters(), *sd.unet.buffers())}
    twin = replace(sd, unet=copy.deepcopy(sd.unet, weights))  # a thread must not listen in on what others draw

    def listen(prompt, seed, keep=lambda picture, words: None):
        asked = Settings(prompt, None, seed, None, num_inference_steps, guidance_scale)
        with attention.record(twin) as maps:
            for frame in _trajectory(twin, asked):
                yield frame
        pieces = [piece.removesuffix("</w>").strip("<|>") for piece in text.tokens(sd, prompt).pieces]
        words = {f"{k} {piece}": maps.heat([k])[0] for k, piece in enumerate(pieces[:13])}
        words["padding"] = maps.heat(range(len(pieces), sd.tokenizer.model_max_length))[0]
        picture, loudest = frame.picture(), max(words, key=lambda word: words[word].mean())
        keep(picture, words)
        label = f"{loudest} gets most: {words[loudest].mean():.0%} of the attention. Each map has a scale of its own."
        sheet = figures.heat_maps(picture, words, columns=5)
        yield Frame(1, label, lambda: Image.open(io.BytesIO(sheet.png())))

    def controls(w):
        return {
            "prompt": w.Text(prompt, description="prompt"),
            "seed": _slider(w.IntSlider, "seed", seed, 0, 100),
        }

    kept = []
    *_, sheet = listen(prompt, seed, lambda *first: kept.extend(first))
    picture, words = kept
    rows = [
        [
            Frame(1, f"{word}: {heat.mean():.0%} of the attention", lambda: picture),
            Frame(1, word, lambda heat=heat: figures.overlay(picture, heat)),
        ]
        for word, heat in words.items()
    ]
    fallback = _scrubbed(rows, f"{prompt}: where each token is heard", names=["the picture", "the token"], start=0)
    explorer = Explorer(listen, controls, sheet, fallback)
    given = {"prompt": prompt, "seed": seed, "num_inference_steps": num_inference_steps}
    given |= {"guidance_scale": guidance_scale, "sampler": "ddim"}
    explorer.live = _live(sd, "sd-playground", "Draw, and point at a word", given, "seed again")
    return explorer


def img2img_explorer(
    sd: StableDiffusion,
    image,
    prompt: str = "a glossy fox on a pink background",
    *,
    strength: float = 0.6,
    seed: int = 1,
    num_inference_steps: int = 20,
    guidance_scale: float = 4.0,
) -> Explorer:
    """Start from the given picture, from your own, or from a sketch of 8 by 8 cells."""
    check_model(sd)
    given = fit(image, sd.width, sd.height)
    sketch = Image.new("RGB", (SKETCH, SKETCH), "white")
    uploaded, below = [], []  # bytes of files; widgets that are no arguments
    number("strength", strength, 0, 1)

    def draw(source, prompt, strength, seed):
        start = given
        if source == "sketch":
            start = sketch.resize(given.size, Image.Resampling.BICUBIC)
        elif source == "upload":
            if not uploaded:
                raise ValueError("There is no picture yet: press Upload and choose one.")
            try:
                start = fit(Image.open(io.BytesIO(uploaded[-1])), sd.width, sd.height)
            except Exception as error:  # each of Pillow's decoders fails in its own way
                sentence = f"Your upload is no picture that Pillow can read ({error}); choose a PNG or JPEG."
                raise ValueError(sentence) from error
        skipped = num_inference_steps - int(num_inference_steps * strength)
        latents = autoencoder.encode(sd, start)
        yield Frame(0, "the start", lambda: start)
        if skipped == num_inference_steps:
            yield Frame(1, "no step taken: to latents and back", lambda: _decoded(sd, latents))
        else:
            asked = Settings(prompt, None, seed, None, num_inference_steps, guidance_scale)
            yield from _trajectory(sd, replace(asked, image_latents=latents, start_step=skipped))

    def controls(w):
        colour = w.ColorPicker(value="#d63031", description="colour", style={"description_width": "initial"})
        small = {"width": "24px", "height": "24px", "padding": "0", "margin": "0", "border": "1px solid #999999"}
        cells = [w.Button(layout=small) for _ in range(SKETCH**2)]
        source = w.ToggleButtons(options=["picture", "sketch", "upload"], description="start from")
        source.style.button_width = "84px"
        upload = w.FileUpload(accept="image/*", description="Upload", multiple=False)

        def paint(cell, place):
            try:
                sketch.putpixel(place, ImageColor.getrgb(colour.value)[:3])  # "#d63031", "#f00", "red"
            except ValueError as error:
                return explorer._say(str(error), alarm=True)
            cell.style.button_color = colour.value
            if source.value == "sketch":
                explorer.redraw()
            source.value = "sketch"

        for k, cell in enumerate(cells):
            cell.style.button_color = "#ffffff"
            cell.tooltip = f"row {k // SKETCH + 1}, column {k % SKETCH + 1}"
            cell.on_click(lambda cell, place=(k % SKETCH, k // SKETCH): paint(cell, place))

        def receive(change):
            files = change["new"].values() if isinstance(change["new"], dict) else change["new"]  # ipywidgets 7, 8
            for file in files:
                uploaded[:] = [bytes(file["content"])]
                if source.value == "upload":
                    explorer.redraw()
                source.value = "upload"

        upload.observe(receive, "value")
        grid = {"grid_template_columns": f"repeat({SKETCH}, 24px)", "grid_gap": "2px"}
        below.extend([colour, w.GridBox(cells, layout=grid), upload])
        return {
            "source": source,
            "prompt": w.Text(prompt, description="prompt"),
            "strength": w.FloatSlider(strength, min=0, max=1, step=0.05, description="strength"),
            "seed": _slider(w.IntSlider, "seed", seed, 0, 100),
        }

    frames = list(draw("picture", prompt, strength, seed))
    caption = f"{prompt}: from the given picture, strength {strength:g}" if len(frames) > 2 else "To latents and back"
    explorer = Explorer(draw, controls, frames[-1], _scrubbed(frames, caption))
    if explorer.box is not None:
        explorer.panel.children += tuple(below)
    start = {"picture": picture_uri(given)}
    if len(frames) == 2:  # no step was taken
        explorer.live = _live(sd, "sd-trip", "Send your own photograph there and back", start)
        return explorer
    start |= {"prompt": prompt, "seed": seed, "strength": strength, "num_inference_steps": num_inference_steps}
    start |= {"guidance_scale": guidance_scale, "sampler": "ddim"}
    parts = "start seed num_inference_steps guidance_scale again"
    explorer.live = _live(sd, "sd-playground", "Sketch, and have it drawn", start, parts)
    return explorer


def inpaint_explorer(
    sd: StableDiffusion,
    image,
    prompt: str = "a glossy fox",
    *,
    hole: str | None = None,
    seed: int = 1,
    num_inference_steps: int = 20,
    guidance_scale: float = 4.0,
) -> Explorer:
    """Paint a hole into the picture, in cells of one latent each, and have it filled; outside nothing changes.

    hole: a line for each row of latents, "#" where to draw and "." where to keep, as the text field has it in which the
    hole can also be typed; by default the left half.
    """
    check_model(sd)
    given = fit(image, sd.width, sd.height)
    _, rows, columns = sd.latent_shape()
    hole = "\n".join(["#" * (columns // 2) + "." * (columns - columns // 2)] * rows) if hole is None else hole
    latents = autoencoder.encode(sd, given)

    def fill(hole, prompt, seed):
        mask = _holes(hole, rows, columns)
        where = Image.fromarray(mask.mul(255).byte().numpy()).resize(given.size, Image.Resampling.NEAREST)
        yield Frame(0, "the hole", lambda: Image.composite(Image.new("RGB", given.size, "white"), given, where))
        asked = Settings(prompt, None, seed, None, num_inference_steps, guidance_scale)
        for frame in _trajectory(sd, replace(asked, image_latents=latents, mask=mask[None, None])):
            yield replace(frame, picture=lambda new=frame.picture: Image.composite(new(), given, where))

    def controls(w):
        typed = w.Textarea(hole, description="hole", rows=rows, layout={"width": f"{BOARD + 20}px"})
        typed.add_class("sdlearn-hole")
        return {
            "hole": typed,
            "prompt": w.Text(prompt, description="prompt"),
            "seed": _slider(w.IntSlider, "seed", seed, 0, 100),
        }

    frames = list(fill(hole, prompt, seed))
    explorer = Explorer(fill, controls, frames[-1], _scrubbed(frames, f"{prompt}: drawn into the hole"))
    board = {"id": explorer.id, "rows": rows, "columns": columns, "side": BOARD, "picture": picture_uri(given)}
    script = Path(__file__).with_name("board.js").read_text(encoding="utf-8")
    explorer.script = f"<script>{script.replace('DATA', json.dumps(board))}</script>"
    return explorer


def memory_explorer(sd: StableDiffusion, name: str = "sd-1.4") -> Explorer:
    """Choose a checkpoint, a number format and how many pictures at once; see what lies on the card, by arithmetic.

    name: the checkpoint to begin with, `sd.name` or one of `hub.architectures`; nothing is downloaded or loaded.
    """
    from ..hub import costs
    from ..hub.architectures import ARCHITECTURES, random_model

    check_model(sd)
    names = list(dict.fromkeys([name, sd.name, *ARCHITECTURES]))
    cards = {f"{gigabytes} GB": gigabytes for gigabytes in (4, 8, 16, 24)}

    @functools.lru_cache
    def needs(name: str, dtype: str) -> costs.Memory:
        return costs.memory(costs.shapes(sd if name == sd.name else random_model(name, device="meta"), dtype))

    def weigh(name, dtype, pictures, low_memory):
        parts = needs(name, dtype).of(pictures, low_memory=low_memory)
        row = {part: size / costs.GIB for part, size in parts.items()} | {"CUDA itself": 0.5}
        total = sum(row.values())
        fits = [card for card, size in cards.items() if total <= 0.75 * size]
        how = f"{name}, {dtype}, {pictures} at once" + ", low_memory" * low_memory
        label = f"{how}: {total:.1f} GiB, " + (f"fits from {fits[0]} on" if fits else "too much for these cards")
        sheet = figures.bars({name: row}, xlabel="GiB on the card", marks=cards)
        yield Frame(1, label, lambda: Image.open(io.BytesIO(sheet.png())))

    def controls(w):
        return {
            "name": w.Dropdown(options=names, value=name, description="checkpoint"),
            "dtype": w.Dropdown(options=["float32", "float16", "bfloat16"], value="float16", description="numbers"),
            "pictures": _slider(w.IntSlider, "pictures at once", 1, 1, 16),
            "low_memory": w.Checkbox(False, description="low_memory"),
        }

    chosen = [("float32", 1, False), ("float16", 1, False), ("float16", 4, False), ("float16", 12, False)]
    frames = [next(weigh(name, *choice)) for choice in [*chosen, ("float16", 1, True)]]
    caption = "What lies on the card, with a quarter of it to be left free"
    return Explorer(weigh, controls, frames[1], _scrubbed(frames, caption, start=1))


def _holes(typed: str, rows: int, columns: int) -> torch.Tensor:
    """The mask (rows, columns) of what was painted or typed, 1 for "#"; what is missing is kept."""
    lines = typed.split("\n")
    if len(lines) > rows or max(map(len, lines)) > columns or set(typed) - set("#.\n "):
        raise ValueError(f"A hole has at most {rows} lines of {columns} signs: # where to draw, . where to keep.")
    if "#" not in typed:
        raise ValueError("There is no hole yet: paint over what is to be drawn anew.")
    padded = [line.ljust(columns) for line in lines] + [" " * columns] * (rows - len(lines))
    return torch.tensor([[float(sign == "#") for sign in line] for line in padded])


def _slider(kind, name: str, value, low, high, **options):
    """A slider whose ends reach as far as the value that it begins with."""
    return kind(value, min=min(low, value), max=max(high, value), description=name, **options)


def _trajectory(sd, asked: Settings) -> Iterator[Frame]:
    """The network's guess after each step, and at the end the picture itself."""
    count = asked.num_inference_steps - (asked.start_step or 0)
    for taken, step in enumerate(sampling.denoise(sd, **replace(asked, progress=False)), 1):
        yield Frame(min(taken / count, 1), f"step {min(taken, count)} of {count}", lambda x=step.x0: _decoded(sd, x))
    yield Frame(1, f"after {count} steps", lambda: _decoded(sd, step.latents))


def _decoded(sd, latents) -> Image.Image:
    return to_images(autoencoder.decode(sd, latents))[0]


def _scrubbed(frames: list, caption: str, *, names=None, start: int = -1) -> Scrubber:
    """At most twelve of the Frames (or rows of Frames), first and last among them, to drag without a kernel."""
    chosen = sorted({round(k * (len(frames) - 1) / 11) for k in range(12)})
    rows = [frames[k] if isinstance(frames[k], list) else [frames[k]] for k in chosen]
    pictures = [[frame.picture().convert("RGB") for frame in row] for row in rows]
    w, h = (max(side) for side in zip(*(image.size for row in pictures for image in row), strict=True))
    pictures = [[ImageOps.expand(p, (0, 0, w - p.width, h - p.height), "white") for p in row] for row in pictures]
    caption = f"{caption}. In a running notebook, live controls stand here."
    labels = [row[0].label for row in rows]
    return scrub(pictures, labels, names=names, caption=caption, start=start, lossless=False)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()
