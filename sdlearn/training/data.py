"""The data: open emoji artwork, fetched and drawn once, and pictures with captions composed from it, from a seed.

The artwork comes from npm packages (one file of SVG drawings each), at pinned versions and checked by their checksums.
It is cached in a folder of yours and is no part of sdlearn.
"""

import base64
import difflib
import hashlib
import io
import json
import os
import random
import re
import subprocess
import tarfile
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .captions import BACKGROUNDS, RGB, STYLES, WHITE, Reading, caption, is_dark, pair

CACHE = Path("~/.cache/sdlearn/artwork").expanduser()


class Package(NamedTuple):
    """An npm package: its version, npm's own checksum of it, and whom to thank."""

    name: str
    version: str
    sha512: str  # base64, as in npm's "dist.integrity"
    credit: str


PACKAGES = {
    "fluent-emoji": Package(
        "@iconify-json/fluent-emoji", "1.2.7",
        "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
        "Fluent Emoji, Microsoft Corporation, MIT",
    ),
    "fluent-emoji-flat": Package(
        "@iconify-json/fluent-emoji-flat", "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "Fluent Emoji Flat, Microsoft Corporation, MIT",
    ),
    "fluent-emoji-high-contrast": Package(
        "@iconify-json/fluent-emoji-high-contrast", "1.2.6",
        "esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
        "Fluent Emoji High Contrast, Microsoft Corporation, MIT",
    ),
    "noto": Package(
        "@iconify-json/noto", "1.2.9",
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Noto Emoji, Google Inc, Apache 2.0",
    ),
    "streamline-emojis": Package(
        "@iconify-json/streamline-emojis", "1.2.4",
        "iNr9T9XuZVTyQPJO8ZlLxBzPkpi7qMl+z1l0C31vpEMqhPMelth3n7CeWQYtixdetDPdI81yeG4ROqjWpYJE6A==",
        "Streamline Emojis, Streamline, CC BY 4.0",
    ),
    "emojione-monotone": Package(
        "@iconify-json/emojione-monotone", "1.2.1",
        "cZSNcPsuiAD6HCzCh/2dYKGh3pNI0jJlxBxQWfC33cQsPtqYZqulGBvlkThXYNvDl8VxgVHT9u+izyX/yeEIkA==",
        "Emoji One (Monotone), Emoji One, CC BY 4.0",
    ),
    "twemoji": Package(
        "@iconify-json/twemoji", "1.2.5",
        "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        "Twitter Emoji, Twitter, CC BY 4.0",
    ),
    "emojibase-data": Package(
        "emojibase-data", "17.0.0",
        "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
        "Emojibase, Miles Johnson, MIT (keywords of Unicode's annotations)",
    ),
}

# The artists of each style: the first draws every subject, the others where they have the subject.
ARTISTS = {
    "glossy": ("fluent-emoji",),
    "flat": ("fluent-emoji-flat", "twemoji"),
    "cartoon": ("noto", "streamline-emojis"),
    "ink": ("fluent-emoji-high-contrast", "emojione-monotone"),
}


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(text.split()).split(", "))


