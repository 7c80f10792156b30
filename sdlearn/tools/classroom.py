"""One source, two versions: `sdlearn course --student` and `--teacher`; a newer one with a reader's work in it
(`--update`); and `--grade`, which runs what came back."""

import copy
import csv
import hashlib
import importlib
import inspect
import json
import os
import re
import tempfile
import uuid
from pathlib import Path

from ..exercises import RECORD, Exercise
from .book import tags

GRADES = "grades.csv"
COLUMNS = ("file", "exercise", "result", "said")
RESULTS = {True: "right", False: "wrong", None: "not attempted"}
IMPORTED = re.compile(r"^from sdlearn\.exercises import (\w+) as exercise\b", re.MULTILINE)
CHECKED = re.compile(r"\bexercise\.(\w+)\.check\(")
STUB = re.compile(r"^\s*\.\.\.\s*(#.*)?$", re.MULTILINE)  # what stands where an answer is asked for


def source(cell: dict) -> str:
    return "".join(cell["source"])


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
    """With the solutions open, after each exercise what a teacher wants to know of it, and questions to ask a class."""
    notebook = copy.deepcopy(notebook)
    module, cells, asked = module_of(notebook), [], []
    for cell in notebook["cells"]:
        if "solution" in tags(cell):
            cell["metadata"] = {"tags": cell["metadata"]["tags"]}  # not folded
        cells.append(cell)
        for name, one in exercises(cell, module):
            asked.append(one)
            cells.append(_note(f"teacher-{name}", _about(one)))
    if asked:
        lines = [f"| {one.name} | {one.minutes} | {one.difficulty} | {one.trains} |" for one in asked]
        table = ["| Exercise | Minutes | Difficulty | It trains |", "|---|---:|---|---|", *lines]
        total = f"{sum(one.minutes for one in asked)} minutes of exercises in all."
        lines = ["**For the teacher.**", "", *table, "", total, *_questions(module)]
        cells.insert(1, _note("for-the-teacher", "\n".join(lines)))
    notebook["cells"] = cells
    return notebook


def _questions(module: str) -> list[str]:
    """What the plans of the page "For teachers" ask a class at this notebook, with the answers, in Markdown."""
    from . import teaching

    parts = [part for plan in teaching.plans() for part in plan["part"] if "ask" in part and "notebook" in part]
    here = [part for part in parts if re.sub(r"^\d+_", "", part["notebook"]) == module]
    asked = {}  # a question that two plans ask stands once
    for part in sorted(here, key=lambda part: part.get("sections", [99])[-1]):
        where = f"After section {part['sections'][-1]}" if "sections" in part else "At the end"
        asked.setdefault(part["ask"], f"- {where}: {part['ask']} *{part['answer']}*")
    return ["", "Questions to ask:", "", *asked.values()] if asked else []


def mistakes(one: Exercise) -> list[str]:
    """What the check of an exercise recognises, as sentences; names of the code keep their small letters."""
    code = inspect.signature(one.answer).parameters
    sentences = [sentence for sentence, _ in one.mistakes]
    return [text if re.match(r"\w*", text)[0] in code else text[0].upper() + text[1:] for text in sentences]


VERSIONS = {"student": student, "teacher": teacher}


def _about(one: Exercise) -> str:
    wrong = [f"- {sentence}" for sentence in mistakes(one)]
    head = f"**For the teacher: {one.name}.** {one.minutes} minutes, {one.difficulty}; it trains {one.trains}."
    return "\n".join([head, "", f"Who is stuck may be told: {one.hint}", "", "What a class gets wrong:", "", *wrong])


def _note(name: str, text: str) -> dict:
    return {"cell_type": "markdown", "id": name[:64], "metadata": {"tags": ["teacher"]}, "source": text}


def fingerprints(notebook: dict) -> dict[str, str]:
    """A checksum of every cell's source, by the cell's id, in the notebook's order."""
    return {_id(cell): _fingerprint(cell) for cell in notebook["cells"]}


def carry_over(theirs: dict, new: dict, laid_out: dict[str, str]) -> tuple[dict, str]:
    """The new notebook with what a reader did in theirs: answers to exercises, cells of their own, cells that they
    changed and the course did not.

    laid_out: `fingerprints` of the notebook as the reader got it; where that is not known, empty, and answers are all
    that is carried over. An answer to an exercise that is no more becomes a cell that does not run. Returns the
    notebook, and in words what was carried over and what was not.
    """
    new = copy.deepcopy(new)
    ids = {_id(cell) for cell in theirs["cells"]}
    places = {_id(cell): cell for cell in new["cells"]}
    answered = {name: cell for cell in new["cells"] for name in _checked(cell)}
    follow: dict[str | None, list[dict]] = {}  # cells of the reader's own, by the id of the cell that they stand after
    place, answers, own, changed, left = None, [], 0, 0, 0
    for cell in theirs["cells"]:
        names, text = CHECKED.findall(source(cell)), _fingerprint(cell)
        ours = places.get(_id(cell))
        if ours and names and _checked(ours) and not set(names) & set(_checked(ours)):
            ours = None  # another exercise has this id now
        if not ours and names and names[0] in answered and _id(answered[names[0]]) not in ids:
            ours = answered[names[0]]
        if ours:
            place = _id(ours)
            was, now = laid_out.get(_id(cell), laid_out.get(place)), _fingerprint(ours)
            untouched = text == was or (was is None and names and STUB.search(source(cell)))
            if text == now or untouched:
                continue
            if _checked(ours):
                ours["source"] = cell["source"]
                answers += _checked(ours)[:1]
            elif was == now and ours["cell_type"] == cell["cell_type"]:
                ours["source"] = cell["source"]
                changed += 1
            else:
                left += 1
        elif text in laid_out.values() or not source(cell).strip():
            continue  # the course's, and it has left it out
        elif not laid_out or (_id(cell) in laid_out and not names):
            left += 1
        else:
            kept = _raw(cell) if names and not set(names) & answered.keys() else cell
            follow.setdefault(place, []).append({"id": uuid.uuid4().hex[:8], **kept})
            own += 1
    ordered = follow.get(None, [])
    for cell in new["cells"]:
        ordered = [*ordered, cell, *follow.get(_id(cell), [])]
    new["cells"] = ordered
    words = [f"your answer{'s' * (len(answers) > 1)} to {', '.join(answers)}"] if answers else []
    for number, what in ((own, "of your own"), (changed, "that you changed")):
        words += [f"{number} cell{'s' * (number > 1)} {what}"] if number else []
    words += [f"but not {left} cell{'s' * (left > 1)} that you and the course changed"] if left else []
    return new, "; ".join(words)


def _id(cell: dict) -> str | None:
    return cell.get("id") or cell["metadata"].get("id")  # Colab writes it there


def _fingerprint(cell: dict) -> str:
    return hashlib.sha256(source(cell).encode()).hexdigest()[:12]


def _raw(cell: dict) -> dict:
    return {"cell_type": "raw", "id": _id(cell), "metadata": {}, "source": cell["source"]}


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
