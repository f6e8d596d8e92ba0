"""The report of a run: one JSON file, rewritten after every result, so that a run that is cut off still counts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from resnet_cuda.bench.workload import Result

SCHEMA = 1


class Report:
    """What a run found.

    `data` holds: schema, kind ("bench" or "hardware_run"), started, seconds, finished, stopped_by, environment,
    results (as Result.to_json), notes, and whatever sections are set: ceilings, absent, probes, correctness, safety,
    training_step, traffic, ... One writer; `save` replaces the file in one step. `listener` is called with every
    addition, as ("result", row), ("note", text) or ("section", [name, value]).
    """

    def __init__(
        self,
        folder: Path | None,
        kind: str,
        environment: dict[str, Any],
        listener: Callable[[str, Any], None] = lambda what, value: None,
    ) -> None:
        self.folder, self._listener = folder, listener
        self._started = time.monotonic()
        self.data: dict[str, Any] = {
            "schema": SCHEMA,
            "kind": kind,
            "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "seconds": 0.0,
            "finished": False,
            "stopped_by": None,
            "environment": environment,
            "notes": [],
            "results": [],
        }
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self.save()

    @property
    def results(self) -> list[dict[str, Any]]:
        return self.data["results"]

    def add(self, result: Result | dict[str, Any]) -> None:
        row = result.to_json() if isinstance(result, Result) else result
        self.results.append(row)
        self._listener("result", row)
        self.save()

    def note(self, text: str) -> None:
        self.data["notes"].append(text)
        self._listener("note", text)
        self.save()

    def set(self, section: str, value: Any) -> None:
        self.data[section] = value
        self._listener("section", [section, value])
        self.save()

    def finish(self, stopped_by: str | None = None) -> None:
        """`stopped_by`: the signal or limit that cut the run off."""
        self.data["finished"] = stopped_by is None
        self.data["stopped_by"] = stopped_by
        self.save()

    def save(self) -> None:
        self.data["seconds"] = round(time.monotonic() - self._started, 1)
        if self.folder is not None:
            write_whole(self.folder / "report.json", json.dumps(self.data, indent=1) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Replaces the file in one step: whoever reads it sees the old text or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def load(path: Path) -> dict[str, Any]:
    """A report's data. Raises ValueError where the file is not a report of this version."""
    data = json.loads(path.read_text())
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{path.name}: schema is {found!r}; accepted: {SCHEMA}")
    return data


def ours(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our own results that have a time."""
    return [r for r in results if r["ours"] and r["timing"]]
