"""Print the oldest versions that pyproject.toml allows, as a constraints file for pip."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
print(*(need.replace(">=", "==") for need in project["dependencies"]), sep="\n")
