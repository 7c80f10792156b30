"""A notebook as students get it, as a teacher gets it, and what comes back from a class."""

import csv
import json

import nbformat
import pytest

from sdlearn.exercises import forward_noising
from sdlearn.tools import book, classroom
from sdlearn.tools.cli import main

STUB = "def add_noise(x0, noise, alpha_bar):\n    ...\n\nadd_noise = exercise.add_noise.check(add_noise)"
RIGHT = STUB.replace("...", "return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise")
WRONG = STUB.replace("...", "return alpha_bar * x0 + (1 - alpha_bar) * noise")
SOLUTION = "#@title Solution\nadd_noise = exercise.add_noise.prove(exercise.add_noise.answer)"
FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}


def lesson(answer: str = STUB, before: str = "x = 1") -> dict:
    code, prose = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    cells = [
        prose("# 01 · A lesson"),
        code("from sdlearn.exercises import forward_noising as exercise"),
        code(before),
        code(answer, metadata={"tags": ["exercise"]}),
        code(SOLUTION, metadata={"tags": ["solution"], **FOLDED}),
        code("print(add_noise(1.0, 0.0, 0.25))"),
    ]
    return json.loads(nbformat.writes(nbformat.v4.new_notebook(cells=cells)))


def test_students_get_the_stubs_and_no_solution():
    notebook = lesson()
    given = classroom.student(notebook)
    sources = ["".join(cell["source"]) for cell in given["cells"]]
    assert STUB in sources and SOLUTION not in sources and len(sources) == 5
    assert notebook == lesson() | {"cells": notebook["cells"]}, "the course's own stays as it is"


def test_teachers_get_open_solutions_and_what_a_class_gets_wrong():
    given = classroom.teacher(lesson())
    nbformat.validate(given)
    (solution,) = [cell for cell in given["cells"] if "solution" in classroom.tags(cell)]
    assert solution["metadata"] == {"tags": ["solution"]}
    plan, note = [cell["source"] for cell in given["cells"] if "teacher" in classroom.tags(cell)]
    one = forward_noising.add_noise
    assert f"{one.minutes} minutes of exercises in all" in plan and one.trains in plan
    assert one.hint in note
    for sentence, _ in one.mistakes:
        assert sentence[1:] in note
    place = [cell["source"] for cell in given["cells"]].index(note)
    assert "".join(given["cells"][place - 1]["source"]) == STUB


@pytest.mark.parametrize("notebook", book.notebooks(), ids=lambda notebook: notebook.stem)
def test_both_versions_of_every_notebook_are_notebooks(notebook):
    whole = json.loads(notebook.read_text(encoding="utf-8"))
    for version in classroom.VERSIONS.values():
        nbformat.validate(version(whole))
    names = [name for cell in whole["cells"] for name, _ in classroom.exercises(cell, classroom.module_of(whole))]
    notes = [cell for cell in classroom.teacher(whole)["cells"] if "teacher" in classroom.tags(cell)]
    assert len(notes) == len(names) + bool(names)


def test_versions_are_laid_out_in_folders_of_their_own(tmp_path, monkeypatch):
    from sdlearn.tools import course

    packed = tmp_path / "notebooks"
    packed.mkdir()
    (packed / "00_quickstart.ipynb").write_text(json.dumps(lesson()))
    (packed / "map.png").write_bytes(b"png")
    monkeypatch.setattr(course, "PACKED", packed)
    for version in classroom.VERSIONS:
        course.lay_out(packed, tmp_path / version, version)
        assert (tmp_path / version / "map.png").read_bytes() == b"png"
    texts = {version: (tmp_path / version / "00_quickstart.ipynb").read_text() for version in classroom.VERSIONS}
    assert "Solution" not in texts["student"] and "For the teacher" not in texts["student"]
    assert "Solution" in texts["teacher"] and "For the teacher" in texts["teacher"]
    assert course.lay_out(packed, tmp_path / "student", "student") == (0, [])


def test_what_a_class_hands_in_is_run_and_what_the_checks_said_is_written(tmp_path, capsys):
    handed_in = {
        "ann/right.ipynb": lesson(RIGHT),
        "ben/wrong.ipynb": lesson(WRONG),
        "cem/untouched.ipynb": lesson(STUB),
        "dan/broken.ipynb": lesson("1 / 0\n" + STUB),
        "eve/went_on.ipynb": lesson(RIGHT, before="1 / 0"),
    }
    for name, notebook in handed_in.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(notebook))
    (tmp_path / "fay.ipynb").write_text("not a notebook")
    assert main(["course", "--grade", str(tmp_path)]) == 0
    with (tmp_path / "grades.csv").open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert {name: row["result"] for name, row in rows.items()} == {
        "ann/right.ipynb": "right", "ben/wrong.ipynb": "wrong", "cem/untouched.ipynb": "not attempted",
        "dan/broken.ipynb": "not reached", "eve/went_on.ipynb": "right", "fay.ipynb": "cannot be read",
    }  # fmt: skip
    assert rows["ann/right.ipynb"]["exercise"] == "forward_noising.add_noise"
    assert rows["ben/wrong.ipynb"]["said"] == forward_noising.add_noise.mistakes[0][0]
    assert {path.name for path in tmp_path.iterdir()} == {"ann", "ben", "cem", "dan", "eve", "fay.ipynb", "grades.csv"}


def test_a_folder_without_notebooks_says_so(tmp_path, capsys):
    assert main(["course", "--grade", str(tmp_path)]) == 1
    assert "There is no notebook in" in capsys.readouterr().err
