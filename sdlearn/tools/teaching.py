"""What a teacher needs: the plans of notebooks/_plans.toml, as text and as a rehearsal, and what a class gets wrong.

The pages notebooks/teaching*.md have comments in the places of what is made here: on the site by `sdlearn book`, in a
teacher's folder by `sdlearn course --teacher`. `sdlearn course --rehearse PLAN` runs a plan on the teacher's machine.
"""

import importlib
import json
import re
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from ..exercises import Exercise, all_of
from . import book, classroom, course

PLANS = "_plans.toml"
PLANS_HERE = "<!-- The plans stand here in the built book. -->"
MISTAKES_HERE = "<!-- The mistakes stand here in the built book. -->"
SECTION = re.compile(r"^## (?:(\d+)\. )?(.+)$", re.MULTILINE)


def plans() -> list[dict]:
    """Every plan of the page: its name, its goal and its parts (what these hold is told in the file)."""
    return tomllib.loads((course.notebooks() / PLANS).read_text(encoding="utf-8"))["plan"]


def read(name: str) -> dict:
    """A notebook of the course."""
    return json.loads((course.notebooks() / f"{name}.ipynb").read_text(encoding="utf-8"))


def title(notebook: dict) -> str:
    """Its first line."""
    return classroom.source(notebook["cells"][0]).splitlines()[0].removeprefix("# ")


def short_title(notebook: dict) -> str:
    """Without its number and its second half: "Quickstart"."""
    return re.sub(r"^\d+ · ", "", title(notebook)).split(":")[0].split(" · ")[0]


def sections(notebook: dict) -> list[tuple[str, list[dict]]]:
    """Title and cells of section 0 (all before the first one), 1, 2 ...; last what stands after the numbered ones.

    A cell that begins a section belongs to it whole, though its first lines may look back, its last ones begin another.
    """
    found = [("the opening", [])]
    for cell in notebook["cells"]:
        heads = SECTION.findall(classroom.source(cell)) if cell["cell_type"] == "markdown" else []
        place = len(found) if heads and found[-1][0] != "the end" else len(found) - 1
        for number, name in heads:
            assert not number or int(number) == len(found), f"section {number} stands where {len(found)} should"
            if number or found[-1][0] != "the end":
                found.append((f"{number}. {name}" if number else "the end", []))
        found[place][1].append(cell)
    return found


def cells(part: Mapping, notebook: dict) -> list[dict]:
    """The cells of a notebook that a class goes through in this part."""
    found = sections(notebook)
    return [cell for k in part.get("sections", range(len(found))) for cell in found[k][1]]


def exercises(part: Mapping) -> list[Exercise]:
    """Those that a class writes in this part."""
    if "notebook" not in part:
        return []
    module = importlib.import_module(f"sdlearn.exercises.{classroom.module_of(read(part['notebook']))}")
    return [one for one in all_of(module) if one.name in part.get("exercises", [one.name])]


def written(plan: Mapping, executed: Mapping[str, dict] | None = None) -> str:
    """The plan in Markdown. executed: the executed notebooks by name, where the minutes of reading are to be told."""
    lines, clock = [f"## {plan['name']}", ""], 0
    asked = sum(len(exercises(part)) for part in plan["part"])
    lines += [" ".join(plan["goal"].split()).format(exercises=asked), ""]
    for part in plan["part"]:
        facts, what, start = {}, part.get("title"), 0 if part.get("new_day") else clock
        clock = start + part["minutes"]
        if name := part.get("notebook"):
            notebook = read(name)
            what, found = short_title(notebook), sections(notebook)
            names = [found[k][0] for k in part.get("sections", ())]
            facts["Where"] = f"[{name}]({name}.ipynb), {'; '.join(names) or 'all of it'}."
            if executed:
                facts["To read"] = f"{book.minutes({'cells': cells(part, executed[name])}):.0f} minutes."
            if tasks := [f"`{one.name}` ({one.minutes} minutes)" for one in exercises(part)]:
                facts["To write"] = f"{', '.join(tasks)}."
        if "ask" in part:
            facts["Ask"] = f"{part['ask']} *{part['answer']}*"
        if "breaks" in part:
            facts["If it breaks"] = f"{part['breaks']} {part['cure']}"
        lines += [f"### {start // 60}:{start % 60:02} {what}, {part['minutes']} minutes", ""]
        lines += [" ".join(part["do"].split()), "", *(f"- **{key}:** {said}" for key, said in facts.items()), ""]
    return "\n".join(lines)


