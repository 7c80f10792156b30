"""A notebook as students get it, as a teacher gets it, and what comes back from a class."""

import csv
import json

import nbformat
import pytest

from sdlearn.exercises import forward_noising
from sdlearn.tools import book, classroom, teaching
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
    (asked,) = [part for part in teaching.plans()[0]["part"] if part.get("notebook") == "01_forward_noising"]
    assert f"- After section 1: {asked['ask']} *{asked['answer']}*" in plan
    for sentence, _ in one.mistakes:
        assert sentence[1:] in note
    place = [cell["source"] for cell in given["cells"]].index(note)
    assert "".join(given["cells"][place - 1]["source"]) == STUB


@pytest.mark.parametrize("notebook", book.notebooks(), ids=lambda notebook: notebook.stem)
def test_both_versions_of_every_notebook_are_notebooks(notebook):
    whole = json.loads(notebook.read_text(encoding="utf-8"))
    for version in classroom.VERSIONS.values():
        made = version(whole)
        nbformat.validate(made)
        assert len({cell["id"] for cell in made["cells"]}) == len(made["cells"])
    names = [name for cell in whole["cells"] for name, _ in classroom.exercises(cell, classroom.module_of(whole))]
    notes = [cell for cell in classroom.teacher(whole)["cells"] if "teacher" in classroom.tags(cell)]
    assert len(notes) == len(names) + bool(names)


def test_versions_are_laid_out_in_folders_of_their_own(tmp_path, monkeypatch):
    from sdlearn.tools import course

    packed = tmp_path / "notebooks"
    packed.mkdir()
    (packed / "00_quickstart.ipynb").write_text(json.dumps(lesson()))
    (packed / "map.png").write_bytes(b"png")
    (packed / "_plans.toml").write_text("plan = []")
    monkeypatch.setattr(course, "PACKED", packed)
    for version in classroom.VERSIONS:
        course.lay_out(packed, tmp_path / version, version)
        assert (tmp_path / version / "map.png").read_bytes() == b"png"
    texts = {version: (tmp_path / version / "00_quickstart.ipynb").read_text() for version in classroom.VERSIONS}
    assert "Solution" not in texts["student"] and "For the teacher" not in texts["student"]
    assert "Solution" in texts["teacher"] and "For the teacher" in texts["teacher"]
    assert course.lay_out(packed, tmp_path / "student", "student") == (0, [], [])
    with pytest.raises(ValueError, match=r"student.*another --dir"):
        course.lay_out(packed, tmp_path / "student", "teacher")


# -- a newer notebook with a reader's work in it ----------------------------------------------------------------------


def cell(name: str, source: str, *tags: str) -> dict:
    empty = {"execution_count": None, "outputs": []}
    return {"cell_type": "code", "id": name, "metadata": {"tags": list(tags)}, "source": source, **empty}


def book_of(*cells: dict) -> dict:
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def carried(theirs: list[dict], new: list[dict], before: list[dict] | None) -> tuple[list[str], str]:
    known = {} if before is None else classroom.fingerprints(book_of(*before))
    merged, said = classroom.carry_over(book_of(*theirs), book_of(*new), known)
    nbformat.validate(merged)
    return [one["source"] for one in merged["cells"]], said


OLD = [cell("a", "x = 1"), cell("b", STUB, "exercise"), cell("c", "y = 2")]
NEW_STUB = STUB.replace("    ...", '    """With words."""\n    ...')


