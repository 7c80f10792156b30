"""The exercises of the course: what a notebook asks the reader to write, and a check that names the mistake.

    from sdlearn.exercises import forward_noising as exercise

    def add_noise(x0, noise, alpha_bar):
        ...                                        # the reader's line

    add_noise = exercise.add_noise.check(add_noise)

`check` says in one sentence whether the answer is right and, where it is one of the likely mistakes, which. It gives
back a function to go on with, the reader's own or, until that is right, the course's, so that the notebook runs on.
There is one module for each notebook. An exercise is its right answer with what surrounds it:

    @exercise(minutes=4, difficulty=1, trains="the jump to any timestep", hint="Amplitudes are roots of variances.")
    def add_noise(x0, noise, alpha_bar):
        return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise

    @add_noise.given
    def _():
        yield torch.ones(1), torch.zeros(1), 0.25

    @add_noise.mistake("The square roots are missing: alpha_bar and 1 - alpha_bar are variances.")
    def _(x0, noise, alpha_bar):
        return alpha_bar * x0 + (1 - alpha_bar) * noise
"""

from __future__ import annotations

import inspect
import json
import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

DIFFICULTIES = {1: "easy", 2: "medium", 3: "hard"}
RECORD = "SDLEARN_GRADES"  # names the file that every check adds a line to, if the environment has it


class Exercise:
    """A question with its right answer, the inputs to try an answer on, and the likely mistakes.

    minutes: to think and write. difficulty: 1 to 3. trains: what one can do afterwards. hint: for one who is stuck.
    tolerance: the largest difference from the right answer that counts as rounding, relative to its largest value.
    picture: for answers that are latents or pictures: a function (answer, *context) → pictures in [-1, 1], so that
    differences are told in grey levels, and with a mistake what it costs.
    machine: for answers that are parts of a machine: a function (part, *context) → the pictures that the machine draws
    with this part in its place, so that a mistake is told with what it costs.
    """

    def __init__(
        self,
        answer: Callable,
        *,
        minutes: int,
        difficulty: int,
        trains: str,
        hint: str,
        tolerance: float = 1e-3,
        picture: Callable | None = None,
        machine: Callable | None = None,
    ):
        self.answer, self.name, self.minutes, self.difficulty = (
            answer,
            answer.__name__,
            minutes,
            DIFFICULTIES[difficulty],
        )
        self.trains, self.hint, self.tolerance, self.picture, self.machine = trains, hint, tolerance, picture, machine
        self.inputs: Callable[..., Iterable[tuple]] = lambda *context: [()]
        self.mistakes: list[tuple[str, Callable]] = []

    def given(self, inputs: Callable[..., Iterable[tuple]]):
        """Decorator: the arguments to try an answer on. It gets the context of `check`, and yields tuples."""
        self.inputs = inputs
        return inputs

    def mistake(self, sentence: str):
        """Decorator: a wrong answer that is likely, and the sentence that tells its author what went wrong."""

        def add(wrong: Callable) -> Callable:
            self.mistakes.append((sentence, wrong))
            return wrong

        return add

    def check(self, attempt: Any, *context: Any) -> Any:
        """Prints what is to be said of an attempt; returns it if it is right, else the course's answer.

        attempt: a function as the exercise asks for, or where it asks for a value the value; `...` is none yet.
        context: what the inputs are made from, such as the model.
        """
        right, said = self.judge(attempt, *context)
        print({True: "✓", False: "✗", None: "✎"}[right], f"{self.name}: {said}")
        if path := os.environ.get(RECORD):
            with Path(path).open("a", encoding="utf-8") as file:
                place = f"{self.answer.__module__.rsplit('.', 1)[-1]}.{self.name}"
                file.write(json.dumps({"exercise": place, "right": right, "said": said}) + "\n")
        if right:
            return attempt
        return self.answer if self._asks_for_a_function(attempt) else self.answer(*next(iter(self.inputs(*context))))

    def prove(self, attempt: Any, *context: Any) -> Any:
        """`check` for a solution: raises AssertionError with what is to be said if it is not right."""
        right, said = self.judge(attempt, *context)
        assert right, f"{self.name}: {said}"
        print(f"✓ {self.name}: {said}")
        return attempt

    def judge(self, attempt: Any, *context: Any) -> tuple[bool | None, str]:
        """Whether an attempt is right (None: there is none yet), and the sentence to say."""
        if attempt is ... or attempt is None:
            return None, self._invitation()
        for arguments in self.inputs(*context):
            try:
                got = attempt(*_copies(arguments)) if callable(attempt) else attempt
            except NotImplementedError:
                return None, self._invitation()
            except Exception as error:  # the reader's own code: whatever it raises is what is to be said
                return False, f"your code stops with {type(error).__name__}: {error}{_where(error, attempt)}"
            if callable(attempt) and (got is None or got is ...):
                return None, self._invitation()
            expected = self.answer(*_copies(arguments))
            if problem := self._differs(got, expected, *context):
                return False, self._explain(got, arguments, problem, *context)
        return True, "right."

    def _explain(self, got, arguments: tuple, problem: str, *context) -> str:
        for sentence, wrong in self.mistakes:
            try:
                same = not self._differs(got, wrong(*_copies(arguments)), *context)
            except Exception:  # a mistake that cannot even be made on these inputs was not made
                same = False
            if same:
                return sentence + self._cost(wrong, got, arguments, *context)
        return f"{problem} {_told(self.answer, arguments)}"

    def _cost(self, wrong: Callable, got, arguments: tuple, *context) -> str:
        """What a mistake costs in grey levels, as a sentence to add; empty where no picture is drawn."""
        if self.machine:
            shown = [self.machine(part, *context) for part in (wrong, self.answer)]
        elif self.picture:
            answers = _tensor(got), _tensor(self.answer(*_copies(arguments)))
            if answers[0].shape != answers[1].shape:
                return ""
            shown = [self.picture(x.float(), *context) for x in answers]
        else:
            return ""
        levels = _grey_levels(*shown)
        return f" Here it costs up to {levels:.0f} of 255 grey levels." if levels < 256 else ""

    def _differs(self, got, expected, *context) -> str | None:
        """What differs between an answer and the right one, in a sentence; None if nothing does."""
        if isinstance(expected, (str, bool)) or not _numbers(expected):
            return None if got == expected else f"it gives {got!r}, and that is not the answer."
        try:
            got, expected = _tensor(got), _tensor(expected)
        except (TypeError, ValueError, RuntimeError):
            return f"it gives a {type(got).__name__}, and numbers are asked for."
        if got.shape != expected.shape:
            return f"it gives the shape {tuple(got.shape)}, and {tuple(expected.shape)} is asked for."
        if not torch.isfinite(got).all():
            return "it gives numbers that are not finite (nan or inf)."
        apart = (got - expected).abs().max().item() if got.numel() else 0.0
        if apart <= self.tolerance * max(1.0, expected.abs().max().item() if expected.numel() else 1.0):
            return None
        if self.picture:
            levels = _grey_levels(*(self.picture(x.float(), *context) for x in (got, expected)))
            return f"its picture is up to {levels:.0f} of 255 grey levels away from the right one."
        return f"it is up to {apart:.3g} away from the right answer."

    def _asks_for_a_function(self, attempt) -> bool:
        return bool(inspect.signature(self.answer).parameters) or callable(attempt)

    def _invitation(self) -> str:
        return f"not attempted yet ({self.minutes} minutes, {self.difficulty}); it trains {self.trains}."

    def __repr__(self) -> str:
        return f"<exercise {self.name}: {self.minutes} minutes, {self.difficulty}>"


