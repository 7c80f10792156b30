"""The artwork: open emoji drawings, fetched once, and drawn in six styles.

A style is a way of drawing, not an artist: `comic` and `neon` redraw the artists' SVG files, so that several artists
share a style and one artist appears in several. The SVG files come from npm packages at pinned versions, checked by
their checksums. They are cached in a folder of yours and are no part of sdlearn.
"""

import base64
import colorsys
import difflib
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import torch

from .captions import STYLES
from .presets import PLAIN_WORDS, SPRITE, SUBJECTS, SYNONYMS

CACHE = Path("~/.cache/sdlearn/artwork").expanduser()


class Package(NamedTuple):
    """An npm package at a version, whom to thank for it, and npm's own checksum."""

    name: str
    version: str
    credit: str
    sha512: str  # base64, as in npm's "dist.integrity"


PACKAGES = {name.split("/")[-1]: Package(name, *more) for name, *more in (
    ("@iconify-json/fluent-emoji", "1.2.7", "Fluent Emoji, Microsoft Corporation, MIT",
     "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA=="),
    ("@iconify-json/fluent-emoji-flat", "1.2.6", "Fluent Emoji Flat, Microsoft Corporation, MIT",
     "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw=="),
    ("@iconify-json/fluent-emoji-high-contrast", "1.2.6", "Fluent Emoji High Contrast, Microsoft Corporation, MIT",
     "esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w=="),
    ("@iconify-json/emojione-monotone", "1.2.1", "Emoji One (Monotone), Emoji One, CC BY 4.0",
     "cZSNcPsuiAD6HCzCh/2dYKGh3pNI0jJlxBxQWfC33cQsPtqYZqulGBvlkThXYNvDl8VxgVHT9u+izyX/yeEIkA=="),
    ("@iconify-json/twemoji", "1.2.5", "Twitter Emoji, Twitter, CC BY 4.0",
     "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw=="),
    ("emojibase-data", "17.0.0", "Emojibase, Miles Johnson, MIT (keywords of Unicode's annotations)",
     "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA=="),
)}  # fmt: skip

# The artists of each style: the first draws every subject, the others where they have the subject.
ARTISTS = {
    "glossy": ("fluent-emoji",),
    "flat": ("fluent-emoji-flat", "twemoji"),
    "comic": ("fluent-emoji-flat", "twemoji"),
    "neon": ("fluent-emoji-flat", "twemoji"),
    "pixel": ("fluent-emoji", "twemoji"),
    "ink": ("fluent-emoji-high-contrast", "emojione-monotone"),
}

SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)
SHAPES = {f"{{{SVG}}}{tag}" for tag in ("path", "circle", "ellipse", "rect", "polygon", "polyline", "line")}
NOT_DRAWN = {f"{{{SVG}}}{tag}" for tag in ("defs", "clipPath", "mask", "linearGradient", "radialGradient", "filter")}


def fetch(name: str | Package, cache: Path = CACHE) -> Path:
    """The archive of one of PACKAGES or of another, fetched by `npm pack` unless the cache has it, always checked."""
    package = PACKAGES[name] if isinstance(name, str) else name
    cache = Path(cache).expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{package.name.removeprefix('@').replace('/', '-')}-{package.version}.tgz"
    if not path.exists():
        command = ["npm", "pack", f"{package.name}@{package.version}", "--pack-destination", str(cache)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise OSError(f"{package.name} is fetched with npm, which is not installed: install Node.js.") from error
        except subprocess.CalledProcessError as error:
            raise OSError(f"`{' '.join(command)}` failed: {error.stderr.strip()}") from error
    found = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != package.sha512:
        raise OSError(f"{path} is not the file that was published (its checksum differs): delete it, fetch again.")
    return path


def read_package(path: Path, member: str):
    """A JSON file of an npm archive."""
    with tarfile.open(path) as archive:
        return json.load(archive.extractfile(f"package/{member}"))


def svg(icons: dict, name: str, pixels: int) -> str:
    """One drawing of an Iconify set as a complete SVG file of pixels x pixels."""
    icon = icons["icons"][name]
    box = {"left": 0, "top": 0, "width": 16, "height": 16, **icons, **icon}  # the icon's own numbers win
    return (
        f'<svg xmlns="{SVG}" xmlns:xlink="http://www.w3.org/1999/xlink" color="#000" '
        f'viewBox="{box["left"]} {box["top"]} {box["width"]} {box["height"]}" width="{pixels}" height="{pixels}">'
        f"{icon['body']}</svg>"
    )


def rasterize(svg_text: str):
    """An SVG drawing as a PIL image of mode RGBa: red, green, blue times alpha, and alpha."""
    from PIL import Image

    try:
        import resvg_py
    except ImportError as error:
        raise OSError("The artwork is drawn with resvg-py: pip install 'sdlearn[train]'.") from error
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg_text)))).convert("RGBA").convert("RGBa")