# What emoji-64 draws. The first weights learned the first list in every combination, so only the second can tell
# whether weights that started from them compose what they have not seen.
FIRST_SUBJECTS = _names("""
    airplane, alarm clock, alien, avocado, balloon, banana, basketball, bear, bee, bell, bicycle, bird, birthday
    cake, books, bus, butterfly, cactus, camera, car, carrot, castle, cat, cheese, cherries, chicken, coffee,
    cookie, cow, crab, croissant, crown, cupcake, diamond, dinosaur, dog, dolphin, donut, dragon, duck, egg,
    elephant, fire, fish, flamingo, fox, french fries, frog, ghost, gift, giraffe, grapes, green apple, guitar,
    hamburger, hedgehog, helicopter, horse, hot dog, house, ice cream cone, key, koala, ladybug, lemon, lion,
    lollipop, maple leaf, monkey, moon, mountain, mouse, mushroom, octopus, orange, owl, palm tree, pancakes, panda,
    parrot, pear, pencil, penguin, pig, pine tree, pineapple, pizza, planet, popcorn, pumpkin, rabbit, raccoon,
    rainbow, red apple, red heart, robot, rocket, rooster, rose, sailboat, shark, skull, snail, snowflake, snowman,
    soccer ball, star, strawberry, sun, sunflower, t-rex, taco, teapot, teddy bear, tent, tiger, tomato, tractor,
    tulip, turtle, umbrella, unicorn, volcano, watermelon, whale, wolf
""")
MORE_SUBJECTS = _names("""
    accordion, ambulance, anchor, ant, artist palette, axe, backpack, bacon, badger, bagel, ballet shoes, banjo,
    baseball, bat, beaver, bed, bell pepper, bison, blossom, blueberries, bomb, bouquet, boxing glove, bread,
    briefcase, broccoli, broom, bubble tea, burrito, butter, calendar, camel, candle, candy, canoe, chair, chestnut,
    chipmunk, chocolate bar, christmas tree, church, circus tent, cloud, clown, coat, cocktail glass, coconut,
    comet, compass, coral, crayon, crescent moon, cricket, crocodile, cucumber, custard, deer, delivery truck, dice,
    dodo, door, dove, dress, drum, dumpling, eagle, eggplant, envelope, feather, ferris wheel, fire engine,
    firecracker, flute, flying saucer, fountain, four leaf clover, garlic, gear, glasses, globe, goat, goose,
    gorilla, graduation cap, hammer, hamster, handbag, headphones, hibiscus, hippopotamus, honey pot, hot pepper,
    jeans, jellyfish, kangaroo, kite, kiwi fruit, lab coat, ladder, laptop, leopard, light bulb, lime, lipstick,
    lizard, llama, lobster, locomotive, lotus, magnet, mango, maracas, megaphone, melon, microphone, microscope,
    mirror, mobile phone, money bag, moose, mosquito, motor scooter, motorcycle, necktie, nest with eggs, notebook,
    onion, open book, orangutan, otter, oyster, paintbrush, parachute, peach, peacock, peanuts, pickup truck, pie,
    polar bear, police car, poodle, potato, potted plant, pretzel, purse, racing car, radio, rhinoceros, ribbon,
    ring, rock, roller skate, running shoe, sandwich, satellite, saxophone, scarf, scissors, scorpion, screwdriver,
    seal, seedling, shield, shrimp, skateboard, sloth, smiling face, snake, socks, spider, squid, sunglasses, sushi,
    swan, taxi, telephone, telescope, television, thermometer, toilet, toolbox, top hat, tornado, train, trophy,
    tropical fish, trumpet, turkey, violin, volleyball, waffle, watch, wheel, wine glass, worm, wrench, yarn, zebra
""")
SUBJECTS_64 = tuple(sorted((*FIRST_SUBJECTS, *MORE_SUBJECTS)))

# Pictures of two subjects show these only: two of several hundred would each be met too seldom to be told apart.
PAIR_SUBJECTS = _names("""
    banana, car, cat, dog, duck, fox, frog, lemon, lion, moon, mushroom, owl, panda, penguin, pig, pizza, rabbit,
    red apple, robot, rocket, star, strawberry, sun, unicorn
""")

# Plain words for drawings whose own names nobody would type.
PLAIN_WORDS = {
    "cat": "cat-face", "cow": "cow-face", "dog": "dog-face", "dragon": "dragon-face", "horse": "horse-face",
    "monkey": "monkey-face", "mouse": "mouse-face", "pig": "pig-face", "rabbit": "rabbit-face", "sun": "sun-with-face",
    "tiger": "tiger-face", "moon": "full-moon-face", "car": "automobile", "coffee": "hot-beverage",
    "gift": "wrapped-gift", "cheese": "cheese-wedge", "bee": "honeybee", "planet": "ringed-planet",
    "diamond": "gem-stone", "pine tree": "evergreen-tree", "pumpkin": "jack-o-lantern",
    "ice cream cone": "soft-ice-cream", "dinosaur": "sauropod", "donut": "doughnut", "ladybug": "lady-beetle",
    "orange": "tangerine", "globe": "globe-showing-americas", "dice": "game-die", "headphones": "headphone",
    "clown": "clown-face",
}  # fmt: skip

