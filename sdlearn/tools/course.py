"""`sdlearn course`: the notebooks, opened in JupyterLab.

In a clone of the repository they are opened where they lie. A wheel carries a copy, which is laid out in a folder of
the learner's first; a file that is already there is the learner's and is never overwritten. A version for students
(without solutions) or for the teacher (with notes) is always laid out in a folder.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import classroom

FOLDER = "sdlearn-course"
PACKED = Path(__file__).parents[1] / "notebooks"  # where a wheel carries them


def open_course(
    folder: str | None = None, *, version: str | None = None, grade: str | None = None, port: int | None = None,
    browser: bool = True, options: Sequence[str] = (),
) -> int:  # fmt: skip
    """Lay the notebooks out in `folder` and open JupyterLab there; returns JupyterLab's exit status.

    folder: None for the notebooks of a clone themselves, or for ./sdlearn-course where sdlearn was installed without.
    version: "student" leaves the solutions out; "teacher" opens them, with notes on every exercise; in folders of their
    own. grade: opens nothing, but runs the checks of the notebooks in this folder (see `classroom.grade`).
    options: further arguments of JupyterLab.
    """
    if grade is not None:
        print("wrote", classroom.grade(grade))
        return 0
    if port is not None and not 0 < port < 2**16:
        raise ValueError(f"A port is a number from 1 to 65535, not {port}.")
    source = notebooks()
    if folder is None and version is None and source != PACKED:
        work = source
    else:
        work = Path(folder or "-".join(filter(None, (FOLDER, version)))).expanduser().resolve()
        try:
            copied, kept = lay_out(source, work, version)
        except OSError as error:
            cure = "make room, or choose another --dir."
            raise OSError(f"Cannot lay the course out in {work} ({error.strerror or error}); {cure}") from error
        print(f"{copied} files of the course are new in {work}.")
        if kept:
            print(f"Kept as you left them: {', '.join(kept)}. For a fresh copy, rename yours and run this again.")
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


def lay_out(source: Path, work: Path, version: str | None = None) -> tuple[int, list[str]]:
    """Copy what is not there yet; returns how many files were new and which existing ones differ from the course's."""
    copied, kept = 0, []
    for file in sorted(f for f in source.rglob("*") if f.is_file()):
        path = file.relative_to(source)
        if any(part.startswith((".", "_")) for part in path.parts):  # "__pycache__", too
            continue
        target, content = work / path, _content(file, version)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f"{target.name}.{os.getpid()}.part")
            try:
                partial.write_bytes(content)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
            copied += 1
        elif target.read_bytes() != content:
            kept.append(str(path))
    return copied, kept


def _content(file: Path, version: str | None) -> bytes:
    """A file as this version of the course has it."""
    if version is None or file.suffix != ".ipynb":
        return file.read_bytes()
    edited = classroom.VERSIONS[version](json.loads(file.read_text(encoding="utf-8")))
    return (json.dumps(edited, indent=1, ensure_ascii=False) + "\n").encode()