def draw(svg_text: str, style: str) -> torch.Tensor:
    """An SVG drawing in one of STYLES as uint8 (4, height, width): red, green, blue times alpha, and alpha.

    glossy, flat and ink are as their artists drew them, and so is pixel: `pictures.place` makes the blocks, which lie
    on the picture's own grid.
    """
    import numpy as np

    edit = {"comic": outlined, "neon": only_lines}.get(style)
    picture = rasterize(restyle(svg_text, edit) if edit else svg_text)
    return torch.from_numpy(np.array(with_glow(picture) if style == "neon" else picture)).permute(2, 0, 1)


def restyle(svg_text: str, edit: Callable[[ElementTree.Element, str, float], None]) -> str:
    """The SVG drawing after `edit(shape, fill, width)` has changed every shape of it; fill is the shape's own or an
    inherited one, width that of the whole drawing in the shape's units."""
    root = ElementTree.fromstring(svg_text)
    width = float(root.get("viewBox").split()[2])

    def walk(element, fill, width):
        if element.tag in NOT_DRAWN:
            return
        fill = element.get("fill", fill)
        scale = re.search(r"scale\(\s*(-?[\d.]+)", element.get("transform", ""))
        width = width / abs(float(scale[1])) if scale else width
        if element.tag in SHAPES:
            edit(element, fill, width)
        for child in element:
            walk(child, fill, width)

    walk(root, "#000", width)
    return ElementTree.tostring(root, encoding="unicode")


def outlined(shape: ElementTree.Element, fill: str, width: float) -> None:
    """comic: a dark outline about 3 % of the drawing's width, half of it under the shape's own fill."""
    if shape.get("stroke") in (None, "none") and fill != "none":
        shape.attrib |= {"stroke": "#1c1c24", "stroke-width": f"{0.045 * width:.4f}", "stroke-linejoin": "round"}
        shape.set("paint-order", "stroke")  # behind the fill, so that small shapes keep their colour


def only_lines(shape: ElementTree.Element, fill: str, width: float) -> None:
    """neon: no fill, and a bright line of the colour that the shape was filled with."""
    stroke = shape.get("stroke", "none")
    colour = fill if stroke == "none" else stroke
    if colour == "none":
        return
    for name in [name for name in shape.attrib if name.startswith("stroke") or "opacity" in name]:
        del shape.attrib[name]
    line = {"stroke": bright(colour), "stroke-width": f"{0.036 * width:.4f}", "stroke-linejoin": "round"}
    shape.attrib |= {"fill": "none", **line}


def bright(colour: str) -> str:
    """The most saturated colour of the same hue; near-white for light greys, and blue for the others."""
    digits = re.fullmatch(r"#([0-9a-fA-F]{3}|[0-9a-fA-F]{6})", colour or "")
    if not digits:
        return "#39c5ff"
    code = "".join(2 * c for c in digits[1]) if len(digits[1]) == 3 else digits[1]
    hue, light, saturation = colorsys.rgb_to_hls(*(int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)))
    if saturation < 0.15:
        return "#f2f2ff" if light > 0.6 else "#39c5ff"
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, 0.6, 1.0))


def with_glow(lines):
    """Lines of an RGBa image over their own light: a blurred copy, half as strong again, three quarters dense."""
    from PIL import Image, ImageChops, ImageFilter

    blurred = lines.filter(ImageFilter.GaussianBlur(0.035 * lines.width))
    gained = blurred.point(lambda value: min(255, 1.5 * value) * 0.75)
    left = ImageChops.invert(lines.getchannel(3))
    behind = Image.merge("RGBa", [ImageChops.multiply(band, left) for band in gained.split()])
    return Image.merge("RGBa", [ImageChops.add(a, b) for a, b in zip(lines.split(), behind.split(), strict=True)])


