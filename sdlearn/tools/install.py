"""Installs the course from the folder that this file lies in, without a network: python3 install.py [WHERE]

WHERE is sdlearn in the home folder, or the folder that you name. Python's own library is all that this file needs, and
any Python 3 reads it: one that is too old, or of a version for which there are no wheels, can say so.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SYSTEMS = {"Linux": "linux", "Darwin": "macos", "Windows": "windows"}
STARTS = {"linux": "start.sh", "macos": "start.command", "windows": "start.bat"}


def main(where):
    system = SYSTEMS.get(platform.system(), platform.system())
    this = f"{system}-{sys.version_info[0]}.{sys.version_info[1]}"
    listed = HERE / "requirements" / f"{this}.txt"
    if not listed.is_file():
        there = ", ".join(sorted(file.stem for file in listed.parent.glob("*.txt")))
        return f"This folder serves {there}, and here is {this}. Install such a Python, or use Colab."
    if platform.machine().lower() not in (("arm64",) if system == "macos" else ("x86_64", "amd64")):
        return f"This folder has nothing for a processor of the kind {platform.machine()}; use Colab."
    programs = where / "env" / ("Scripts" if system == "windows" else "bin")
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    settings.update(PIP_CONFIG_FILE=os.devnull, PIP_NO_INDEX="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
    pip = ["-m", "pip", "install", "--quiet", "--find-links", str(HERE / "wheels"), "--require-hashes"]
    course = [str(programs / "sdlearn"), "course", "--student", "--dir", str(where / "notebooks")]
    steps = {
        "a Python environment": [sys.executable, "-m", "venv", str(where / "env")],
        "the course and what it needs; this takes minutes": [str(programs / "python"), *pip, "-r", str(listed)],
        "the notebooks": [*course, "--update"],
        "a picture, and a look at this machine": [str(programs / "sdlearn"), "doctor"],
    }
    where.mkdir(parents=True, exist_ok=True)
    for what, command in steps.items():
        print("==", what, flush=True)
        if subprocess.run(command, env=settings).returncode:
            return "This step failed. Show the lines above to your teacher."
    start, line = where / STARTS[system], " ".join(f'"{word}"' for word in course)
    start.write_text(f"@{line}\n" if system == "windows" else f"#!/bin/sh\nexec {line}\n", encoding="utf-8")
    start.chmod(0o755)
    print(f"\nTo begin, open {start}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "~/sdlearn").expanduser().resolve()))
