"""What a notebook claims: always, or of the course's own model."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ..model import StableDiffusion
    from ..training.judge import Judge

SHIPPED = "emoji"


class Lesson:
    """Says what was shown, in one line each, and stops the notebook where it is not so.

        lesson = sdlearn.lesson(sd)
        lesson.prove("two libraries, one picture", worst <= lesson.rounding)     # of every model
        lesson.claim("the background is blue", blue > red, blue > green)         # of the course's own model

    A condition is a truth value, or a function that gives one; functions of a claim are called on the course's own
    model only, for what they need (such as the judge) may be missing elsewhere.
    """

    def __init__(self, sd: StableDiffusion):
        self.sd = sd

    @property
    def shipped(self) -> bool:
        """Whether this is the course's own model, of which more is known than of others."""
        return self.sd.name == SHIPPED

    @property
    def rounding(self) -> int:
        """Grey levels, of 255, by which the same picture may differ when it is drawn in another order or batch."""
        return 1 if self.sd.dtype == torch.float32 else 64

    @cached_property
    def judge(self) -> Judge | None:
        """The classifier that reads the course's own model's pictures; None for another model, whose subjects it does
        not know."""
        from ..training.judge import load_judge

        return load_judge() if self.shipped else None

    def prove(self, said: str, *conditions: bool | Callable[[], bool]) -> None:
        """Prints "✓" and what was said. Raises AssertionError with it unless all conditions hold."""
        assert conditions, "a proof needs at least one condition"
        assert _all_hold(conditions), said
        print("✓", said)

    def claim(self, said: str, *conditions: bool | Callable[[], bool]) -> None:
        """`prove` on the course's own model. On another one what was said is printed too, marked if it is not so."""
        if self.shipped:
            self.prove(said, *conditions)
        elif any(map(callable, conditions)) or not _all_hold(conditions):
            print("–", said, "(said of the course's own model)")
        else:
            print("✓", said)


def lesson(sd: StableDiffusion) -> Lesson:
    """What a notebook proves and claims with the model it runs on."""
    return Lesson(sd)


def _all_hold(conditions) -> bool:
    return all(bool(condition() if callable(condition) else condition) for condition in conditions)
