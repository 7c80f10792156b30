"""The tiers: no file without one, and the quick one free of what makes the others slow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sdlearn.tools.book import notebooks

FILES = sorted(Path(__file__).parent.glob("test_*.py"))
SLOW = re.compile(r"\b(import (nbmake|nbclient|playwright)|jupyterlab|book\.execute)\b")


@pytest.fixture(scope="module")
def conftest(pytestconfig):
    """The repository's own conftest.py; tests/ has another."""
    return next(p for p in pytestconfig.pluginmanager.get_plugins() if getattr(p, "TIERS", None))


@pytest.mark.parametrize("file", [*FILES, *notebooks()], ids=lambda file: file.stem)
def test_every_file_has_one_tier(file, conftest, pytestconfig):
    assert conftest.tier(file) in conftest.TIERS, "name the file in TIERS, conftest.py"
    assert " ".join(conftest.TIERS.values()).split().count(file.stem.removeprefix("test_")) == (file.suffix == ".py")
    assert any(line.startswith(f"{conftest.tier(file)}: ") for line in pytestconfig.getini("markers"))


def test_the_quick_tier_starts_no_browser_and_no_kernel(conftest, request):
    for item in request.session.items:
        assert conftest.tier(item.path) != "core" or "browser" not in item.fixturenames, item.nodeid
    for file in FILES:
        slow = SLOW.search(file.read_text(encoding="utf-8"))
        assert not slow or conftest.tier(file) != "core" or file == Path(__file__), file.name


def test_every_test_bears_the_mark_of_its_file(conftest, request):
    for item in request.session.items:
        marks = {mark.name for mark in item.iter_markers()} & set(conftest.TIERS)
        assert marks == {conftest.tier(item.path)}, item.nodeid