# Of Unicode's keywords, those that name the thing itself ("puppy"), not what it brings to mind ("adorbs").
SYNONYMS = """
    aeroplane alpaca ape aubergine automobile ax bike bilberry blueberry boba bookbag boulder brachiosaurus
    brontosaurus buffalo bulb bumblebee bunny burger buttercup cab cantaloupe capsicum cherry cog cogwheel computer
    concertina copter cygnet dandelion diplodocus doughnut dromedary dynamite earth earthworm elk email evergreen
    eyeglasses football frankfurter fries gander gem grape grasshopper grizzly hatchet hippo honeybee hotcake hotdog
    jet jewel kitten kitty kiwi ladybird letter loaf martini mic mollusk nectarine pancake pants peahen peanut
    pickup plane present pudding puppy reptile rucksack sapling satchel saturn saucer sauropod sausage sax scooter
    seat serpent shoe skates sneaker spanner sprout squeezebox squirrel stocking tangerine teddy terrapin tie
    toadstool toast tortoise trousers tv tyrannosaurus whirlwind wisent yacht
"""


@dataclass(frozen=True)
class Variety:
    """How much the composed pictures differ. The defaults: scale and place only, on plain backgrounds."""

    coloured: float = 0.6       # share of pictures on a named colour instead of white
    mirror: float = 0.0         # share of pictures mirrored left to right
    rotate: float = 0.0         # largest turn, degrees
    hue: float = 0.0            # largest turn of the hue, degrees
    gradient: float = 0.0       # share of coloured backgrounds that go from light to dark
    keywords: float = 0.0       # share of captions that name the subject by one of its keywords
    pairs: float = 0.0          # share of pictures with two of `pair_subjects` side by side
    hold_out: bool = False      # leave out the combinations that `held_out` names


@dataclass(frozen=True)
class Preset:
    """What one size of the model learns from."""

    size: int                   # of a picture, pixels
    sprite: int                 # of a drawing before it is scaled into the picture, pixels
    all_subjects: bool          # every common name that is no person, symbol or flag, or SUBJECTS_64
    variety: Variety


VARIETY = Variety(mirror=0.5, rotate=8, hue=10, gradient=0.3, keywords=0.3, pairs=0.15, hold_out=True)
PRESETS = {
    "emoji-64": Preset(64, 96, all_subjects=False, variety=VARIETY),
    "emoji-128": Preset(128, 192, all_subjects=True, variety=VARIETY),
}


# --- fetching and drawing -------------------------------------------------------------------------------------------


def fetch(name: str, cache: Path = CACHE) -> Path:
    """The archive of one of PACKAGES, downloaded with `npm pack` unless the cache has it, and always checked."""
    package = PACKAGES[name]
    cache = Path(cache).expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{package.name.removeprefix('@').replace('/', '-')}-{package.version}.tgz"
    if not path.exists():
        command = ["npm", "pack", f"{package.name}@{package.version}", "--pack-destination", str(cache)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise OSError("The artwork is fetched with npm, which is not installed: install Node.js.") from error
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
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="#000" '
        f'viewBox="{box["left"]} {box["top"]} {box["width"]} {box["height"]}" width="{pixels}" height="{pixels}">'
        f"{icon['body']}</svg>"
    )


def draw(svg_text: str) -> torch.Tensor:
    """An SVG drawing as uint8 (4, height, width): red, green, blue times alpha, and alpha."""
    import numpy as np
    from PIL import Image

    try:
        import resvg_py
    except ImportError as error:
        raise OSError("The artwork is drawn with resvg-py: pip install 'sdlearn[train]'.") from error
    picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg_text)))).convert("RGBA").convert("RGBa")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


@dataclass(frozen=True)
class Artwork:
    """Every sprite of a preset. `subjects[subject[i]]` drawn in style `STYLES[style[i]]` is `sprites[i]`."""

    sprites: torch.Tensor               # uint8 (n, 4, pixels, pixels), colours times alpha
    subject: torch.Tensor               # int64 (n,), index into `subjects`
    style: torch.Tensor                 # int64 (n,), index into STYLES
    subjects: tuple[str, ...]
    keywords: dict[str, tuple[str, ...]]  # other words for a subject, none of which means two subjects

    def to(self, device) -> "Artwork":
        return Artwork(self.sprites.to(device), self.subject, self.style, self.subjects, self.keywords)

    def only(self, subjects) -> "Artwork":
        """The drawings of these subjects. Raises ValueError for one that there is no drawing of."""
        subjects = tuple(sorted(set(subjects)))
        unknown = [subject for subject in subjects if subject not in self.subjects]
        if unknown:
            near = difflib.get_close_matches(unknown[0], self.subjects, n=3, cutoff=0)
            raise ValueError(f"There is no drawing of {unknown[0]!r}; there are of {', '.join(near)} and others.")
        if len(subjects) < 2:
            raise ValueError("Name at least two subjects: with one there is nothing to tell apart.")
        new = torch.tensor([subjects.index(name) if name in subjects else -1 for name in self.subjects])[self.subject]
        rows = (new >= 0).nonzero().flatten()
        keywords = {name: words for name, words in self.keywords.items() if name in subjects}
        return Artwork(self.sprites[rows.to(self.sprites.device)], new[rows], self.style[rows], subjects, keywords)


