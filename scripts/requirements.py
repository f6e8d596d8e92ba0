"""Prints the requirements of pyproject.toml's parts, one per line, for pip: `requirements.py build test demo`.

`build` stands for what the build system needs; every other name is an extra. The package's own dependencies come first.
torch and torchvision are left out: the Makefile picks their versions.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib


def main() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    lines = list(project["project"]["dependencies"])
    for part in sys.argv[1:]:
        if part == "build":
            lines += project["build-system"]["requires"]
        else:
            lines += project["project"]["optional-dependencies"][part]
    pinned_elsewhere = {"torch", "torchvision"}
    for line in lines:
        name = re.split(r"[^A-Za-z0-9_-]", line, maxsplit=1)[0]
        if name not in pinned_elsewhere:
            print(line)


if __name__ == "__main__":
    main()
