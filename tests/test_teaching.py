"""The teacher's pages and plans: they name what is there, their minutes add up, and they run as they stand."""

import json
import re

import pytest

from sdlearn.exercises import all_of
from sdlearn.tools import book, classroom, course, teaching
from sdlearn.tools.cli import main

PLANS = {plan["name"]: plan for plan in teaching.plans()}
PARTS = [part for plan in PLANS.values() for part in plan["part"] if "notebook" in part]
PROMISE = re.compile(r"About (\d+) minutes(?:, and (\d+) more)?")

every_part = pytest.mark.parametrize("part", PARTS, ids=lambda p: f"{p['notebook']}-{p.get('sections', 'all')}")


@pytest.mark.parametrize(
    ("name", "least", "most"), [("90 minutes", 90, 90), ("Half a day", 240, 240), ("Two days", 600, 720)]
)
def test_the_minutes_of_a_plan_add_up_to_its_name(name, least, most):
    assert least <= sum(part["minutes"] for part in PLANS[name]["part"]) <= most


@every_part
def test_a_part_names_what_its_notebook_holds(part):
    notebook = teaching.read(part["notebook"])
    held = {
        name for cell in teaching.cells(part, notebook) for name in classroom.CHECKED.findall(classroom.source(cell))
    }
    asked = part.get("exercises", held)
    assert set(asked) <= held and [one.name for one in teaching.exercises(part)] == [
        n for n in _order(part) if n in asked
    ]


def _order(part) -> list[str]:
    cells = teaching.read(part["notebook"])["cells"]
    return [name for cell in cells for name in classroom._checked(cell)]


def test_what_breaks_has_a_cure_and_what_is_asked_an_answer():
    for part in (part for plan in PLANS.values() for part in plan["part"]):
        assert "*" not in part.get("answer", ""), "it stands in italics"
        assert ("breaks" in part) == ("cure" in part) and ("ask" in part) == ("answer" in part)
        assert "notebook" in part or "title" in part
        if "notebook" in part:
            assert "ask" in part and "breaks" in part, part["notebook"]


@pytest.mark.parametrize("name", ["90 minutes"])
def test_a_plan_runs_as_it_stands_within_its_minutes(name):
    for part, ran in teaching.run(PLANS[name]):
        where = f"{part['notebook']} {part['sections']}"
        assert not teaching._error(ran), f"{where}: {teaching._error(ran)}"
        assert 0 < sum(map(teaching._seconds, ran)) < 60 * part["minutes"], where
        assert teaching.minutes(part, ran) <= part["minutes"], where


@pytest.mark.parametrize("part", PLANS["Two days"]["part"], ids=lambda part: part.get("notebook", part.get("title")))
def test_a_whole_notebook_has_the_minutes_that_it_promises(part):
    if "notebook" in part:
        prose = "\n".join(classroom.source(cell) for cell in teaching.read(part["notebook"])["cells"][:6])
        assert sum(int(n or 0) for n in PROMISE.search(prose).groups()) <= part["minutes"]


def test_sections_hold_every_cell_once():
    for notebook in book.notebooks():
        content = teaching.read(notebook.stem)
        found = teaching.sections(content)
        assert [cell["id"] for _, cells in found for cell in cells] == [cell["id"] for cell in content["cells"]]
        assert found[0][0] == "the opening" and len(found) > 3


def test_a_plan_in_words_has_its_clock_its_minutes_and_its_exercises():
    said = teaching.written(PLANS["90 minutes"])
    assert re.findall(r"^### (\d:\d\d) .*, (\d+) minutes$", said, re.MULTILINE)[-1] == ("1:27", "3")
    assert "`guided_loop` (8 minutes)" in said and "has written 5 short functions" in said
    starts = re.findall(r"^### (\d+:\d\d) ", teaching.written(PLANS["Two days"]), re.MULTILINE)
    assert starts.count("0:00") == 2, "the second day begins anew"


