"""Broken pictures and what is wrong with them: one case with its guesses, and a gallery of many.

    Case(number=7, complaint="The picture is black.", ...)     # as the last line of a cell it shows itself
    gallery(cases, right=image)                                # all of them; a click tells the cause

Both are `<details>` elements, as those of `predict`: they open without a kernel and without scripts.
"""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from .paper import something
from .predict import Question, Shown, marked

_STYLE = Path(__file__).with_suffix(".css")
_PLAIN = "tex2jax_ignore mathjax_ignore"


@dataclass(frozen=True, eq=False, repr=False)
class Case:
    """A broken picture beside the right one, what to guess, and folded under it the story. Texts may hold `code`.

    complaint: what somebody says who has this bug. question: by `predict`. cause: in a sentence or two. where: the
    function or file that the line stands in. line: its change, old lines after "- " and new ones after "+ ". cost: in
    words. searched: what people type in. witness: a report of it, its title and address. test: what has to hold, and
    the code that asks for it.
    """

    number: int
    complaint: str
    right: Image.Image
    broken: Image.Image
    question: Question
    cause: str
    where: str
    line: tuple[str, ...]
    cost: str
    searched: tuple[str, ...]
    witness: tuple[str, str]
    test: tuple[str, str]

    def _repr_html_(self) -> str:
        name = f"case-{self.number}"
        shown = {"right": self.right, "broken": self.broken}
        sides = "".join(
            f"<div>{_image(image, f'Case {self.number}, {what}: {self.complaint}')}<span>{what}</span></div>"
            for what, image in shown.items()
        )
        line = "".join(f'<span class="{_SIGNS[line[0]]}">{escape(line)}\n</span>' for line in self.line)
        holds, code = self.test
        title, address = self.witness
        return (
            f'<div class="sdlearn-case {_PLAIN}" id="{name}" role="group" aria-labelledby="{name}-says" '
            f'data-lm-suppress-shortcuts="true">{_style()}<p class="kind">Case {self.number}</p>'
            f'<p class="title" id="{name}-says">{marked(self.complaint)}</p><div class="pictures">{sides}</div>'
            f"{self.question.html}<details><summary>The story: cause, line, cost, test</summary>"
            f'<p>{marked(self.cause)}</p><p class="kind">The line ({marked(self.where)})</p><pre>{line}</pre>'
            f'<p class="kind">What it costs</p><p>{marked(self.cost)}</p>'
            f'<p class="kind">What people search for</p><p>{_quoted(self.searched)}; '
            f'<a href="{escape(address)}">{escape(title)}</a></p>'
            f'<p class="kind">The test that stops it</p><p>{marked(holds)}</p><pre>{escape(code)}</pre></details></div>'
        )

    def __repr__(self) -> str:
        """The complaint and the guesses; the story waits."""
        return f"Case {self.number}: {self.complaint}\n{self.question!r}"


def gallery(cases: Iterable[Case], right: Image.Image) -> Shown:
    """All broken pictures on one sheet, after a right one; a click on one tells its cause, and leads to its case."""
    cases = list(cases)
    something(cases, "case")
    tiles = [f'<div>{_image(right, "")}<span class="title">The right picture</span></div>']
    for case in cases:
        tiles.append(
            f'<details name="sdlearn-gallery"><summary>{_image(case.broken, "")}'
            f'<span class="title">{case.number}. {marked(case.complaint)}</span></summary>'
            f'<div class="said"><p>{marked(case.question.right)}. {marked(case.cause)}</p>'
            f"<p>It costs {marked(case.cost)}</p><p>People search for {_quoted(case.searched)}.</p>"
            f'<p><a href="#case-{case.number}">Case {case.number}, with three guesses</a></p></div></details>'
        )
    alt = "Broken pictures: " + " ".join(f"{case.number}. {case.complaint}" for case in cases)
    html = (
        f'<div class="sdlearn-gallery {_PLAIN}" role="group" aria-label="Broken pictures" '
        f'data-lm-suppress-shortcuts="true">{_style()}{"".join(tiles)}</div>'
    )
    return Shown(alt, html)


_SIGNS = {"-": "minus", "+": "plus"}


def _quoted(searched: tuple[str, ...]) -> str:
    return ", ".join(f"“{escape(words)}”" for words in searched)


def _style() -> str:
    return f"<style>{_STYLE.read_text(encoding='utf-8')}</style>"


def _image(image: Image.Image, alt: str) -> str:
    file = io.BytesIO()
    image.save(file, "webp", quality=90)
    uri = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img class="dark-light" src="{uri}" alt="{escape(alt)}" {size}>'
