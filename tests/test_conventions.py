"""The page on conventions keeps up with the package."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import sdlearn
from sdlearn.samplers import SAMPLERS
from sdlearn.schedule import NoiseSchedule

PAGE = Path(__file__).parents[1] / "notebooks" / "conventions.md"


def table(section: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    body = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if line.startswith("|")]
    return rows[2:]


@pytest.mark.parametrize("function", [sdlearn.text_to_image, sdlearn.image_to_image, sdlearn.inpaint, sdlearn.denoise])
def test_every_option_is_explained(function):
    explained = set(re.findall(r"`(\w+)", " ".join(row[0] for row in table("Options"))))
    assert set(inspect.signature(function).parameters) - {"sd", "options"} <= explained


def test_every_sampler_stands_beside_its_scheduler_and_spacing():
    rows = {name: row for row in table("Samplers") for name in re.findall(r"`([^`]+)`", row[0])}
    assert set(rows) == set(SAMPLERS)
    for name, sampler in SAMPLERS.items():
        assert sampler.scheduler in rows[name][1] or (sampler.karras and "use_karras_sigmas=True" in rows[name][1])
        assert rows[name][2] == sampler.spacing


def test_every_symbol_is_an_attribute():
    named = re.findall(r"`schedule\.(\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) >= 6
    assert all(hasattr(NoiseSchedule(), name) for name in named)


def test_the_measured_errors_are_within_the_bound_but_for_the_two_that_are_explained():
    above = {
        (name.strip("`"), column)
        for name, *errors in table("Equal to diffusers, measured")
        for column, error in enumerate(errors)
        if float(error) > 1e-5
    }
    assert above <= {("plms", 3), ("lms", 3)}