def load_artwork(preset: str = "emoji-64", cache: Path = CACHE) -> Artwork:
    """The sprites of a preset, fetched and drawn on the first call (minutes) and read from the cache after that."""
    from safetensors.torch import load_file

    settings, cache = PRESETS[preset], Path(cache).expanduser()
    sets = {name: read_package(fetch(name, cache), "icons.json") for names in ARTISTS.values() for name in names}
    names = _subject_names(sets, cache, settings.all_subjects)
    order = [
        (subject, style, artist, icon)
        for subject, icon in names.items()
        for style in STYLES
        for artist in ARTISTS[style]
        if icon in sets[artist]["icons"]
    ]
    label = repr((order, settings.sprite, [PACKAGES[name].version for name in sets]))
    path = cache / f"sprites-{preset}-{hashlib.sha256(label.encode()).hexdigest()[:12]}.safetensors"
    if not path.exists():
        sprites = torch.stack([draw(svg(sets[artist], icon, settings.sprite)) for _, _, artist, icon in order])
        save_whole({"sprites": sprites}, path)
    subjects = tuple(names)
    return Artwork(
        load_file(path)["sprites"],
        torch.tensor([subjects.index(subject) for subject, *_ in order]),
        torch.tensor([STYLES.index(style) for _, style, *_ in order]),
        subjects,
        _keywords(names, cache) if settings.variety.keywords else {},
    )


