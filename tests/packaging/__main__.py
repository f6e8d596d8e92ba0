"""One wheel for every torch: builds it, installs it into an environment of each torch, and runs the basic test and
`resnet_cuda check` there; ends with a table, and with exit code 1 where anything failed.

    python -m tests.packaging                      # the oldest torch, the one here, and the newest release
    python -m tests.packaging 2.12.0 newest
    python -m tests.packaging --sdist              # the wheel is compiled from the unpacked source distribution
    python -m tests.packaging --environments oldest   # makes what is missing of them and stops

Environments are kept in $RNC_ENVIRONMENTS (build/environments). One whose torch brings CUDA takes 5 GB.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.packaging.distributions import (
    OLDEST_TORCH,
    RUNNING_TORCH,
    Environment,
    build_sdist,
    build_wheel,
    newest_torch,
    unpack,
)

COLUMNS = ("torch", "environment", "MB", "install", "basic test", "check")


def measured(step: Callable[[], object]) -> str:
    """Runs a step; how long it took, and how much CPU time that was."""
    wall, cpu = time.perf_counter(), _cpu_seconds()
    step()
    return f"{time.perf_counter() - wall:.0f} s ({_cpu_seconds() - cpu:.0f} s CPU)"


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def version(name: str) -> str:
    """The release of torch that is meant by a word, or is named itself."""
    if name == "newest":
        return newest_torch()
    return {"oldest": OLDEST_TORCH, "here": RUNNING_TORCH}.get(name, name)


def made(environment: Environment) -> str:
    """Makes the environment where it is missing; what that took."""
    return "kept" if environment.exists() else measured(environment.make)


def row(environment: Environment, wheel: Path, folder: Path) -> tuple[list[str], bool]:
    """The table's cells, and whether everything passed; what fails is printed, and nothing behind it is run."""
    cells = [environment.torch]
    steps: list[Callable[[], str]] = [
        lambda: made(environment),
        lambda: str(environment.megabytes()),
        lambda: measured(lambda: environment.install(wheel)),
        lambda: measured(lambda: environment.smoke(folder)),
        lambda: measured(lambda: environment.check(folder)),
    ]
    for step in steps:
        try:
            cells.append(step())
        except RuntimeError as error:
            print(error, flush=True)
            cells.append("FAILED")
            break
    return cells + [""] * (len(COLUMNS) - len(cells)), "FAILED" not in cells


def build(folder: Path, from_sdist: bool) -> Path:
    """The wheel; of the unpacked source distribution all of it is compiled."""
    built: list[Path] = []
    if from_sdist:
        tree = unpack(build_sdist(folder), folder / "unpacked")
        took = measured(lambda: built.append(build_wheel(folder, tree)))
    else:
        took = measured(lambda: built.append(build_wheel(folder)))
    origin = "the source distribution" if from_sdist else "this tree"
    print(f"{built[0].name}: {built[0].stat().st_size >> 20} MB, of {origin} in {took}", flush=True)
    return built[0]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.packaging",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("torch", nargs="*", help="versions, 'oldest', 'here' or 'newest'")
    parser.add_argument("--sdist", action="store_true", help="build from the source distribution")
    parser.add_argument("--environments", action="store_true", help="only make environments")
    arguments = parser.parse_args()
    names = arguments.torch or ["oldest", "here", "newest"]
    environments = [Environment(name) for name in dict.fromkeys(map(version, names))]
    if arguments.environments:
        for environment in environments:
            print(f"torch {environment.torch}: {made(environment)}", flush=True)
        return 0
    rows, passed = [list(COLUMNS)], True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wheel = build(folder, arguments.sdist)
        for environment in environments:
            cells, right = row(environment, wheel, folder)
            rows.append(cells)
            passed &= right
            print(f"torch {environment.torch}: {'passed' if right else 'FAILED'}", flush=True)
    for cells in rows:
        print("| " + " | ".join(cells) + " |")
        if cells is rows[0]:
            print("|" + "---|" * len(COLUMNS))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
