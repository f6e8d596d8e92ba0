"""The tables of docs/models.md, from what the code counts and the papers report.

python -m benchmarks.models            # writes them
python -m benchmarks.models --check    # exit code 1 and a diff where they are not what the code counts
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.performance import ROOT, differences
from resnet_cuda.bench import family, markdown_text

DOCUMENT = "docs/models.md"
BEGIN = "<!-- written by python -m benchmarks.models -->"
END = "<!-- end -->"


def written(document: str) -> str:
    """The document with its tables as they have to be. Raises ValueError where their place is not marked once."""
    if document.count(BEGIN) != 1 or document.count(END) != 1:
        raise ValueError(f"{DOCUMENT}: put its tables between {BEGIN!r} and {END!r}")
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n\n" + "\n".join(_lines()) + END + after


def _lines() -> list[str]:
    lines: list[str] = []
    for table in family.tables(exact=True):
        lines += [f"### {table.title}", "", *markdown_text.table(table), ""]
        lines += [
            line
            for note in table.notes
            for line in (f"{note[0].upper()}{note[1:]}.".replace("..", "."), "")
        ]
    return lines


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args(argv)
    path = root / DOCUMENT
    try:
        wanted = written(path.read_text())
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    found = differences({path: wanted}, root)
    if not arguments.check:
        path.write_text(wanted)
        return 0
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