def save_whole(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """A safetensors file that is there whole or not at all, also when several processes write it at once."""
    from safetensors.torch import save_file

    partial = path.with_name(f"{path.name}.{os.getpid()}")
    save_file(tensors, partial)
    partial.replace(path)


def _subject_names(sets: dict, cache: Path, all_subjects: bool) -> dict[str, str]:
    """{what a caption calls it: what the artists call it}, in alphabetical order."""
    if not all_subjects:
        return {word: PLAIN_WORDS.get(word, word.replace(" ", "-")) for word in SUBJECTS_64}
    left_out = {"People & Body", "Symbols", "Flags", "Component"}
    categories = read_package(fetch("noto", cache), "metadata.json")["categories"]
    wanted = {name for category, names in categories.items() if category not in left_out for name in names}
    common = wanted.intersection(*(sets[names[0]]["icons"] for names in ARTISTS.values()))
    plain = {icon: word for word, icon in PLAIN_WORDS.items()}
    taken = set(PLAIN_WORDS)  # "dog" is the dog's face, so the whole animal keeps its longer name out of the way
    named = {plain.get(icon, icon.replace("-", " ")): icon for icon in common if icon in plain or icon not in taken}
    named["t-rex"] = named.pop("t rex")
    return dict(sorted(named.items()))


def _keywords(names: dict[str, str], cache: Path) -> dict[str, tuple[str, ...]]:
    """Each subject's synonyms: the artists' own name, and Unicode's keywords that no other subject shares."""
    entries = read_package(fetch("emojibase-data", cache), "en/data.json")
    tags = {re.sub(r"[^a-z0-9]+", "-", entry["label"].lower()).strip("-"): entry.get("tags", ()) for entry in entries}
    count = Counter(tag for icon in names.values() for tag in tags.get(icon, ()))
    synonyms, artists_own = set(SYNONYMS.split()) - names.keys(), set(names.values())
    return {
        subject: tuple(
            word for word in dict.fromkeys((icon, *tags.get(icon, ())))
            if word in synonyms and (word == icon or (count[word] == 1 and word not in artists_own))
        )
        for subject, icon in names.items()
    }  # fmt: skip


# --- composing ------------------------------------------------------------------------------------------------------


def held_out(subject: str, style: str, background: str) -> bool:
    """True for the combinations that a run with `hold_out` never sees: one subject-style pair in eight, on half of the
    backgrounds. The pairs and the backgrounds come from a hash, so they are the same for everyone."""
    pair = hashlib.sha256(f"{subject}/{style}".encode()).digest()
    return pair[0] < 32 and (pair[1] + BACKGROUNDS.index(background)) % 2 == 0


def pair_subjects(subjects) -> tuple[str, ...]:
    """Those of `subjects` that pictures of two show: PAIR_SUBJECTS, or any where there are not two of these."""
    known = tuple(subject for subject in PAIR_SUBJECTS if subject in subjects)
    return known if len(known) > 1 else tuple(subjects)


class Batch(NamedTuple):
    pixels: torch.Tensor            # (B, 3, size, size) in [-1, 1]
    captions: list[str]
    readings: list[Reading]         # what is there (of a pair, the left subject)


class Placement(NamedTuple):
    """Where a sprite goes. Lengths are shares of the picture's side, angles are degrees."""

    scale: float
    right: float
    down: float
    angle: float
    mirror: bool
    hue: float


@dataclass(frozen=True)
class Pictures:
    """An endless, seeded stream of batches: batch `index` is always the same, so a run can continue anywhere.

    Every style comes equally often, however many artists draw it: the model would lean to the one it meets most.
    """

    artwork: Artwork
    size: int
    variety: Variety = Variety()
    seed: int = 0

    @cached_property
    def _singles(self) -> list[list[int]]:
        """The sprites of each style."""
        return self._by_style(self.artwork.subjects)

    @cached_property
    def _pairs(self) -> list[list[int]]:
        """The sprites of each style that may share a picture."""
        return self._by_style(pair_subjects(self.artwork.subjects))

    def batch(self, index: int, batch_size: int) -> Batch:
        """Batch number `index`, on the device of the artwork's sprites."""
        return self.compose(self.scenes(index, batch_size))

    def scenes(self, index: int, batch_size: int) -> list["Scene"]:
        """What the pictures of a batch show, not yet drawn."""
        dice = random.Random(f"{self.seed}/{index}")
        return [self._scene(dice) for _ in range(batch_size)]

    def compose(self, scenes: list["Scene"]) -> Batch:
        """The pictures of these scenes."""
        device = self.artwork.sprites.device
        ground = torch.stack([_background(scene, self.size) for scene in scenes]).to(device)
        for layer in range(max(len(scene.sprites) for scene in scenes)):
            rows = [i for i, scene in enumerate(scenes) if layer < len(scene.sprites)]
            sprites = self.artwork.sprites[[scenes[i].sprites[layer] for i in rows]].float() / 255
            white_ink = [scenes[i].white_ink(self.artwork, layer) for i in rows]
            placed = place(sprites, [scenes[i].placements[layer] for i in rows], self.size, white_ink)
            ground[rows] = placed[:, :3] + ground[rows] * (1 - placed[:, 3:])
        return Batch(ground * 2 - 1, [scene.caption for scene in scenes], [scene.reading for scene in scenes])

    def _by_style(self, subjects) -> list[list[int]]:
        art = self.artwork
        is_one = torch.isin(art.subject, torch.tensor([art.subjects.index(subject) for subject in subjects]))
        return [(is_one & (art.style == style)).nonzero().flatten().tolist() for style in art.style.unique()]

    def _scene(self, dice: random.Random) -> "Scene":
        two = dice.random() < self.variety.pairs
        while True:
            sprites = dice.choice(self._pairs if two else self._singles)
            chosen = [dice.choice(sprites)]
            if two:
                chosen.append(dice.choice([s for s in sprites if not self._same_subject(s, chosen[0])]))
            background = dice.choice(BACKGROUNDS[1:]) if dice.random() < self.variety.coloured else WHITE
            if not (self.variety.hold_out and any(held_out(*self._reading(s, background)) for s in chosen)):
                return self.scene(dice, chosen, background)

    def scene(self, dice: random.Random, sprites: list[int], background: str) -> "Scene":
        """A scene with this sprite, or these two, on this background; everything else is drawn from `dice`."""
        variety, readings = self.variety, [self._reading(sprite, background) for sprite in sprites]
        names = [self._name(reading.subject, dice) for reading in readings]
        shade = dice.uniform(0.15, 0.35) if background != WHITE and dice.random() < variety.gradient else 0.0
        return Scene(
            tuple(sprites),
            tuple(self._placement(dice, side, len(sprites)) for side in range(len(sprites))),
            background, shade, dice.uniform(0, 360),
            caption(pair(*names) if len(names) == 2 else names[0], readings[0].style, background, dice),
            readings[0],
        )  # fmt: skip

    def _same_subject(self, sprite: int, other: int) -> bool:
        return bool(self.artwork.subject[sprite] == self.artwork.subject[other])

    def _reading(self, sprite: int, background: str) -> Reading:
        art = self.artwork
        return Reading(art.subjects[art.subject[sprite]], STYLES[art.style[sprite]], background)

    def _name(self, subject: str, dice: random.Random) -> str:
        keywords = self.artwork.keywords.get(subject, ())
        return dice.choice(keywords) if keywords and dice.random() < self.variety.keywords else subject

    def _placement(self, dice: random.Random, side: int, sides: int) -> Placement:
        variety = self.variety
        scale, right, down = dice.uniform(0.78, 0.97), dice.uniform(-0.08, 0.08), dice.uniform(-0.08, 0.08)
        if sides == 2:  # two subjects share the picture: half the size, left and right of the middle
            scale, right = scale * 0.53, right / 4 + (-0.24, 0.24)[side]
        return Placement(
            scale, right, down,
            angle=dice.uniform(-variety.rotate, variety.rotate),
            mirror=dice.random() < variety.mirror,
            hue=dice.uniform(-variety.hue, variety.hue),
        )


class Scene(NamedTuple):
    """One picture before it is drawn."""

    sprites: tuple[int, ...]
    placements: tuple[Placement, ...]
    background: str
    shade: float            # 0: a plain background, else how far it goes from light to dark
    light_from: float       # degrees
    caption: str
    reading: Reading

    def white_ink(self, artwork: Artwork, layer: int) -> bool:
        return STYLES[artwork.style[self.sprites[layer]]] == "ink" and is_dark(self.background)


def _background(scene: Scene, size: int) -> torch.Tensor:
    """(3, size, size) in [0, 1]."""
    colour = torch.tensor(RGB[scene.background]).view(3, 1, 1) / 255
    if not scene.shade:
        return colour.expand(3, size, size).clone()
    axis = torch.linspace(-0.7, 0.7, size)
    angle = torch.deg2rad(torch.tensor(scene.light_from))
    along = axis.view(1, -1) * angle.cos() + axis.view(-1, 1) * angle.sin()
    return (colour * (1 + scene.shade * along)).clamp(0, 1)


def place(sprites: torch.Tensor, placements: list[Placement], size: int, white_ink: list[bool]) -> torch.Tensor:
    """Sprites (B, 4, P, P) scaled, turned, mirrored and moved into pictures (B, 4, size, size), colours times alpha.

    Sampled at twice the size and averaged, so that thin lines do not break up.
    """
    device = sprites.device
    invert = torch.tensor(white_ink, device=device).view(-1, 1, 1, 1)
    colour, alpha = sprites[:, :3], sprites[:, 3:]
    colour = torch.where(invert, alpha - colour, colour)
    turn_hue = torch.stack([_hue_matrix(p.hue) for p in placements]).to(device)
    colour = torch.einsum("bij,bjhw->bihw", turn_hue, colour)
    colour = torch.minimum(colour.clamp(min=0), alpha)

    values = torch.tensor([[p.scale, p.right, p.down, p.angle, -1.0 if p.mirror else 1.0] for p in placements])
    scale, right, down, angle, flip = values.unbind(1)
    cos, sin = torch.deg2rad(angle).cos() / scale, torch.deg2rad(angle).sin() / scale
    # grid_sample asks where each pixel of the result comes from: the inverse of "flip, turn, scale, then move".
    none = torch.zeros_like(cos)
    rows = torch.stack((flip * cos, flip * sin, none, -sin, cos, none), 1).view(-1, 2, 3)
    move = torch.stack((right, down), 1) * 2  # shares of the side to the grid's -1...1
    rows[:, :, 2] = -(rows[:, :, :2] @ move.unsqueeze(2)).squeeze(2)
    grid = F.affine_grid(rows, (len(sprites), 4, 2 * size, 2 * size), align_corners=False).to(device)
    return F.avg_pool2d(F.grid_sample(torch.cat((colour, alpha), 1), grid, align_corners=False), 2)


def _hue_matrix(degrees: float) -> torch.Tensor:
    """(3, 3): turns a colour about the gray axis (Rodrigues' rotation about (1, 1, 1))."""
    angle = torch.deg2rad(torch.tensor(float(degrees)))
    third, root = (1 - angle.cos()) / 3, angle.sin() / 3**0.5
    return torch.eye(3) * angle.cos() + third + root * torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
