"""The report of a run: one JSON file, kept up to date while it runs, so that a run that is cut off still counts."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from resnet_cuda.bench.workload import Result

SCHEMA = 1
_SECONDS_BETWEEN_SAVES = 1.0
# An absolute path of at least two parts; errors of compilers and of the loader are full of them.
_PATH = re.compile(r"(?<![\w.:/])(?:/[\w.+\-@]+){2,}")


class Stopped(KeyboardInterrupt):
    """A signal asked the run to end. Like an interrupt from the keyboard, it is no candidate's failure."""

    def __init__(self, signal_name: str) -> None:
        super().__init__(signal_name)
        self.signal_name = signal_name


class Report:
    """What a run found.

    `data` holds: schema, kind ("bench" or "hardware_run"), started, seconds, finished, stopped_by, environment,
    results (as Result.to_json), notes, and whatever sections are set: ceilings, peers, harness, probes, correctness,
    safety, training_step, traffic, ... Values become plain JSON: what is no number is null, of a path in a text the
    last part stays. A row is final once it is added.

    The file is replaced in one step, at most once a second and at the end: a run that is killed loses what it
    found in its last second. `listener` is called with every addition, as ("result", row), ("note", text) or
    ("section", [name, value]).
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
            "environment": plain(environment),
            "notes": [],
            "results": [],
        }
        self._rows: list[str] = []  # the results as JSON: encoding all anew would be slow
        self._lock = threading.RLock()
        self._last_save = float("-inf")
        self._later: threading.Timer | None = None
        self.unsaved = ""  # why the file lacks what was found last
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "report.json", self._text())
        self.save()

    @property
    def results(self) -> list[dict[str, Any]]:
        """The rows, to be read."""
        return self.data["results"]

    def add(self, result: Result | dict[str, Any]) -> None:
        row = plain(result.to_json() if isinstance(result, Result) else result)
        with self._lock:
            self.results.append(row)
            self._rows.append(json.dumps(row))
        self._listener("result", row)
        self._save_soon()

    def note(self, text: str) -> None:
        text = plain(text)
        with self._lock:
            self.data["notes"].append(text)
        self._listener("note", text)
        self._save_soon()

    def set(self, section: str, value: Any) -> None:
        value = plain(value)
        with self._lock:
            self.data[section] = value
        self._listener("section", [section, value])
        self._save_soon()

    def finish(self, stopped_by: str | None = None) -> None:
        """`stopped_by`: the signal or limit that cut the run off."""
        with self._lock:
            self.data["finished"] = stopped_by is None
            self.data["stopped_by"] = plain(stopped_by)
            self.save()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Finishes the report however the enclosed run ends; SIGTERM and SIGHUP end it as an interrupt from the
        keyboard does, by raising Stopped, a KeyboardInterrupt."""

        def stop(number: int, frame: FrameType | None) -> None:
            raise Stopped(signal.Signals(number).name)

        in_main_thread = threading.current_thread() is threading.main_thread()
        before = {}
        for number in (signal.SIGTERM, signal.SIGHUP) if in_main_thread else ():
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
                before[number] = signal.signal(number, stop)
        try:
            yield
        except BaseException as error:
            self.finish(_why(error))
            raise
        else:
            self.finish()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def save(self) -> None:
        """Writes the file now. What cannot be written, to a full disk, say, is written the next time; until then
        `unsaved` says why."""
        with self._lock:
            if self._later:
                self._later.cancel()
                self._later = None
            self.data["seconds"] = round(time.monotonic() - self._started, 1)
            if self.folder is not None:
                try:
                    write_whole(self.folder / "report.json", self._text())
                    self.unsaved = ""
                except OSError as error:
                    self.unsaved = error.strerror or str(error)
            self._last_save = time.monotonic()

    def _save_soon(self) -> None:
        with self._lock:
            wait = self._last_save + _SECONDS_BETWEEN_SAVES - time.monotonic()
            if wait <= 0:
                self.save()
            elif self._later is None and self.folder is not None:
                self._later = threading.Timer(wait, self.save)
                self._later.daemon = True
                self._later.start()

    def _text(self) -> str:
        others = {name: value for name, value in self.data.items() if name != "results"}
        head = json.dumps(others, indent=1).removesuffix("\n}")
        rows = ",\n  ".join(self._rows)
        return f'{head},\n "results": [\n  {rows}\n ]\n}}\n'


def _why(error: BaseException) -> str:
    if isinstance(error, Stopped):
        return error.signal_name
    return "SIGINT" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"


def plain(value: Any) -> Any:
    """The value in JSON's types: what is no number or infinite is None, paths in texts lose their folders."""
    if isinstance(value, dict):
        return {plain(str(key)): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each) for each in value]
    if isinstance(value, (bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item") and not isinstance(value, str):  # a scalar of numpy or torch
        return plain(value.item())
    return _PATH.sub(lambda found: found[0].rpartition("/")[2], str(value))


def write_whole(path: Path, text: str) -> None:
    """Replaces the file in one step: whoever reads it sees the old text or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):  # a disk that is full has no room for half of a text
            temporary.unlink()
        raise


def load(path: Path) -> dict[str, Any]:
    """A report's data. Raises ValueError where the file is not a report of this version."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name}: is not JSON ({error}); accepted: a report.json") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{path.name}: schema is {found!r}; accepted: {SCHEMA}")
    return data


def ours(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our own results that have a time."""
    return [r for r in results if r["ours"] and r["timing"]]
