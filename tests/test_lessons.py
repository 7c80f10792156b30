"""What every lesson owes its reader: the picture first, honest minutes, proofs out of sight, something to write."""

import ast
import importlib
import json
import re

import pytest
from test_notebooks import BADGE, BOOTSTRAP, NOTEBOOKS, code_cells, read

from sdlearn.exercises import all_of
from sdlearn.tools import book, classroom

LESSONS = [notebook for notebook in NOTEBOOKS if not notebook.stem.startswith("appendix_")]
MOST_CELLS = {"02_schedulers": 45, "05_guided_unet_loop": 65}  # of the others 55
SHIPPED_ONLY = re.compile(r"sd\.name\b.*==|fmt: *(skip|off)")

every_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
every_lesson = pytest.mark.parametrize("notebook", LESSONS, ids=lambda notebook: notebook.stem)


def in_sight(content) -> list[dict]:
    return [cell for cell in content["cells"] if not book.FOLDED.keys() & book.tags(cell)]


def executed(notebook) -> dict:
    (copy,) = book.execute([notebook])
    return json.loads(copy.read_text(encoding="utf-8"))


@every_notebook
def test_shows_its_picture_before_it_promises_and_the_map_before_it_begins(notebook):
    title, bootstrap, load, picture, promise, chart = read(notebook)["cells"][:6]
    assert title["cell_type"] == "markdown" and title["source"].startswith("# ")
    assert BADGE.format(notebook.name) in title["source"] and len(book.BADGE.sub("", title["source"]).split()) < 60
    assert bootstrap["source"].strip() == BOOTSTRAP.strip() and book.tags(bootstrap) == {"setup"}
    assert "sdlearn.quiet()" in load["source"] and len(load["source"].splitlines()) <= 18
    assert re.search(r"^sd = sdlearn\.load\((dtype=\"float32\")?\)", load["source"], re.MULTILINE)
    assert picture["cell_type"] == chart["cell_type"] == "code"
    assert "After this notebook you can" in promise["source"] and re.search(r"About \d+ minutes", promise["source"])
    assert re.search(r"^figures\.machine\(sd, here=\"\w+\"\)$", chart["source"], re.MULTILINE)


@every_notebook
def test_the_first_figure_is_the_one_that_the_lesson_builds_towards(notebook):
    shown = [any(map(book._is_figure, cell["outputs"])) for cell in code_cells(executed(notebook))]
    assert shown[:3] == [False, False, True]


@every_notebook
def test_ends_with_a_recap_what_goes_wrong_and_papers(notebook):
    prose = "\n".join(cell["source"] for cell in read(notebook)["cells"] if cell["cell_type"] == "markdown")
    headings = re.findall(r"^## (.*)$", prose, re.MULTILINE)
    assert headings[-3:] == ["Recap", "What usually goes wrong", "Papers"]


@every_lesson
def test_is_short(notebook):
    assert len(read(notebook)["cells"]) <= MOST_CELLS.get(notebook.stem, 55)


@every_notebook
def test_no_cell_in_sight_only_checks_and_none_knows_one_model_by_name(notebook):
    for cell in in_sight(read(notebook)):
        if cell["cell_type"] == "code":
            source = re.sub(r"^\s*%.*$", "", cell["source"], flags=re.MULTILINE)
            statements = ast.parse(source).body
            checks = [ast.unparse(s).startswith(("assert ", "lesson.prove(", "lesson.claim(")) for s in statements]
            assert not statements or not all(checks), cell["id"]
            assert not SHIPPED_ONLY.search(cell["source"]), cell["id"]


@every_notebook
def test_every_proof_prints_its_result(notebook):
    proofs = [cell for cell in code_cells(executed(notebook)) if "proof" in book.tags(cell)]
    assert len(proofs) >= 2
    for cell in proofs:
        said = "".join(line for output in cell["outputs"] for line in output.get("text", ""))
        assert "✓" in said, cell["id"]


@every_lesson
def test_has_exercises_with_a_hint_a_stub_and_a_solution_each(notebook):
    content = read(notebook)
    module = classroom.module_of(content)
    assert module == re.sub(r"^\d+_", "", notebook.stem)
    asked = [one for cell in content["cells"] for one, _ in classroom.exercises(cell, module)]
    known = all_of(importlib.import_module(f"sdlearn.exercises.{module}"))
    assert len(known) >= 3 and sorted(asked) == sorted(one.name for one in known)
    cells = content["cells"]
    for k, cell in enumerate(cells):
        if "exercise" in book.tags(cell):
            task, solution = cells[k - 1], cells[k + 1]
            assert (
                re.search(r"^### Exercise: ", task["source"], re.MULTILINE)
                and "<summary>A hint</summary>" in task["source"]
            )
            assert book.tags(solution) == {"solution"} and ".prove(" in solution["source"]
            (one,) = [one for _, one in classroom.exercises(cell, module)]
            assert re.search(rf"\({one.minutes} minutes?, {one.difficulty}\)", task["source"]), one.name


@every_lesson
def test_an_untouched_exercise_says_so_and_the_solution_passes(notebook):
    for cell in code_cells(executed(notebook)):
        said = "".join(line for output in cell["outputs"] for line in output.get("text", ""))
        if "exercise" in book.tags(cell):
            assert "✎" in said and "not attempted yet" in said, cell["id"]
        if "solution" in book.tags(cell):
            assert "✓" in said, cell["id"]


@every_lesson
def test_asks_for_a_prediction_before_a_figure(notebook):
    sources = [cell["source"] for cell in code_cells(read(notebook))]
    assert sum(source.startswith("sdlearn.predict(") for source in sources) >= (0 if notebook.stem == "final" else 2)


@every_notebook
def test_the_minutes_are_honest(notebook):
    promise = read(notebook)["cells"][4]["source"]
    stated = int(re.search(r"About (\d+) minutes", promise)[1])
    assert stated == pytest.approx(book.minutes(executed(notebook)), rel=0.15)
    if module := classroom.module_of(read(notebook)):
        exercises = sum(one.minutes for one in all_of(importlib.import_module(f"sdlearn.exercises.{module}")))
        assert int(re.search(r"and (\d+) more for the exercises", promise)[1]) == exercises


def test_the_landing_page_states_each_lessons_minutes():
    index = (book.NOTEBOOKS / "index.md").read_text(encoding="utf-8")
    for notebook in LESSONS:
        (row,) = re.findall(rf"^\| \[.*?\]\({notebook.name}\) \|.*\| (\d+) \| (\d+) \|$", index, re.MULTILINE)
        promise = read(notebook)["cells"][4]["source"]
        assert row == re.search(r"About (\d+) minutes, and (\d+) more", promise).groups(), notebook.name