def mistakes() -> str:
    """What every exercise's check recognises, in Markdown, notebook by notebook."""
    lines = []
    for notebook in _with_exercises():
        content = read(notebook.stem)
        lines += [f"## {title(content)}", ""]
        for one in all_of(importlib.import_module(f"sdlearn.exercises.{classroom.module_of(content)}")):
            about = f"{one.minutes} minutes, {one.difficulty}; it trains {one.trains}"
            lines += [f"**{one.name}** ([{notebook.stem}]({notebook.name}); {about})", ""]
            lines += [f"- {_plain(sentence)}" for sentence in classroom.mistakes(one)]
            lines.append("")
    return "\n".join(lines)


def _with_exercises() -> list[Path]:
    order = ("[0-9]*.ipynb", "final.ipynb")
    found = [notebook for pattern in order for notebook in sorted(course.notebooks().glob(pattern))]
    return [notebook for notebook in found if classroom.module_of(read(notebook.stem))]


def _plain(sentence: str) -> str:
    """A sentence of code's as Markdown that looks the same; what stands between backticks is left."""
    parts = sentence.split("`")
    parts[::2] = [re.sub(r"([*_\[\]<>$\\])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def fill(page: str, executed: Mapping[str, dict] | None = None) -> str:
    """A page's text with the plans (see `written`) and the mistakes in their places."""
    if PLANS_HERE in page:
        page = page.replace(PLANS_HERE, "\n".join(written(plan, executed) for plan in plans()))
    return page.replace(MISTAKES_HERE, mistakes()) if MISTAKES_HERE in page else page


# -- the rehearsal -----------------------------------------------------------------------------------------------------


def rehearse(name: str) -> int:
    """Run the cells of a plan, in a fresh kernel for each notebook, and say how long each part takes of its minutes.

    name: of a plan, or how it begins. Returns 1 if a part fails or takes longer than its minutes, else 0.
    """
    found = [plan for plan in plans() if plan["name"].startswith(name)]
    if len(found) != 1:
        raise ValueError(f"There is no plan {name!r}; there are: {', '.join(plan['name'] for plan in plans())}.")
    ill = False
    for part, ran in run(found[0]):
        seconds, failed = sum(map(_seconds, ran)), _error(ran)
        ill |= bool(failed) or seconds > 60 * part["minutes"]
        where = f"{part['notebook']}, sections {', '.join(map(str, part.get('sections', ['all'])))}"
        stopped = failed and f"; stopped: {failed}"
        print(f"{where}: {seconds:.0f} seconds of {part['minutes']} minutes{stopped}", flush=True)
    return int(ill)


def run(plan: Mapping) -> Iterator[tuple[dict, list[dict]]]:
    """The parts of a plan, each with its cells as they came back: a student's, and the solutions of what is written.

    Parts of one notebook follow each other in one kernel, wherever they stand in the plan.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    for name in dict.fromkeys(part["notebook"] for part in plan["part"] if "notebook" in part):
        whole, chosen = read(name), []
        parts = [part for part in plan["part"] if part.get("notebook") == name]
        for number, part in enumerate(parts):
            solved = {one.name for one in exercises(part)}
            for cell in cells(part, whole):
                proves = set(re.findall(r"\bexercise\.(\w+)\.prove\(", classroom.source(cell)))
                if "proof" in classroom.tags(cell) or ("solution" in classroom.tags(cell) and not proves <= solved):
                    continue
                cell["metadata"]["part"] = number
                chosen.append(cell)
        notebook = nbformat.reads(json.dumps({**whole, "cells": chosen}), as_version=4)
        with tempfile.TemporaryDirectory() as work:
            client = NotebookClient(notebook, timeout=600, allow_errors=True, resources={"metadata": {"path": work}})
            try:
                client.execute()
            except (CellTimeoutError, DeadKernelError) as error:  # what came before it is told all the same
                code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
                reached = [cell for cell in code if cell["metadata"].get("execution")] or code[:1]
                said = {"ename": type(error).__name__, "evalue": str(error).splitlines()[0], "traceback": []}
                reached[-1]["outputs"].append(nbformat.v4.new_output("error", **said))
        for number, part in enumerate(parts):
            yield part, [cell for cell in notebook["cells"] if cell["metadata"]["part"] == number]


def _seconds(cell: dict) -> float:
    times = cell["metadata"].get("execution", {})
    if "shell.execute_reply" not in times:
        return 0.0
    first, last = (datetime.fromisoformat(times[key]) for key in ("iopub.status.busy", "shell.execute_reply"))
    return (last - first).total_seconds()


def _error(ran: list[dict]) -> str:
    errors = (output for cell in ran for output in cell.get("outputs", ()) if output["output_type"] == "error")
    return next((f"{error['ename']}: {error['evalue']}" for error in errors), "")


def minutes(part: Mapping, ran: list[dict]) -> float:
    """What a part takes at least: its cells, as they were executed, to read (see `book.minutes`), and its exercises."""
    return book.minutes({"cells": ran}) + sum(one.minutes for one in exercises(part))
