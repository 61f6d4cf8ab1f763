"""Prints what pyproject.toml requires, extras and build requirements included, one a line: for `make setup`."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
lines = list(project["project"]["dependencies"]) + list(project["build-system"]["requires"])
for extra in project["project"]["optional-dependencies"].values():
    lines += extra
print("\n".join(dict.fromkeys(lines)))
