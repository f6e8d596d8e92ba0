"""What lies beside report.json: report.md and the pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from resnet_cuda.bench import plots
from resnet_cuda.bench.markdown import markdown
from resnet_cuda.bench.report import Report, write_whole

_SECONDS_BETWEEN_SUMMARIES = 10.0


def publish(data: Mapping[str, Any], folder: Path) -> list[str]:
    """Writes report.md and the pictures; returns remarks, e.g. that matplotlib is missing or the disk is full."""
    try:
        summarise(data, folder)  # pictures take seconds in which a second interrupt may come
        remarks = plots.draw(data, folder)
        summarise(data, folder, [name for name in plots.PICTURES if (folder / name).exists()])
    except OSError as error:
        return [f"report.md and the pictures are not complete: {error.strerror}"]
    return remarks


def summarise(data: Mapping[str, Any], folder: Path, pictures: Sequence[str] = ()) -> None:
    """Writes report.md."""
    write_whole(folder / "report.md", markdown(data, pictures))


class Summariser:
    """Rewrites report.md now and then while a run adds to its report; `note` is called with every addition."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, clock()

    def note(self, report: Report) -> None:
        if report.folder and self._clock() - self._last > _SECONDS_BETWEEN_SUMMARIES:
            self._last = self._clock()
            with suppress(OSError):  # `publish` tells, in the end
                summarise(report.data, report.folder)
