"""A question to answer before the figure that answers it.

    sdlearn.predict(
        "Twice the steps. What happens to the picture?",
        {
            "It changes completely": "The start is the same noise, and so is the way to go.",
            "It hardly changes": "The way is the same, in smaller steps.",
        },
        right="It hardly changes",
    )

Each answer is a `<details>` element: it opens by mouse, touch or keyboard, without a kernel and without scripts, and
where a page's style is taken away it stays a list that opens. The style comes with the output and keeps to it.
"""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

_STYLE = Path(__file__).with_suffix(".css")


@dataclass(frozen=True, eq=False, repr=False)
class Shown:
    """A piece of a page that a notebook shows by itself. alt: the same in words."""

    alt: str
    html: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.alt


@dataclass(frozen=True, eq=False, repr=False)
class Question(Shown):
    """What `predict` returns. alt: the question without its answer. answers: answer -> what is said of it."""

    question: str
    answers: dict[str, str]
    right: str


def predict(question: str, answers: Mapping[str, str], right: str) -> Question:
    """Two to five answers to choose from, in place; choosing one opens "Yes" or "Not quite" and what is said of it.

    answers: answer -> what is said when it is chosen. right: the answer that is right. Texts are plain, but for `code`
    and *emphasis*. Raises ValueError where `right` is none of the answers or their number is another.
    """
    if not 2 <= len(answers) <= 5:
        raise ValueError(f"A question has two to five answers, not {len(answers)}.")
    if right not in answers:
        raise ValueError(f"The right answer {right!r} is none of the answers: {', '.join(map(repr, answers))}.")
    name = f"predict-{uuid.uuid4().hex[:12]}"
    choices = []
    for answer, said in answers.items():
        kind, verdict = ("right", "✓ Yes.") if answer == right else ("wrong", "✗ Not quite.")
        choices.append(
            f'<details name="{name}" class="{kind}"><summary><span>{marked(answer)}</span></summary>'
            f'<p class="said"><span class="verdict">{verdict}</span> {marked(said)}</p></details>'
        )
    # Jupyter's shortcuts would take Enter, the key that opens an answer, for "edit this cell".
    html = (
        f'<div class="sdlearn-predict tex2jax_ignore mathjax_ignore" role="group" aria-labelledby="{name}" '
        f'data-lm-suppress-shortcuts="true"><style>{_STYLE.read_text(encoding="utf-8")}</style>'
        f'<p class="kind">Predict, then run</p><p class="asked" id="{name}">{marked(question)}</p>'
    )
    alt = "\n".join([f"Predict, then run: {question}", *(f"  ( ) {answer}" for answer in answers)])
    return Question(alt, html + "".join(choices) + "</div>", question, dict(answers), right)


def marked(text: str) -> str:
    """Text as HTML: `code` and *emphasis* are marked, the rest is as it was typed."""
    marks = re.compile(r"`([^`]+)`|(?<![\w*])\*(?=[^\s*])([^*]*[^\s*])\*(?![\w*])")
    return marks.sub(lambda m: f"<code>{m[1]}</code>" if m[1] else f"<em>{m[2]}</em>", escape(text))