def test_the_page_of_mistakes_holds_every_sentence_of_every_exercise():
    markdown = pytest.importorskip("markdown_it").MarkdownIt()
    page = teaching.mistakes()
    shown = (
        re.sub(r"<[^>]+>", "", markdown.render(page)).replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    )
    shown = shown.replace("&amp;", "&")
    for notebook in teaching._with_exercises():
        module = classroom.module_of(teaching.read(notebook.stem))
        for one in all_of(teaching.importlib.import_module(f"sdlearn.exercises.{module}")):
            assert f"**{one.name}** " in page
            for sentence in classroom.mistakes(one):
                assert sentence.replace("`", "") in shown, "a reader sees it letter by letter"


def test_the_names_of_code_keep_their_small_letters():
    from sdlearn.exercises import forward_noising

    assert "x does not fade: without sqrt(1 - beta) before it the size grows with every step." in classroom.mistakes(
        forward_noising.step
    )


def test_a_teachers_folder_has_the_pages_filled_in_and_a_students_has_none(tmp_path):
    for version in (*classroom.VERSIONS, None):
        pages = {
            path: text.decode() for path, text in course._course(course.notebooks(), version) if path.endswith(".md")
        }
        assert {"index.md", "concepts.md"} <= pages.keys()
        assert len([path for path in pages if path.startswith("teaching")]) == (0 if version == "student" else 3)
        assert not any("stand here in the built book" in text for path, text in pages.items() if "teaching" in path)
        if version != "student":
            assert "## 90 minutes" in pages["teaching_plans.md"] and "**add_noise**" in pages["teaching_mistakes.md"]


def test_commands_on_the_teachers_page_are_commands(capsys):
    text = "\n".join(page.read_text(encoding="utf-8") for page in book.NOTEBOOKS.glob("teaching*.md"))
    for command, options in set(re.findall(r"sdlearn (course|doctor|book)((?: --[\w-]+(?: [\w\"]+)*)*)", text)):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        known = capsys.readouterr().out
        for option in re.findall(r"--[\w-]+", options):
            assert re.search(rf"{option}\b", known), f"{command} {option}"


def test_a_rehearsal_says_what_stops_it_and_which_plans_there_are(monkeypatch, capsys):
    code = {"cell_type": "code", "execution_count": None, "outputs": []}
    cells = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# 01 · A lesson"},
        {**code, "id": "b", "metadata": {}, "source": "from sdlearn.exercises import forward_noising as exercise"},
        {"cell_type": "markdown", "id": "c", "metadata": {}, "source": "## 1. One\n\nText."},
        {**code, "id": "d", "metadata": {"tags": ["proof"]}, "source": "1 / 0"},
        {**code, "id": "e", "metadata": {"tags": ["exercise"]}, "source": "x = exercise.step.check(...)"},
        {**code, "id": "f", "metadata": {"tags": ["solution"]}, "source": "x = exercise.step.prove(y)"},
        {"cell_type": "markdown", "id": "g", "metadata": {}, "source": "## 2. Two"},
        {**code, "id": "h", "metadata": {}, "source": "print(x, 'and on')"},
    ]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    monkeypatch.setattr(teaching, "read", lambda name: json.loads(json.dumps(notebook)))
    parts = [{"notebook": "n", "sections": [0, 1], "exercises": [], "minutes": 5},
             {"notebook": "n", "sections": [2], "exercises": [], "minutes": 5}]  # fmt: skip
    monkeypatch.setattr(teaching, "plans", lambda: [{"name": "Short", "part": parts}])
    assert main(["course", "--rehearse", "Short"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [re.sub(r"\d+ seconds", "N seconds", line) for line in said] == [
        "n, sections 0, 1: N seconds of 5 minutes", "n, sections 2: N seconds of 5 minutes",
    ]  # fmt: skip
    parts[0]["exercises"] = ["step"]  # its solution is run, and stops
    assert main(["course", "--rehearse", "Sh"]) == 1
    assert "stopped: NameError: name 'y' is not defined" in capsys.readouterr().out
    parts[0]["exercises"] = []
    cells[-1]["source"] = "import os\nprint('last words', flush=True)\nos._exit(1)"
    assert main(["course", "--rehearse", "Short"]) == 1
    whole, broken = capsys.readouterr().out.splitlines()
    assert "stopped" not in whole and "sections 2: " in broken and "stopped: DeadKernelError" in broken
    assert main(["course", "--rehearse", "Long"]) == 1
    assert "there are: Short." in capsys.readouterr().err
