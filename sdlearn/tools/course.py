"""`sdlearn course`: the notebooks, opened in JupyterLab.

In a clone of the repository they are opened where they lie. A wheel carries a copy, which is laid out in a folder of
the learner's first; a file that is already there is the learner's and is never overwritten. A version for students
(without solutions) or for the teacher (with notes) is always laid out in a folder.

A hidden file in that folder records what was laid out, so that the learner's work can be told from the course's:
`--update` brings what is newer with the learner's answers and cells in it, and keeps the file as it was beside it.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from . import classroom

FOLDER = "sdlearn-course"
PACKED = Path(__file__).parents[1] / "notebooks"  # where a wheel carries them
RECORD = ".sdlearn-course.json"  # {"version": ..., "files": {path: what `_mark` says of the file as it was laid out}}


def open_course(
    folder: str | None = None, *, version: str | None = None, grade: str | None = None, rehearse: str | None = None,
    bundle: str | None = None, platforms: Sequence[str] = (), torch: str | None = None, update: bool = False,
    reset: str | None = None, port: int | None = None, browser: bool = True, options: Sequence[str] = (),
) -> int:  # fmt: skip
    """Lay the notebooks out in `folder` and open JupyterLab there; returns JupyterLab's exit status.

    folder: None for the notebooks of a clone themselves, or for ./sdlearn-course where sdlearn was installed without.
    version: "student" leaves the solutions out; "teacher" opens them, with notes on every exercise; in folders of their
    own. options: further arguments of JupyterLab.
    The others open nothing. grade: run the checks of the notebooks in this folder (see `classroom.grade`). rehearse:
    run the cells of this plan (see `teaching.rehearse`). bundle, with platforms and torch: fill this folder for a class
    without internet (see `bundle.bundle`). update, reset: bring the folder up to date, start this notebook again (see
    `bring_up_to_date`, `start_again`).
    """
    if grade is not None:
        print("wrote", classroom.grade(grade))
        return 0
    if rehearse is not None:
        from . import teaching

        return teaching.rehearse(rehearse)
    if bundle is not None:
        from .bundle import bundle as fill

        print("wrote", fill(bundle, platforms, torch))
        return 0
    if port is not None and not 0 < port < 2**16:
        raise ValueError(f"A port is a number from 1 to 65535, not {port}.")
    source = notebooks()
    if update or reset is not None:
        work = _learners(folder, version)
        if work == source:
            raise ValueError(f"{work} holds the course's own notebooks, which git brings up to date and restores.")
        with _cure(work):
            said = bring_up_to_date(source, work, version) if update else start_again(source, work, reset)
        print(*said, sep="\n")
        return 0
    if folder is None and version is None and source != PACKED and not Path(RECORD).exists():
        work = source
    else:
        work = _folder(folder, version)
        with _cure(work):
            copied, kept, newer = lay_out(source, work, version)
        print(f"{copied} files of the course are new in {work}.")
        again = f"sdlearn course --dir {work}"
        if kept:
            print(f"Kept as you left them: {', '.join(kept)}. To start one again: {again} --reset NAME")
        if newer:
            print(f"The course has newer ones of {', '.join(newer)}. With your work in them: {again} --update")
    if importlib.util.find_spec("jupyterlab") is None:
        raise OSError(
            f"JupyterLab is not installed; run: {Path(sys.executable).name} -m pip install 'sdlearn[course]'. "
            f"The notebooks are in {work}; any other Jupyter opens them too."
        )
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={work}"]
    command += ["--LabApp.default_url=/lab/tree/00_quickstart.ipynb"]
    command += [f"--port={port}"] if port else []
    command += [*([] if browser else ["--no-browser"]), *options]
    with subprocess.Popen(command) as server:
        try:
            return server.wait()
        except KeyboardInterrupt:  # Ctrl-C reaches JupyterLab as well, which asks whether to stop
            return server.wait()


def notebooks() -> Path:
    """Where the course lies: in the wheel, or beside the package in a clone."""
    for folder in (PACKED, PACKED.parent.parent / "notebooks"):
        if any(folder.glob("*.ipynb")):
            return folder
    raise FileNotFoundError("This installation of sdlearn has no notebooks; install it from PyPI or from a clone.")


def lay_out(source: Path, work: Path, version: str | None = None) -> tuple[int, list[str], list[str]]:
    """Copy what is not there yet.

    Returns how many files were new, which existing ones the learner changed, and of which the course has a newer one.
    """
    copied, kept, newer = 0, [], []
    with _record(work, version) as files:
        for path, content in _course(source, _version(work, version)):
            target, mark = work / path, _mark(path, content)
            if not target.exists():
                _write(target, content)
                files[path], copied = mark, copied + 1
            elif target.read_bytes() == content:
                files[path] = mark
            elif path in files and _same(files[path], mark):
                kept.append(path)
            elif path in files:
                newer.append(path)
                kept += [path] if _sha(target.read_bytes()) != files[path]["sha"] else []
            else:  # laid out before there was a record
                kept.append(path)
    return copied, kept, newer


def bring_up_to_date(source: Path, work: Path, version: str | None = None) -> list[str]:
    """Bring what is new or newer in the course to a learner's folder; returns what changed, a line each.

    What the learner did not touch is replaced. A notebook with work of theirs becomes the course's with their answers
    and own cells in it (see `classroom.carry_over`), and is kept as it was under another name. What the learner
    deleted comes back; what the course no longer has stays, and where another notebook has taken its place the answers
    go there too.
    """
    said = []
    with _record(work, version) as files:
        ours = dict(_course(source, _version(work, version)))
        gone = [path for path in files if path not in ours]
        for path, content in ours.items():
            target, mark, known = work / path, _mark(path, content), files.get(path)
            if target.exists() and target.read_bytes() != content and known and _same(known, mark):
                continue  # the learner's, and the course has nothing newer
            if not target.exists():
                before = _predecessor(content, gone, work) if path.endswith(".ipynb") else None
                content, carried = _with_work(work / before, content, files[before]) if before else (content, "")
                _write(target, content)
                took = f", in the place of {before}{carried}" if before else ""
                said.append(f"{'back:' if known else 'new:':7}{path}{took}")
            elif (theirs := target.read_bytes()) != content:
                aside = ""
                if known is None or _sha(theirs) != known["sha"]:
                    content, carried = _with_work(target, content, known)
                    aside = f"{carried}; as it was: {_keep(target).name}"
                _write(target, content)
                said.append(f"newer: {path}{aside}")
            files[path] = mark
        for path in gone:
            del files[path]
            if (work / path).exists():
                said.append(f"left:  {path}, which the course no longer has")
    return [f"Up to date: {work}" if said else f"Nothing is newer than what is in {work}", *said]


def start_again(source: Path, work: Path, name: str) -> list[str]:
    """Lay one file of the course out anew, and keep the learner's beside it; returns what was done, a line each.

    name: of a notebook, or how its name begins, such as "01". Raises ValueError where that names none or several.
    """
    with _record(work, None) as files:
        ours = dict(_course(source, _version(work, None)))
        found = [path for path in ours if path.endswith(".ipynb") and path.startswith(name)]
        if name in ours or f"{name}.ipynb" in ours:
            found = [name if name in ours else f"{name}.ipynb"]
        if len(found) != 1 or not name:
            names = ", ".join(found or [path for path in ours if path.endswith(".ipynb")])
            raise ValueError(f"{name!r} names {'more than one' if found else 'no'} notebook; there are: {names}.")
        (path,) = found
        target, said = work / path, []
        if target.exists() and target.read_bytes() != ours[path]:
            said.append(f"Yours is kept: {_keep(target)}")
        _write(target, ours[path])
        files[path] = _mark(path, ours[path])
        return [*said, f"As the course has it: {target}"]


def _folder(folder: str | None, version: str | None) -> Path:
    """The folder named, or this one if it is one of the course's, or one in it of the usual name."""
    here = "." if Path(RECORD).exists() else "-".join(filter(None, (FOLDER, version)))
    return Path(folder or here).expanduser().resolve()


