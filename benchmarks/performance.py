"""docs/performance.md, and the table of docs/hardware-status.md, from the reports in benchmarks/results/.

    python -m benchmarks.performance                # writes both
    python -m benchmarks.performance --check        # exit code 1 and a diff where they are not what the reports say
    python -m benchmarks.performance --add DIR      # keeps the report in DIR, then writes both

Reports lie in benchmarks/results/<device>/<commit>/: report.json, report.md, pictures.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.performance_text import HARDWARE_STATUS, PERFORMANCE, Stored, hardware_status
from benchmarks.performance_text import performance as performance_text
from resnet_cuda.bench.publish import summarise
from resnet_cuda.bench.report import load

ROOT = Path(__file__).parents[1]
_COMMIT_DIGITS = 12
_KINDS = ("cuda", "cpu", "emulated")  # emulated: counters, not times
_KEPT = re.compile(r"report\.(json|md)|\w+\.png")


@dataclass(frozen=True)
class Repository:
    """Where reports and documents lie."""

    root: Path = ROOT

    @property
    def results(self) -> Path:
        return self.root / "benchmarks" / "results"

    def reports(self) -> list[Stored]:
        """The newest first. Raises ValueError where one cannot be read."""
        found = [
            Stored(
                path.parent.relative_to(self.root).as_posix(),
                load(path),
                [picture.name for picture in path.parent.glob("*.png")],
            )
            for path in sorted(self.results.glob("*/*/report.json"))
        ]
        return sorted(found, key=lambda stored: stored.data["started"], reverse=True)

    def documents(self) -> dict[Path, str]:
        """What the documents have to say, by path."""
        reports = self.reports()
        status = self.root / HARDWARE_STATUS
        return {
            self.root / PERFORMANCE: performance_text(reports),
            status: hardware_status(status.read_text(), reports),
        }


def add(source: Path, repository: Repository, commit: str | None = None) -> Path:
    """Copies a report's folder to its place, anew if it is there already; returns the place.

    commit: for reports of a machine that had no checkout.

    Raises:
        ValueError: it is no report, of a dry run, or of an unknown commit.
    """
    data = load(source / "report.json")
    environment = data["environment"]
    if environment.get("kind") not in _KINDS:
        raise ValueError(
            f"{source}: kind of device is {environment.get('kind')!r}; accepted: {_KINDS}: "
            "a dry run measures nothing"
        )
    recorded = environment.get("commit")
    if recorded and commit and not recorded.startswith(commit):
        raise ValueError(f"--commit is {commit}, but the report is of {recorded}")
    if not (recorded or commit):
        raise ValueError(f"{source}: the report does not know its commit; give it by --commit")
    name = (recorded or commit or "")[:_COMMIT_DIGITS]
    name += "-modified" if environment.get("dirty") else ""
    place = repository.results / slug(environment["name"]) / name
    files = [path for path in sorted(source.iterdir()) if _KEPT.fullmatch(path.name)]
    if place.resolve() != source.resolve():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for path in files:
            shutil.copy(path, place / path.name)
    if not (place / "report.md").exists():
        summarise(data, place)
    return place


def slug(name: str) -> str:
    """A device's name as a folder's: "NVIDIA H200" is "nvidia-h200"."""
    plain = re.sub(r"\((r|tm)\)", " ", name.lower())
    return re.sub(r"[^a-z0-9.]+", "-", plain).strip("-.")


def differences(wanted: dict[Path, str], root: Path) -> list[str]:
    """A diff of each document that is not as wanted."""
    lines: list[str] = []
    for path, text in wanted.items():
        name = path.relative_to(root).as_posix()
        found = path.read_text() if path.exists() else ""
        lines += difflib.unified_diff(
            found.splitlines(), text.splitlines(), name, f"{name}, as it has to be", lineterm=""
        )
    return lines


def main(argv: Sequence[str] | None = None, repository: Repository | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.performance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--add", type=Path, metavar="DIR", help="a folder with a report.json")
    parser.add_argument("--commit", help="with --add: where the report does not know it")
    arguments: Any = parser.parse_args(argv)
    repository = repository or Repository()
    try:
        if arguments.add:
            place = add(arguments.add, repository, arguments.commit)
            print(f"kept in {place.relative_to(repository.root)}")
        wanted = repository.documents()
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    found = differences(wanted, repository.root)
    if arguments.check:
        print("\n".join(found))
        if found:
            print("run python -m benchmarks.performance", file=sys.stderr)
        return int(bool(found))
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
