"""What a caption can say, and how it is written and read back: a style, a subject, where it is, a background."""

import re
from typing import NamedTuple

STYLES = ("glossy", "flat", "comic", "neon", "pixel", "ink")

WHITE, BLACK = "white", "black"
COLOURS = {
    "red": (214, 48, 49), "orange": (243, 143, 57), "yellow": (252, 217, 80), "green": (79, 177, 97),
    "blue": (66, 134, 244), "purple": (143, 86, 195), "pink": (248, 166, 200), "brown": (141, 100, 66),
    BLACK: (24, 24, 28), "gray": (156, 158, 160), "teal": (38, 168, 154), "beige": (241, 225, 200),
    "sky blue": (150, 210, 250),
}  # fmt: skip
BACKGROUNDS = (WHITE, *COLOURS)
RGB = {WHITE: (255, 255, 255), **COLOURS}

SIZES = ("small", "big")
SIDES = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
SHADES = ("dark to light", "light to dark")  # of a background, from the top of the picture to its bottom


def is_dark(background: str) -> bool:
    """True where black ink would not show and is drawn white instead (Rec. 601 luma under 110 of 255)."""
    red, green, blue = RGB[background]
    return 0.299 * red + 0.587 * green + 0.114 * blue < 110


def unnamed_background(style: str | None) -> str:
    """The background of a prompt that names none: black for neon, which shines in the dark only, else white."""
    return BLACK if style == "neon" else WHITE


class Reading(NamedTuple):
    """What a caption asks for, or what a picture shows. None: the caption leaves it open."""

    subject: str | None
    style: str | None
    background: str | None


class Details(NamedTuple):
    """What a caption may say beyond subject, style and background. None: it does not say."""

    size: str | None = None  # one of SIZES
    side: str | None = None  # one of SIDES
    facing: str | None = None  # "left" or "right"
    shade: str | None = None  # one of SHADES


# Of the subjects and their synonyms, those that are not counted.
MASS_NOUNS = {"bacon", "bread", "broccoli", "bubble tea", "butter", "cheese", "coral", "custard", "garlic", "popcorn",
              "sushi", "toast", "yarn"}  # fmt: skip


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" and not word.startswith("uni") else "a"


def indefinite(name: str, *adjectives: str | None) -> str:
    """A thing with its article, if it takes one: "a dog", "a small ink dog", but "books" and "flat popcorn"."""
    head = re.split(r" (?:and|behind|holding|in|over|with) ", name)[0]  # a nest with eggs is one nest
    words = " ".join([word for word in adjectives if word] + [name])
    return words if head in MASS_NOUNS or re.search(r"[^iosu]s$", head) else f"{article(words)} {words}"


def pair(first: str, second: str) -> str:
    """What two subjects side by side are called: "cat and a dog"."""
    return f"{first} and {indefinite(second)}"


def caption(name: str, style: str, background: str, random, details: Details | None = None) -> str:
    """A caption of the picture, in one of four forms drawn from `random` (a `random.Random`).

    The background goes unsaid half of the time where it is the style's own; the fourth form leaves the style open.
    """
    size, side, facing, shade = details or Details()
    form = random.choices(("plain", "comma", "picture", "open"), weights=(50, 20, 20, 10))[0]
    place = f" {SIDES[side]}" if side else ""
    place += f"{'' if form == 'comma' else ','} facing {facing}" if facing else ""
    thing = f"{size} {name}" if size else name
    text = {
        "plain": indefinite(name, size, style) + place,
        "comma": f"{thing}{place}, {style} style",
        "picture": f"{article(style)} {style} picture of {indefinite(name, size)}{place}",
        "open": thing + place,
    }[form]
    unsaid = unnamed_background(None if form == "open" else style)
    if shade or background != unsaid or random.random() < 0.5:
        text += f" on {indefinite('background', shade, background)}"
    return text


def parse(prompt: str, subjects, styles=STYLES, backgrounds=BACKGROUNDS) -> Reading:
    """Reads a prompt back. The longest names win ("red apple" over "apple", "sky blue" over "blue").

    A colour counts as the background only in front of the word "background"; a prompt without one leaves it
    `unnamed_background`, as the captions do.
    """

    def first(words, text: str, after: str = "") -> str | None:
        longest = sorted(words, key=len, reverse=True)
        found = re.search(rf"\b({'|'.join(map(re.escape, longest))}){after}\b", text)
        return found and found[1]

    text = " ".join(re.findall(r"[a-z0-9'-]+", prompt.lower()))
    background = first(backgrounds, text, " background")
    rest = text.replace(f"{background} background", " ") if background else text
    style = first(styles, rest)
    return Reading(first(subjects, rest), style, background or unnamed_background(style))
