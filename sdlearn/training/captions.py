"""What a caption can say (a style, a subject, a background) and how it is written and read back."""

import re
from typing import NamedTuple

STYLES = ("glossy", "flat", "cartoon", "ink")

WHITE = "white"
COLOURS = {
    "red": (214, 48, 49),
    "orange": (243, 143, 57),
    "yellow": (252, 217, 80),
    "green": (79, 177, 97),
    "blue": (66, 134, 244),
    "purple": (143, 86, 195),
    "pink": (248, 166, 200),
    "brown": (141, 100, 66),
    "black": (24, 24, 28),
    "gray": (156, 158, 160),
    "teal": (38, 168, 154),
    "beige": (241, 225, 200),
    "sky blue": (150, 210, 250),
}
BACKGROUNDS = (WHITE, *COLOURS)
RGB = {WHITE: (255, 255, 255), **COLOURS}


def is_dark(background: str) -> bool:
    """True where black ink would not show and is drawn white instead (Rec. 601 luma under 110 of 255)."""
    red, green, blue = RGB[background]
    return 0.299 * red + 0.587 * green + 0.114 * blue < 110


class Reading(NamedTuple):
    """What a caption asks for, or what a picture shows. None: the caption leaves it open."""

    subject: str | None
    style: str | None
    background: str | None


# Of the subjects and their synonyms, those that are not counted.
MASS_NOUNS = {"bacon", "bread", "broccoli", "bubble tea", "butter", "cheese", "coral", "custard", "garlic", "popcorn",
              "sushi", "toast", "yarn"}  # fmt: skip


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" and not word.startswith("uni") else "a"


def indefinite(name: str, style: str | None = None) -> str:
    """A thing with its article, if it takes one: "a dog", "an ink dog", but "books", "flat books" and "popcorn"."""
    head = re.split(r" (?:and|behind|holding|in|over|with) ", name)[0]  # a nest with eggs is one nest
    words = f"{style} {name}" if style else name
    return words if head in MASS_NOUNS or re.search(r"[^iosu]s$", head) else f"{article(words)} {words}"


def pair(first: str, second: str) -> str:
    """What two subjects side by side are called: "cat and a dog"."""
    return f"{first} and {indefinite(second)}"


def caption(subject: str, style: str, background: str, random) -> str:
    """A caption of the picture, in one of four forms drawn from `random` (a `random.Random`). A white background goes
    unsaid half of the time; the fourth form leaves the style open."""
    text = random.choices(
        (
            indefinite(subject, style),
            f"{subject}, {style} style",
            f"{article(style)} {style} picture of {indefinite(subject)}",
            subject,
        ),
        weights=(50, 20, 20, 10),
    )[0]
    if background != WHITE or random.random() < 0.5:
        text += f" on {article(background)} {background} background"
    return text


def parse(prompt: str, subjects, styles=STYLES, backgrounds=BACKGROUNDS) -> Reading:
    """Reads a prompt back. The longest names win ("red apple" over "apple", "sky blue" over "blue").

    A colour counts as the background only in front of the word "background"; a prompt without one leaves the background
    white, as the captions do.
    """
    text = " ".join(re.findall(r"[a-z0-9'-]+", prompt.lower()))
    behind = re.search(rf"\b({_any_of(backgrounds)}) background\b", text)
    rest = text.replace(behind.group(0), " ") if behind else text
    style = re.search(rf"\b({_any_of(styles)})\b", rest)
    subject = re.search(rf"\b({_any_of(subjects)})\b", rest)
    return Reading(
        subject.group(1) if subject else None,
        style.group(1) if style else None,
        behind.group(1) if behind else WHITE,
    )


def _any_of(words) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