@pytest.mark.parametrize(
    ("theirs", "new", "sources", "said"),
    [
        # Of the course alone, of the reader alone, of both.
        (OLD, [cell("a", "x = 3"), *OLD[1:]], ["x = 3", STUB, "y = 2"], ""),
        ([cell("a", "x = 9"), *OLD[1:]], OLD, ["x = 9", STUB, "y = 2"], "1 cell that you changed"),
        ([cell("a", "x = 9"), *OLD[1:]], [cell("a", "x = 3"), *OLD[1:]], ["x = 3", STUB, "y = 2"],
         "but not 1 cell that you and the course changed"),
        # An answer wins over a new stub, also where its cell has another id, and an untouched stub does not.
        ([OLD[0], cell("b", RIGHT, "exercise")], [cell("b", NEW_STUB, "exercise")], [RIGHT],
         "your answer to add_noise"),
        ([OLD[0], cell("b", WRONG, "exercise")], [cell("z", NEW_STUB, "exercise")], [WRONG],
         "your answer to add_noise"),
        (OLD, [cell("b", NEW_STUB, "exercise")], [NEW_STUB], ""),
        # Cells of one's own stay behind the one that they stood behind, at the beginning too.
        ([cell("m1", "first"), OLD[0], cell("m2", "mine"), cell("m3", ""), *OLD[1:]],
         [OLD[0], cell("n", "new"), *OLD[1:]], ["first", "x = 1", "mine", "new", STUB, "y = 2"],
         "2 cells of your own"),
        # What stood behind a cell that is gone stands behind the one before that.
        ([*OLD[:2], cell("m", "mine"), OLD[2]], [OLD[0], OLD[2]], ["x = 1", "mine", "y = 2"], "1 cell of your own"),
        # A second attempt in a cell of one's own is kept beside the first.
        ([OLD[0], cell("b", WRONG, "exercise"), cell("m", RIGHT), OLD[2]], OLD, ["x = 1", WRONG, RIGHT, "y = 2"],
         "your answer to add_noise; 1 cell of your own"),
        # A cell of the course's that the reader deleted comes back, and one that the course deleted goes.
        ([OLD[0]], OLD, ["x = 1", STUB, "y = 2"], ""),
        (OLD, [OLD[0]], ["x = 1"], ""),
        # One id, another exercise.
        ([OLD[0], cell("b", RIGHT, "exercise")],
         [cell("b", "exercise.step.check(...)", "exercise"), cell("d", NEW_STUB, "exercise")],
         ["exercise.step.check(...)", RIGHT], "your answer to add_noise"),
    ],
)  # fmt: skip
def test_a_newer_notebook_holds_what_its_reader_did(theirs, new, sources, said):
    assert carried(theirs, new, OLD) == (sources, said)
    again = [cell(one["id"], source, *classroom.tags(one)) for one, source in zip(new, sources, strict=False)]
    if len(again) == len(sources):
        assert carried(again, new, OLD)[0] == sources, "to do it twice changes nothing"


def test_an_answer_to_an_exercise_that_is_no_more_is_kept_and_does_not_run():
    answered = cell("b", RIGHT, "exercise")
    known = classroom.fingerprints(book_of(*OLD))
    merged, said = classroom.carry_over(book_of(OLD[0], answered), book_of(OLD[0]), known)
    nbformat.validate(merged)
    assert [(one["cell_type"], one["source"]) for one in merged["cells"]] == [("code", "x = 1"), ("raw", RIGHT)]
    assert said == "1 cell of your own"


def test_without_a_record_answers_are_carried_over_and_nothing_of_the_course_is_doubled():
    theirs = [cell("a", "x = 0"), cell("old", "gone"), cell("b", RIGHT, "exercise")]
    assert carried(theirs, OLD, None) == (
        ["x = 1", RIGHT, "y = 2"], "your answer to add_noise; but not 2 cells that you and the course changed"
    )  # fmt: skip
    assert carried([cell("b", STUB, "exercise")], [cell("b", NEW_STUB, "exercise")], None) == ([NEW_STUB], "")


def test_a_notebook_that_came_back_from_colab_is_known_again():
    colab = [{**one, "metadata": {**one["metadata"], "id": one["id"]}} for one in OLD]
    colab[1]["source"] = RIGHT.splitlines(keepends=True)
    for one in colab:
        del one["id"]
    known = classroom.fingerprints(book_of(*OLD))
    merged, said = classroom.carry_over(book_of(*colab), book_of(cell("a", "x = 3"), *OLD[1:]), known)
    assert ["".join(one["source"]) for one in merged["cells"]] == ["x = 3", RIGHT, "y = 2"]
    assert said == "your answer to add_noise"


# -- what comes back ---------------------------------------------------------------------------------------------------


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