def _learners(folder: str | None, version: str | None) -> Path:
    """The folder in which a learner works, where the usual name may be that of any version."""
    if folder or version:
        return _folder(folder, version)
    found = sorted({each for v in (None, *classroom.VERSIONS) if (each := _folder(None, v)).is_dir()})
    if len(found) != 1:
        many = f"There are {len(found)} folders" if found else "There is no folder"
        raise FileNotFoundError(f"{many} of the course here; name yours with --dir, as when you laid it out.")
    return found[0]


@contextmanager
def _cure(work: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a sentence of ours
            raise
        cure = "make room, or choose another --dir."
        raise OSError(f"Cannot lay the course out in {work} ({error.strerror or error}); {cure}") from error


@contextmanager
def _record(work: Path, version: str | None) -> Iterator[dict]:
    """What was laid out in a folder, by path; what is written there meanwhile is recorded, an error or not."""
    files, version = _read(work).get("files", {}), _version(work, version)
    try:
        yield files
    finally:
        if work.is_dir():
            _write(work / RECORD, json.dumps({"version": version, "files": files}, indent=1).encode())


def _read(work: Path) -> dict:
    try:
        return json.loads((work / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _version(work: Path, version: str | None) -> str | None:
    """The version that a folder holds."""
    record = _read(work)
    held = record.get("version", version)
    if version and version != held:
        raise ValueError(f"{work} holds the course {f'for a {held}' if held else 'with its solutions'}; "
                         f"lay the one for a {version} out in another --dir.")  # fmt: skip
    return held


def _course(source: Path, version: str | None) -> Iterator[tuple[str, bytes]]:
    """Every file that the course lays out, as this version of it has it."""
    for file in sorted(f for f in source.rglob("*") if f.is_file()):
        path = file.relative_to(source)
        if any(part.startswith((".", "_")) for part in path.parts):  # "__pycache__", too
            continue
        if file.name.startswith("teaching"):
            if version != "student":
                from . import teaching

                yield path.as_posix(), teaching.fill(file.read_text(encoding="utf-8")).encode()
        elif version is None or file.suffix != ".ipynb":
            yield path.as_posix(), file.read_bytes()
        else:
            yield path.as_posix(), _bytes(classroom.VERSIONS[version](json.loads(file.read_text(encoding="utf-8"))))


def _bytes(notebook: dict) -> bytes:
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def _notebook(content: bytes) -> dict | None:
    """None for what is none."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "cells" in found else None


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _mark(path: str, content: bytes) -> dict:
    """What is remembered of a file: its checksum and, of a notebook, that of every cell's source."""
    notebook = _notebook(content) if path.endswith(".ipynb") else None
    return {"sha": _sha(content)} | ({"cells": classroom.fingerprints(notebook)} if notebook else {})


def _same(known: dict, mark: dict) -> bool:
    """Whether a learner would see no difference: of a notebook the cells count, not how its file is written."""
    return known["cells"] == mark["cells"] if "cells" in known and "cells" in mark else known["sha"] == mark["sha"]


def _with_work(file: Path, content: bytes, known: dict | None) -> tuple[bytes, str]:
    """The course's content of a file with a learner's work in it, and what that was, in words."""
    theirs, ours = _notebook(file.read_bytes()), _notebook(content)
    if file.suffix != ".ipynb" or not theirs or not ours:
        return content, ""
    merged, carried = classroom.carry_over(theirs, ours, (known or {}).get("cells", {}))
    return _bytes(merged), f", with {carried}" if carried else ""


def _predecessor(content: bytes, gone: list[str], work: Path) -> str | None:
    """The notebook whose exercises a new one has: it has another name now."""
    module = classroom.module_of(_notebook(content) or {"cells": []})
    for path in gone:
        old = _notebook((work / path).read_bytes()) if path.endswith(".ipynb") and (work / path).exists() else None
        if module and old and classroom.module_of(old) == module:
            return path
    return None


def _keep(target: Path) -> Path:
    """Copies a learner's file to a name that is free."""
    names = (target.with_name(f"{target.stem}.old{k if k > 1 else ''}{target.suffix}") for k in count(1))
    kept = next(name for name in names if not name.exists())
    shutil.copy2(target, kept)
    return kept


def _write(target: Path, content: bytes) -> None:
    """All of it or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(content)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
