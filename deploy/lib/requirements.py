"""Prints what pyproject.toml asks for: requirements.py EXTRA… One requirement a line, those of no extra first."""

import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def main() -> None:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    found = list(project["dependencies"])
    for extra in sys.argv[1:]:
        found += project["optional-dependencies"][extra]
    print("\n".join(dict.fromkeys(found)))


main()
