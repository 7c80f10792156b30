"""`sdlearn course --bundle FOLDER`: all that a class needs in one folder, for thirty machines without internet.

The folder holds wheels for the systems asked for, the notebooks of students and teacher, the site and the slides where
they are built, an installer that needs nothing but Python, and checksums. Wheels are collected by pip, with its index
and its settings. The versions are those that it chooses for this machine, and the same on every system; what only
another system needs is found in the wheels' own metadata.
"""

import hashlib
import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from .. import __version__
from . import book, course

CPU = "https://download.pytorch.org/whl/cpu"  # on Linux, the usual index has PyTorch with CUDA, several GB of it
LINUX = ["manylinux2014_x86_64", "linux_x86_64", *(f"manylinux_2_{k}_x86_64" for k in range(17, 29))]
SYSTEMS = {  # what the marks in wheels' metadata are there, and which wheels pip may take
    "linux": (("linux", "Linux", "posix", "x86_64"), LINUX),
    "macos": (("darwin", "Darwin", "posix", "arm64"), ["macosx_14_0_arm64"]),
    "windows": (("win32", "Windows", "nt", "AMD64"), ["win_amd64"]),
}
SUMS = "SHA256SUMS"
INSTALLER = Path(__file__).with_name("install.py")
STARTERS = {  # a file to click or to call, on each system
    "install.sh": '#!/bin/sh\nexec "${PYTHON:-python3}" "$(dirname "$0")/install.py" "$@"\n',
    "install.command": '#!/bin/sh\nexec python3 "$(dirname "$0")/install.py"\n',
    "install.bat": '@py -3 "%~dp0install.py" %*\n@pause\n',
}
README = """\
{title}

Install on Linux:    sh install.sh
           macOS:    open install.command (right click, Open)
           Windows:  open install.bat

Nothing is fetched from the internet. Python must be there, one of: {targets} (64 bits; on a Mac, Apple silicon).
The course is put into the folder sdlearn of your home folder: a Python environment, your notebooks, and a file
named start to begin with. To install it again does no harm: your work is kept.

notebooks/student   without solutions; the installer brings them
notebooks/teacher   with solutions, notes and plans: take this folder out before you hand the stick round
site                the course as pages, if it was built: open index.html
slides              one deck a notebook, if they were built
{sums}          checksums of all files: sha256sum -c {sums}
"""


@dataclass(frozen=True)
class Target:
    """A system, and a version of Python such as "3.12"."""

    system: str
    python: str

    def __str__(self) -> str:
        return f"{self.system}-{self.python}"

    @property
    def marks(self) -> dict[str, str]:
        """What markers in a requirement are compared with."""
        names = ("sys_platform", "platform_system", "os_name", "platform_machine")
        versions = {"python_version": self.python, "python_full_version": self.full}
        return dict(zip(names, SYSTEMS[self.system][0], strict=True)) | versions

    @property
    def full(self) -> str:
        """The oldest Python of this version that will do: this machine's, or of another version the first."""
        ours = platform.python_version()
        return ours if ours.rsplit(".", 1)[0] == self.python else f"{self.python}.0"

    @property
    def options(self) -> list[str]:
        """Of `pip download`."""
        platforms = [option for tag in SYSTEMS[self.system][1] for option in ("--platform", tag)]
        return [*platforms, "--python-version", self.full, "--implementation", "cp"]


def here() -> Target:
    this = platform.system(), platform.machine()
    name = next((k for k, (marks, _) in SYSTEMS.items() if (marks[1], marks[3]) == this), None)
    if name is None:
        raise ValueError(
            f"A bundle is made on {', '.join(SYSTEMS)} (64 bits, Apple silicon); this is {' '.join(this)}."
        )
    return Target(name, f"{sys.version_info[0]}.{sys.version_info[1]}")


def targets(platforms: Iterable[str]) -> list[Target]:
    """This machine's own first, then those asked for: "windows", or with a version of Python "windows-3.12"."""
    found = [here()]
    for word in platforms:
        system, _, python = word.partition("-")
        python = python or found[0].python
        if system not in SYSTEMS or not python.replace(".", "", 1).isdigit() or not python.startswith("3."):
            raise ValueError(f"{word!r} is no platform: take one of {', '.join(SYSTEMS)}, or such as windows-3.12.")
        found.append(Target(system, python))
    return list(dict.fromkeys(found))


