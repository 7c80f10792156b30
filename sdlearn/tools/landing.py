"""The landing page: a picture that develops, the sheet of prompts to press, a card for every lesson, the map.

index.md says where each stands, and holds the table from which the cards take their words, so that it reads as well
where nothing is built. All pictures are WebP files beside the page, small, and fetched when they come into sight.
"""

from __future__ import annotations

import base64
import io
import json
import re
from html import escape
from itertools import chain
from pathlib import Path

import torch
from PIL import Image, ImageOps

from .. import autoencoder, pictures, sampling
from ..autoencoder import draw_noise
from ..model import StableDiffusion
from ..show.machine import machine

TOY = "<!-- The picture that develops stands here in the built book. -->"
SHEET = "<!-- The sheet of prompts stands here in the built book. -->"
MAP = "<!-- The map stands here in the built book. -->"

PROMPT = "a glossy fox on a teal background"
SEEDS = (1, 2, 3, 4, 5, 6)
HOW = {"num_inference_steps": 14, "guidance_scale": 4.0, "sampler": "dpm++2m"}
QUALITY = 70  # of WebP with loss; noise is dear
FRAMES = 8  # of a card
SMALL = 300  # pixels: pictures, not charts
CARD = (360, 180)  # pixels of its picture, twice what the page gives it
SHARED = (1200, 630)  # pixels of the picture that other sites show beside a link

STATIONS = {  # of the map, and the lesson that each leads to
    "machine": "00_quickstart", "noise": "01_forward_noising", "scheduler": "02_schedulers",
    "text": "03_tokens_and_positions", "autoencoder": "04_vae_round_trip", "loop": "05_guided_unet_loop",
    "start": "06_img2img", "attention": "07_attention_maps", "hole": "08_inpainting_and_interpolation",
    "knowledge": "09_training",
}  # fmt: skip

_STYLE = Path(__file__).with_suffix(".css")
_ROW = re.compile(r"^\| \[(.+?)\]\((\w+)\.ipynb\) \| (.+?) \| (\d+) \| (\d+) \|$", re.MULTILINE)
_TABLE = re.compile(r"^\| \|.*\n\|-.*\n(?:\| \[.*\n)+", re.MULTILINE)


def fill(text: str, notebooks: dict[str, dict], sd: StableDiffusion, folder: Path, sheet, live: bool) -> str:
    """index.md with everything in its place; pictures are laid into the folder, which the site has as `landing/`.

    notebooks: name -> executed notebook. sheet: (the picture of the cover, its prompts in order, their seed). live:
    whether the site has what it takes to draw.
    """
    folder.mkdir(parents=True, exist_ok=True)
    addresses = {station: f"{name}.html" for station, name in STATIONS.items() if name in notebooks}
    text = text.replace(TOY, _raw(f"<style>{_STYLE.read_text(encoding='utf-8')}</style>{toy(sd, folder, live)}"))
    text = text.replace(SHEET, _raw(prompts(*sheet, folder)))
    text = text.replace(MAP, _raw(machine(sd, links=addresses).html))
    return _TABLE.sub(lambda table: _raw(cards(table[0], notebooks, folder)), text)


def _raw(html: str) -> str:
    return f"`````{{raw}} html\n{html}\n`````\n"


def toy(sd: StableDiffusion, folder: Path, live: bool) -> str:
    """One prompt from several seeds, as films that the page plays: from noise to picture, one frame below another."""
    noise = [draw_noise(torch.Generator().manual_seed(seed), (1, *sd.latent_shape())) for seed in SEEDS]
    run = sampling.denoise(sd, [PROMPT] * len(SEEDS), seeds=list(SEEDS), **HOW, progress=False)
    states = [torch.cat(noise).to(sd.device), *(step.latents for step in run)]
    frames = [pictures.to_images(autoencoder.decode(sd, latents)) for latents in states]
    films = []
    for k, seed in enumerate(SEEDS):
        film([row[k] for row in frames], folder / f"seed-{seed}.webp")
        films.append(
            f'<div class="film"><img src="landing/seed-{seed}.webp" alt="{escape(PROMPT)}, drawn from seed {seed}" '
            f'width="{sd.width}" height="{sd.height * len(frames)}"></div>'
        )
    given = escape(json.dumps({"prompt": PROMPT, "seeds": SEEDS, "negative_prompt": "", **HOW}))
    model = ' model="playground/model.json"' if live else ""
    return f"""<sd-toy{model} given="{given}" frames="{len(frames)}" style="--frames: {len(frames)}">
<div class="films">{"".join(films)}</div>
<noscript><style>sd-toy .film > img {{ transform: translateY(calc(100% / var(--frames) - 100%)); }}</style></noscript>
<a class="start" href="00_quickstart.html">Start</a>
</sd-toy>
<script type="module" src="_static/playground/toy.mjs"></script>"""


def film(frames: list[Image.Image], path: Path) -> None:
    """Frames of one size, one below another in one file, which a page moves behind a window."""
    strip = pictures.contact_sheet(frames, 1) if frames[0].mode == "RGB" else _below(frames)
    strip.save(path, quality=QUALITY, method=6)


