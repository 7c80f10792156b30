"""One source, two versions: `sdlearn course --student` and `--teacher`; and `--grade`, which runs what came back."""

import copy
import csv
import importlib
import json
import os
import re
import tempfile
from pathlib import Path

from ..exercises import RECORD, Exercise

GRADES = "grades.csv"
COLUMNS = ("file", "exercise", "result", "said")
RESULTS = {True: "right", False: "wrong", None: "not attempted"}
IMPORTED = re.compile(r"^from sdlearn\.exercises import (\w+) as exercise\b", re.MULTILINE)
CHECKED = re.compile(r"\bexercise\.(\w+)\.check\(")


def source(cell: dict) -> str:
    return "".join(cell["source"])


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def exercises(cell: dict, module: str | None) -> list[tuple[str, Exercise]]:
    """The exercises that a cell checks, by their names; `module` is that of the notebook's exercises."""
    names = CHECKED.findall(source(cell)) if module and "exercise" in tags(cell) else []
    return [(name, getattr(importlib.import_module(f"sdlearn.exercises.{module}"), name)) for name in names]


def module_of(notebook: dict) -> str | None:
    """The module of sdlearn.exercises that a notebook uses."""
    found = IMPORTED.search("\n".join(source(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"))
    return found and found[1]


def student(notebook: dict) -> dict:
    """Without the solutions. The checks give the course's answer until the reader's is right, so all of it runs."""
    import nbformat
    from nbconvert.preprocessors import TagRemovePreprocessor

    remove = TagRemovePreprocessor(enabled=True, remove_cell_tags={"solution"})
    kept, _ = remove.preprocess(nbformat.from_dict(copy.deepcopy(notebook)), {})
    return json.loads(nbformat.writes(kept))


def teacher(notebook: dict) -> dict:
    """With the solutions open, and after each exercise what a teacher wants to know of it."""
    notebook = copy.deepcopy(notebook)
    module, cells, asked = module_of(notebook), [], []
    for cell in notebook["cells"]:
        if "solution" in tags(cell):
            cell["metadata"] = {"tags": tags(cell)}  # not folded
        cells.append(cell)
        for name, one in exercises(cell, module):
            asked.append(one)
            cells.append(_note(f"teacher-{name}", _about(one)))
    if asked:
        lines = [f"| {one.name} | {one.minutes} | {one.difficulty} | {one.trains} |" for one in asked]
        table = ["| Exercise | Minutes | Difficulty | It trains |", "|---|---:|---|---|", *lines]
        total = f"{sum(one.minutes for one in asked)} minutes of exercises in all."
        cells.insert(1, _note("teacher-plan", "\n".join(["**For the teacher.**", "", *table, "", total])))
    notebook["cells"] = cells
    return notebook


VERSIONS = {"student": student, "teacher": teacher}


def _about(one: Exercise) -> str:
    wrong = [f"- {sentence[0].upper()}{sentence[1:]}" for sentence, _ in one.mistakes]
    head = f"**For the teacher: {one.name}.** {one.minutes} minutes, {one.difficulty}; it trains {one.trains}."
    return "\n".join([head, "", f"Who is stuck may be told: {one.hint}", "", "What a class gets wrong:", "", *wrong])


def _note(name: str, text: str) -> dict:
    return {"cell_type": "markdown", "id": name[:64], "metadata": {"tags": ["teacher"]}, "source": text}


def grade(folder: str | Path, seconds: int = 600) -> Path:
    """Runs every notebook under `folder`, without its solutions, and writes what the checks said to grades.csv in it.

    A notebook is run on a copy and goes on after an error; what no longer came to its check counts as not reached.
    seconds: how long one cell may take. Raises FileNotFoundError where there is no notebook.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    folder = Path(folder).expanduser()
    submitted = [path for path in sorted(folder.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
    if not submitted:
        raise FileNotFoundError(f"There is no notebook in {folder}: give the folder that holds what was handed in.")
    rows = []
    for path in submitted:
        name = path.relative_to(folder).as_posix()
        try:
            notebook = json.loads(path.read_text(encoding="utf-8"))
            expected = [f"{module_of(notebook)}.{one}" for cell in notebook["cells"] for one in _checked(cell)]
            bare = nbformat.reads(json.dumps(student(notebook)), as_version=4)
        except (ValueError, KeyError, AttributeError, nbformat.ValidationError) as error:
            rows.append((name, "", "cannot be read", f"{type(error).__name__}: {error}"))
            continue
        with tempfile.TemporaryDirectory() as work:
            record = Path(work) / "record"
            client = NotebookClient(bare, timeout=seconds, allow_errors=True, resources={"metadata": {"path": work}})
            stopped = ""
            try:
                client.execute(env=os.environ | {RECORD: str(record)})
            except (CellTimeoutError, DeadKernelError) as error:
                stopped = str(error).splitlines()[0]
            lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
        said = {line["exercise"]: line for line in map(json.loads, lines)}  # the last word on each
        for one in dict.fromkeys([*expected, *said]):
            found = said.get(one)
            rows.append((name, one, RESULTS[found["right"]], found["said"]) if found
                        else (name, one, "not reached", stopped or "a cell before it failed"))  # fmt: skip
        print(f"{name}: {sum(line['right'] is True for line in said.values())} of {len(expected)} right")
    target = folder / GRADES
    partial = target.with_name(f"{GRADES}.{os.getpid()}.part")
    with partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    partial.replace(target)
    return target


def _checked(cell: dict) -> list[str]:
    return CHECKED.findall(source(cell)) if cell["cell_type"] == "code" and "exercise" in tags(cell) else []