def bundle(folder: str | Path, platforms: Sequence[str] = (), torch: str | None = None) -> Path:
    """Fill `folder`, which is new or an earlier bundle; returns its README.

    platforms: see `targets`. torch: a requirement for PyTorch from pip's usual index, such as "torch==2.13.0"; by
    default Linux gets the CPU build from PyTorch's own. Raises ValueError for an unknown platform or a folder with
    other things in it, OSError with pip's words where something is not to be had.
    """
    folder, wanted = Path(folder).expanduser().resolve(), targets(platforms)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SUMS).exists():
        raise ValueError(f"{folder} holds other things; give a new folder, or an earlier bundle.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMS).unlink(missing_ok=True)
    for part in ("wheels", "requirements", "notebooks", "site", "slides"):
        shutil.rmtree(folder / part, ignore_errors=True)
    for part in ("wheels", "requirements"):
        (folder / part).mkdir()
    (folder / SUMS).touch()  # this is a bundle, though not yet a whole one
    with tempfile.TemporaryDirectory(dir=folder) as work:
        pins, own = {}, None
        for target in wanted:
            print(f"Collecting the wheels for {target} ...", flush=True)
            into = Path(work) / str(target)
            into.mkdir()
            own = _collect_here(into, torch) if own is None else own
            pins = pins or {name: version for name, version, _ in _wheels(into)}
            if target != wanted[0]:
                shutil.copy(own, into)
                _collect_there(target, into, pins, torch)
            listed = sorted((name, version, _sha(file)) for name, version, file in _wheels(into))
            lines = [f"{name}=={version} --hash=sha256:{sha}" for name, version, sha in listed]
            (folder / "requirements" / f"{target}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
            for _, _, file in _wheels(into):
                if target == wanted[0] and file == own:
                    shutil.copy(file, folder / "wheels")
                else:
                    file.replace(folder / "wheels" / file.name)
    if any(name.startswith("nvidia-") for name, _, _ in _wheels(folder / "wheels")):
        print("With them came PyTorch for CUDA, some GB that a class without GPUs can spare; --torch names another.")
    for version in ("student", "teacher"):
        course.lay_out(course.notebooks(), folder / "notebooks" / version, version)
    for name, built in (("site", book.SITE), ("slides", book.BUILD / "slides")):
        if built.is_dir():
            shutil.copytree(built, folder / name)
    shutil.copy(INSTALLER, folder)
    for name, text in STARTERS.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\r\n" if name.endswith("bat") else "\n")
        (folder / name).chmod(0o755)
    names = ", ".join(f"{target.system} with Python {target.python} (from {target.full} on)" for target in wanted)
    about = README.format(title=f"sdlearn {__version__}", targets=names, sums=SUMS)
    (folder / "README.txt").write_text(about, encoding="utf-8")
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != SUMS)
    sums = [f"{_sha(file)}  {file.relative_to(folder).as_posix()}" for file in files]
    (folder / SUMS).write_text("\n".join(sums) + "\n", encoding="utf-8")
    print(f"{sum(f.stat().st_size for f in files) / 2**20:.0f} MiB for {names}")
    return folder / "README.txt"


def _collect_here(into: Path, torch: str | None) -> Path:
    """The course's wheel and all that it needs on this machine; returns the former."""
    if (book.ROOT / "pyproject.toml").is_file():
        isolated = [] if importlib.util.find_spec("hatchling") is None else ["--no-build-isolation"]
        _pip("wheel", "--no-deps", *isolated, "--wheel-dir", str(into), str(book.ROOT))
    else:
        _pip("download", "--no-deps", "--dest", str(into), f"sdlearn=={__version__}")
    (own,) = into.glob("sdlearn-*.whl")
    if torch or here().system == "linux":
        _pip("download", "--no-deps", "--dest", str(into), *([torch] if torch else ["torch", "--index-url", CPU]))
    first = [f"{name}=={version}" for name, version, _ in _wheels(into) if name == "torch"]
    _pip("download", "--only-binary=:all:", "--find-links", str(into), "--dest", str(into), f"{own}[course]", *first)
    return own


def _collect_there(target: Target, into: Path, pins: dict[str, str], torch: str | None) -> None:
    """The wheels for another system: those of this machine's versions, and what its own marks ask for besides."""
    todo, done = [Requirement("sdlearn[course]")], set()
    while todo:
        present = {name for name, _, _ in _wheels(into)}
        missing = {canonicalize_name(need.name): need for need in todo if canonicalize_name(need.name) not in present}
        if "torch" in missing and target.system == "linux" and not torch:
            _pip("download", "--no-deps", "--only-binary=:all:", *target.options, "--dest", str(into),
                 f"torch=={pins['torch'].split('+')[0]}", "--index-url", CPU)  # fmt: skip
            del missing["torch"]
        asked = [f"{name}=={pins[name].split('+')[0]}" if name in pins else f"{need.name}{need.specifier}"
                 for name, need in missing.items()]  # fmt: skip
        if asked:
            _pip("download", "--no-deps", "--only-binary=:all:", *target.options, "--dest", str(into), *asked)
        files, following = {name: file for name, _, file in _wheels(into)}, []
        for need in todo:
            name = canonicalize_name(need.name)
            for extra in {"", *need.extras} - {extra for known, extra in done if known == name}:
                done.add((name, extra))
                needs = map(Requirement, _metadata(files[name]).get_all("Requires-Dist") or ())
                following += [n for n in needs if not n.marker or n.marker.evaluate({**target.marks, "extra": extra})]
        todo = following


def _pip(*options: str) -> None:
    command = [sys.executable, "-m", "pip", *options, "--disable-pip-version-check"]
    run = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if run.returncode:
        words = "\n".join(line for line in run.stderr.splitlines() if line.startswith("ERROR"))
        raise OSError(f"pip {options[0]} cannot bring what is asked for: {words or run.stderr[-500:]}")


def _wheels(folder: Path) -> list[tuple[str, str, Path]]:
    """Name, version and file of each wheel."""
    return [(*map(str, parse_wheel_filename(file.name)[:2]), file) for file in sorted(folder.glob("*.whl"))]


def _metadata(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        name = next(
            name for name in archive.namelist() if name.count("/") == 1 and name.endswith(".dist-info/METADATA")
        )
        return message_from_bytes(archive.read(name))


def _sha(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