def _below(frames: list[Image.Image]) -> Image.Image:
    width, height = frames[0].size
    strip = Image.new("RGBA", (width, height * len(frames)))
    for k, frame in enumerate(frames):
        strip.paste(frame, (0, k * height))
    return strip


def prompts(cover: Path, texts: list[str], seed: int, folder: Path) -> str:
    """The cover's pictures, each a button that puts its prompt into the toy."""
    with Image.open(cover) as image:
        columns, rows = 8, -(-len(texts) // 8)
        sheet = image.convert("RGB")
        sheet.save(folder / "cover.webp", quality=QUALITY + 10, method=6)
        shared(sheet, folder / "cover.jpg")  # for the pages that have no picture of their own
    buttons = []
    for k, text in enumerate(texts):
        x, y = 100 * (k % columns) / (columns - 1), 100 * (k // columns) / max(1, rows - 1)
        buttons.append(
            f'<button type="button" data-prompt="{escape(text)}" data-seed="{seed}" aria-label="{escape(text)}" '
            f'title="{escape(text)}" style="background-position: {x:.3f}% {y:.3f}%"></button>'
        )
    return f'<div class="sheet" role="group" aria-label="Prompts to take">{"".join(buttons)}</div>'


# -- cards -------------------------------------------------------------------------------------------------------------


def cards(table: str, notebooks: dict[str, dict], folder: Path) -> str:
    """The table's rows as cards, each with the picture that its lesson begins with."""
    made = []
    for title, name, what, reading, exercises in _ROW.findall(table):
        frames = first_figure(notebooks[name]) if name in notebooks else []
        picture = ""
        if frames:
            film([fitted(frame) for frame in frames], folder / f"{name}.webp")
            still = len(frames) // 2
            shared(frames[still], folder / f"{name}.jpg")
            width, height = CARD
            picture = f'<span class="film" style="--frames: {len(frames)}; --still: {still}">'
            picture += f'<img src="landing/{name}.webp" alt="" loading="lazy" width="{width}" '
            picture += f'height="{height * len(frames)}"></span>'
        minutes = f"{reading} minutes, and {exercises} of exercises"
        made.append(
            f'<li><a class="lesson" href="{name}.html">{picture}<b>{escape(title)}</b><span>{escape(what)}</span>'
            f"<small>{minutes}</small></a></li>"
        )
    return f'<ul class="lessons">{"".join(made)}</ul>'


def first_figure(notebook: dict) -> list[Image.Image]:
    """What shows a lesson best: the frames of its first scrubber, small pictures before charts, else its first figure,
    else those of an explorer. At most FRAMES. Empty for a notebook without any."""
    outputs = [output.get("data", {}) for cell in notebook["cells"] for output in cell.get("outputs", ())]
    pages = ["".join(data.get("text/html", "")) for data in outputs]
    found = [(frames, "explorer-" in page) for page in pages if (frames := scrubbed(page))]
    own = sorted((frames for frames, explorer in found if not explorer), key=lambda frames: frames[0].height > SMALL)
    drawn = (re.search(r'<img [^>]*src="data:image/\w+;base64,([^"]+)', page) for page in pages)
    figures = ([_open(match[1])] for match in drawn if match)
    large = (frames for frames in figures if frames[0].height > SMALL)
    return next(chain(own, large, (frames for frames, _ in found)), [])


def scrubbed(page: str) -> list[Image.Image]:
    """At most FRAMES frames of the scrubber in an HTML output, two pictures of a row side by side; else nothing."""
    if '})({"id"' not in page:
        return []
    data, _ = json.JSONDecoder().raw_decode(page[page.index('})({"id"') + 3 :])
    last = len(data["frames"]) - 1
    chosen = sorted({round(k * last / (FRAMES - 1)) for k in range(FRAMES)})
    opened = {uri: _open(data["uris"][uri].split(",")[1]) for k in chosen for uri in data["frames"][k][:2]}
    rows = ([opened[uri] for uri in data["frames"][k][:2]] for k in chosen)
    return [pictures.contact_sheet(row, len(row)) for row in rows]


def _open(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")


def fitted(image: Image.Image) -> Image.Image:
    """The picture as large as a card's window allows, in the middle of a window of nothing."""
    whole = Image.new("RGBA", CARD)
    small = ImageOps.contain(image, CARD, Image.Resampling.LANCZOS)
    whole.paste(small, ((CARD[0] - small.width) // 2, (CARD[1] - small.height) // 2))
    return whole


def shared(image: Image.Image, path: Path) -> None:
    """The picture on white in the shape that other sites show beside a link."""
    whole = Image.new("RGB", SHARED, "white")
    small = ImageOps.contain(image, SHARED, Image.Resampling.LANCZOS)
    whole.paste(small, ((SHARED[0] - small.width) // 2, (SHARED[1] - small.height) // 2))
    whole.save(path, quality=80)
