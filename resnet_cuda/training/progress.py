"""A progress bar: rich's where it is installed, else one line that rewrites itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[str], None]


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Advance]:
    """Yields `advance(note)`, to be called `total` times."""
    try:
        from rich import progress
    except ImportError:
        progress = None  # type: ignore[assignment]
    if progress is None or not sys.stdout.isatty():
        yield from _plain_bar(title, total)
        return
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[note]}"),
    )
    with progress.Progress(*columns) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda note: bar.update(task, advance=1, note=note)


def _plain_bar(title: str, total: int, width: int = 30) -> Iterator[Advance]:
    done = 0
    interactive = sys.stdout.isatty()

    def advance(note: str) -> None:
        nonlocal done
        done += 1
        # A log file gets about ten lines instead of one per step.
        if not interactive and done != total and done % max(1, total // 10):
            return
        filled = width * done // total
        bar = "#" * filled + "-" * (width - filled)
        end = "" if interactive else "\n"
        print(f"{chr(13) if interactive else ''}{title} [{bar}] {done}/{total} {note}", end=end)
        sys.stdout.flush()

    yield advance
    if interactive:
        print()