def exercise(**about) -> Callable[[Callable], Exercise]:
    """Decorator: makes the right answer of a question an `Exercise`, with these keyword arguments of its."""
    return lambda answer: Exercise(answer, **about)


def all_of(module) -> list[Exercise]:
    """The exercises of one notebook, in the order in which they stand in its module."""
    return [value for value in vars(module).values() if isinstance(value, Exercise)]


def _numbers(value) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_numbers, value))
    return isinstance(value, (int, float, complex)) or torch.is_tensor(value) or hasattr(value, "__array__")


def _tensor(value) -> torch.Tensor:
    """Numbers of any kind as one float64 tensor; of several tensors, their values one after the other."""
    if torch.is_tensor(value):
        return value.detach().cpu().to(torch.float64)
    if isinstance(value, (tuple, list)) and any(torch.is_tensor(part) for part in value):
        return torch.cat([_tensor(part).flatten() for part in value])
    return torch.as_tensor(value, dtype=torch.float64)


def _grey_levels(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference of two pictures in [-1, 1], of 255 grey levels; nan where one has no numbers."""
    return 127.5 * (a.clamp(-1, 1) - b.clamp(-1, 1)).abs().max().item()


def _copies(arguments: tuple) -> tuple:
    """Tensors are copied: an answer that changes its inputs in place must not change the question."""
    return tuple(a.clone() if torch.is_tensor(a) else dict(a) if isinstance(a, Mapping) else a for a in arguments)


def _where(error: Exception, attempt) -> str:
    """The line of the reader's code that raised the error."""
    code = getattr(attempt, "__code__", None)
    lines = [
        frame for frame in traceback.extract_tb(error.__traceback__) if code and frame.filename == code.co_filename
    ]
    return f" (in the line `{lines[-1].line}`)." if lines and lines[-1].line else "."


def _told(answer: Callable, arguments: tuple) -> str:
    """The input on which an answer was tried, in a few words."""
    if not arguments:
        return ""
    names = inspect.signature(answer).parameters
    words = [f"{name} {_word(value)}" for name, value in zip(names, arguments, strict=False)]
    return f"Tried with {', '.join(words)}."


def _word(value) -> str:
    if torch.is_tensor(value):
        return f"of shape {tuple(value.shape)}" if value.ndim else f"= {value.item():g}"
    return f"= {value:g}" if isinstance(value, float) else f"= {value}" if isinstance(value, (int, str)) else "given"
