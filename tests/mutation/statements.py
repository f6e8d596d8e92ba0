"""Finds the synchronisation statements of the kernels, and makes mutants: sources that lack one of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Where kernels synchronise. A launcher or a wrapper of csrc/ptx does not.
FOLDERS = ("csrc/tile", "csrc/kernels", "tests/first_kernel", "tests/reference_kernels")

CALLS = "|".join(
    [
        r"__syncthreads|__syncwarp",
        r"barrier_(?:sync|arrive)",
        r"cp_async_(?:commit|wait_all|wait)",
        r"mbarrier_\w+",
        r"fence_\w+",
        r"wgmma_(?:fence|commit|wait)",
        r"tma_store_(?:commit|wait_read|wait)",
        r"cluster_(?:arrive|wait|sync)",
        r"grid_dependency_wait",
        # A ring's own operations, and the place in it.
        r"(?:\w+\.)*(?:\w+_)?ring\.\w+",
        r"release(?:_\w+)?",
        r"(?:\w+\.)+advance",
        # Threads that share a tile (tile/thread_group.cuh).
        r"(?:\w+::)+sync",
    ]
)
STATEMENT = re.compile(rf"(?<![\w.])(?:ptx::)?(?:{CALLS})(?:<[^;<>]*>)?\([^;{{}}]*\);")


@dataclass(frozen=True)
class Mutant:
    """A source file without one of its statements."""

    file: str  # relative to the repository
    line: int
    statement: str  # on one line
    occurrence: int  # among equal statements of the file, from 1
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.statement}"

    def source(self) -> str:
        text = (ROOT / self.file).read_text()
        return text[: self.start] + ";" + text[self.end :]


def mutants_of(file: Path) -> list[Mutant]:
    text = file.read_text()
    # Comments keep their length, so that positions hold.
    code = re.sub(r"//[^\n]*", lambda comment: " " * len(comment.group()), text)
    seen: dict[str, int] = {}
    found = []
    for match in STATEMENT.finditer(code):
        statement = " ".join(match.group().split())
        seen[statement] = seen.get(statement, 0) + 1
        line = text.count("\n", 0, match.start()) + 1
        name = file.relative_to(ROOT).as_posix()
        found.append(Mutant(name, line, statement, seen[statement], match.start(), match.end()))
    return found


def all_mutants() -> list[Mutant]:
    files = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.cu*"))
    return [mutant for file in files for mutant in mutants_of(file)]