@dataclass(frozen=True)
class Artwork:
    """Every sprite: `sprites[i]` is `subjects[subject[i]]` drawn in style `STYLES[style[i]]`."""

    sprites: torch.Tensor  # uint8 (n, 4, pixels, pixels), colours times alpha
    subject: torch.Tensor  # int64 (n,), index into `subjects`
    style: torch.Tensor  # int64 (n,), index into STYLES
    subjects: tuple[str, ...]
    keywords: dict[str, tuple[str, ...]]  # other words for a subject, none of which means two subjects

    def __post_init__(self):
        if len(self.subjects) < 2:
            raise ValueError("Name at least two subjects: with one there is nothing to tell apart.")

    def to(self, device) -> "Artwork":
        """The same artwork with its sprites on `device`."""
        return replace(self, sprites=self.sprites.to(device))

    def only(self, subjects) -> "Artwork":
        """The drawings of these subjects. Raises ValueError for one that there is no drawing of."""
        subjects = tuple(sorted(set(subjects)))
        unknown = [subject for subject in subjects if subject not in self.subjects]
        if unknown:
            near = difflib.get_close_matches(unknown[0], self.subjects, n=3, cutoff=0)
            raise ValueError(f"There is no drawing of {unknown[0]!r}; there are of {', '.join(near)} and others.")
        new = torch.tensor([subjects.index(name) if name in subjects else -1 for name in self.subjects])[self.subject]
        rows = (new >= 0).nonzero().flatten()
        keywords = {name: words for name, words in self.keywords.items() if name in subjects}
        return Artwork(self.sprites[rows.to(self.sprites.device)], new[rows], self.style[rows], subjects, keywords)


def load_artwork(cache: Path = CACHE, subjects=SUBJECTS) -> Artwork:
    """The sprites of these subjects, fetched and drawn on the first call (a minute) and read from the cache later."""
    from safetensors.torch import load_file

    cache = Path(cache).expanduser()
    names = {word: PLAIN_WORDS.get(word, word.replace(" ", "-")) for word in sorted(subjects)}
    sets = {name: read_package(fetch(name, cache), "icons.json") for artists in ARTISTS.values() for name in artists}
    unknown = [word for word, icon in names.items() if any(icon not in sets[a[0]]["icons"] for a in ARTISTS.values())]
    if unknown:
        known = [icon.replace("-", " ") for icon in sets["twemoji"]["icons"]]
        near = ", ".join(difflib.get_close_matches(unknown[0], known, n=3, cutoff=0))
        raise ValueError(f"Not every style has a drawing of {unknown[0]!r}; near it are {near}.")
    order = [
        (subject, style, artist, icon)
        for (subject, icon), style in product(names.items(), STYLES)
        for artist in ARTISTS[style]
        if icon in sets[artist]["icons"]
    ]
    label = repr((order, SPRITE, [PACKAGES[name].version for name in sets])).encode()
    label += Path(__file__).read_bytes()  # another way of drawing makes other sprites
    path = cache / f"sprites-{hashlib.sha256(label).hexdigest()[:12]}.safetensors"
    if not path.exists():
        sprites = [draw(svg(sets[artist], icon, SPRITE), style) for _, style, artist, icon in order]
        save_whole({"sprites": torch.stack(sprites)}, path)
    subjects = tuple(names)
    subject = torch.tensor([subjects.index(name) for name, *_ in order])
    style = torch.tensor([STYLES.index(name) for _, name, *_ in order])
    return Artwork(load_file(path)["sprites"], subject, style, subjects, _keywords(names, cache))


def save_whole(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """A safetensors file that is there whole or not at all, also when several processes write it at once."""
    from safetensors.torch import save_file

    partial = path.with_name(f"{path.name}.{os.getpid()}")
    save_file(tensors, partial)
    partial.replace(path)


def _keywords(names: dict[str, str], cache: Path) -> dict[str, tuple[str, ...]]:
    """Each subject's synonyms: the artists' own name, and Unicode's keywords that no other subject shares."""
    entries = read_package(fetch("emojibase-data", cache), "en/data.json")
    tags = {re.sub(r"[^a-z0-9]+", "-", entry["label"].lower()).strip("-"): entry.get("tags", ()) for entry in entries}
    count = Counter(tag for icon in names.values() for tag in tags.get(icon, ()))
    synonyms, artists_own = set(SYNONYMS) - names.keys(), set(names.values())
    return {
        subject: tuple(
            word
            for word in dict.fromkeys((icon, *tags.get(icon, ())))
            if word in synonyms and (word == icon or (count[word] == 1 and word not in artists_own))
        )
        for subject, icon in names.items()
    }
