"""Runs stages one after another and writes down what they find. Nothing that a stage does can stop the others."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.hardware.affected import ROOT, Selection
from benchmarks.hardware.process import Process, how_it_ended
from benchmarks.hardware.protocol import FAILED, OK, RESTART, SKIPPED, Row, heard
from benchmarks.hardware.scrub import Scrubber
from benchmarks.hardware.stages import Stage
from resnet_cuda.bench.publish import Summariser
from resnet_cuda.bench.report import Report
from resnet_cuda.bench.workload import WRONG

TIMED_OUT, CUT_OFF, RUNNING = "timed out", "cut off", "running"
_LEAST_SECONDS = 5.0  # less is not worth a start
_CHECK_SECONDS = 60.0  # a check that says nothing for so long has hung
_DRY_PATIENCE = 3.0  # times a stage's limit: emulated kernels on a busy CPU
_FAREWELL_SECONDS = 3.0  # for a stage to say what it has, once it was told to stop
_MAX_RESTARTS = 8
_MAX_LOG = 4 * 2**20
_TAIL_LINES = 8


@dataclass(frozen=True)
class Options:
    """device: "cuda" or "dry-run". seconds: for all stages together. environment: of their processes."""

    device: str
    seconds: float
    selection: Selection = Selection()
    rebuild: bool = False
    environment: Mapping[str, str] | None = None


class Log:
    """A text file of at most 4 MiB; None: nowhere."""

    def __init__(self, file: IO[str] | None) -> None:
        self._file, self._written = file, 0

    @property
    def full(self) -> bool:
        return self._file is None or self._written > _MAX_LOG

    def write(self, text: str) -> None:
        if self._file is None or self.full:
            return
        self._written += len(text.encode())
        if self._written > _MAX_LOG:
            text = "\nThe log ends here: it has reached its limit.\n"
        try:
            self._file.write(text)
            self._file.flush()
        except OSError:  # a full disk; the report is worth more
            self._file = None


class Conductor:
    """Args:
    report: all that stages find goes there, scrubbed of paths; this is its only writer.
    """

    def __init__(
        self, stages: Sequence[Stage], options: Options, report: Report, log: Log, scrub: Scrubber
    ) -> None:
        self.stages, self.options, self.report = stages, options, report
        self._log, self._scrub = log, scrub
        self._end = time.monotonic() + options.seconds
        self._summariser = Summariser()
        self._entries: list[dict[str, Any]] = []
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self.out_of_time = False

    def run(self) -> None:
        for stage in self.stages:
            entry = {"name": stage.name, "status": RUNNING, "seconds": 0.0, "message": ""}
            self._entries.append(entry)
            self._save_stages()
            start = time.monotonic()
            attempt = _Attempt(self, stage)
            try:
                entry["status"], entry["message"] = self._run(stage, attempt)
            except BaseException:
                entry["status"], entry["message"] = CUT_OFF, attempt.summary()
                raise
            finally:
                entry["seconds"] = round(time.monotonic() - start, 1)
                self._save_stages()
                self._tell(entry)

    def left(self) -> float:
        return self._end - time.monotonic()

    def _run(self, stage: Stage, attempt: _Attempt) -> tuple[str, str]:
        """(status, message) of the stage."""
        if why := self._impossible(stage):
            return SKIPPED, why
        limit = stage.limit * (_DRY_PATIENCE if self.options.device == "dry-run" else 1)
        deadline = time.monotonic() + min(limit, self.left())
        if self.left() < limit:
            limit_is = "no time left"
        else:
            limit_is = f"the stage's limit of {limit:.0f} s"
        for restarts in range(1 + _MAX_RESTARTS):
            seconds = deadline - time.monotonic()
            if restarts and seconds < _LEAST_SECONDS:
                break
            ended = attempt.start(seconds)
            if ended is not None:
                return ended
        else:
            return FAILED, f"{attempt.summary()}; given up after {_MAX_RESTARTS} new processes"
        self.out_of_time |= limit_is == "no time left"
        return TIMED_OUT, "; ".join(filter(None, [attempt.summary(), f"stopped: {limit_is}"]))

    def _impossible(self, stage: Stage) -> str:
        if why := self.report.data.get("unusable"):
            return why
        built = self.report.data.get("build") or {}
        for part in stage.needs:
            if why := built.get(part):
                return f"needs the {part}: {why}"
        if self.left() < _LEAST_SECONDS:
            self.out_of_time = True
            return "no time left"
        return ""

    def command(self, stage: Stage, seconds: float, skip: int) -> list[str]:
        options = self.options
        command = [*stage.command, stage.name, "--device", options.device]
        command += ["--seconds", f"{seconds:.1f}", "--skip", str(skip)]
        for name in ("ops", "passes"):
            if (chosen := getattr(options.selection, name)) is not None:
                command += [f"--{name}", *sorted(chosen)]
        if options.rebuild:
            command.append("--rebuild")
        if ceilings := self.report.data.get("ceilings"):
            command += ["--ceilings", json.dumps(ceilings)]
        return command

    def hear(self, stage: Stage, what: str, value: Any) -> None:
        """Files an addition to the report."""
        value = self._scrub.value(value)
        if what == "result":
            self.report.add(value)
        elif what == "note":
            self.report.note(value)
        elif what == "plan":
            self.report.set("plans", [*self.report.data.get("plans", []), value])
        elif what == "section":
            name, content = value
            self.report.set(name, content)
            if name == "build" and content.get("about"):
                environment = {**self.report.data["environment"], "build": content["about"]}
                self.report.set("environment", environment)
        self._summariser.note(self.report)

    def add_row(self, stage: Stage, row: Row) -> None:
        row.stage = stage.name
        section = stage.section or "checks"
        rows = self._rows.setdefault(section, [])
        rows.append(self._scrub.value(asdict(row)))
        self.report.set(section, rows)
        if stage.counted:
            counts: dict[str, int] = {}
            for each in rows:
                if each["stage"] == stage.name:
                    counts[each["status"]] = counts.get(each["status"], 0) + 1
            self.report.set("probes", {self._backend(): counts})
        self._summariser.note(self.report)

    def log(self, text: str) -> None:
        if not self._log.full:
            self._log.write(self._scrub.text(text))

    def scrubbed(self, text: str) -> str:
        return self._scrub.text(text)

    def _backend(self) -> str:
        return "cuda" if self.options.device == "cuda" else "emulated"

    def _save_stages(self) -> None:
        self.report.set("stages", self._entries)

    def _tell(self, entry: Mapping[str, Any]) -> None:
        line = (
            f"{entry['name']:18} {entry['status']:10} {entry['seconds']:6.1f} s  {entry['message']}"
        )
        print(line.rstrip(), flush=True)


class _Attempt:
    """The processes of one stage: where one ends in the middle of a check, another goes on behind it."""

    def __init__(self, conductor: Conductor, stage: Stage) -> None:
        self._conductor, self._stage = conductor, stage
        self.done = 0  # checks or workloads
        self._workload = ""  # the one that is measured
        self._died = ""  # in which workloads, and how
        self._current: str | None = None
        self._counts: dict[str, int] = {}
        self._results: dict[str, int] = {}
        self._wrong = False  # whether a result of ours is
        self._tail: list[str] = []

    def start(self, seconds: float) -> tuple[str, str] | None:
        """Runs a process for at most so long. (status, message) if the stage is over; None if another one may go
        on, or if the time is up."""
        self._conductor.log(f"\n=== {self._stage.name}, {seconds:.0f} s\n")
        command = self._conductor.command(self._stage, seconds, self.done)
        process = Process(command, ROOT, self._conductor.options.environment)
        try:
            stopped = self._listen(process, time.monotonic() + seconds)
            status = process.end()
        finally:
            process.kill()
        if stopped == "deadline":
            return None
        if stopped == "check":
            self._fail(f"no answer within {_CHECK_SECONDS:.0f} s")
            return None
        if status == 0:
            wrong = self._wrong or self._died or self._counts.get(FAILED)
            return (FAILED if wrong else OK), self.summary()
        if status == RESTART:
            return None
        if self._current is not None:
            self._fail(f"the process {how_it_ended(status)}")
            return None
        if self._workload and status < 0:
            self._died += f"; the process {how_it_ended(status)} in {self._workload}"
            self._workload = ""
            return None
        last = self._conductor.scrubbed(self._tail[-1].strip()) if self._tail else ""
        how = f"the process {how_it_ended(status)}" + (f": {last[-300:]}" if last else "")
        return FAILED, "; ".join(filter(None, [self.summary(), how]))

    def summary(self) -> str:
        """Checks and results by status, and what a process died of: "412 ok, 3 skipped"."""
        counts = {**self._counts, **self._results}
        return (", ".join(f"{n} {s}" for s, n in counts.items()) + self._died).removeprefix("; ")

    def _listen(self, process: Process, deadline: float) -> str:
        """Until the process ends; says what stopped it otherwise, "deadline" or "check"."""
        stopped = ""
        check_end = float("inf")
        while True:
            try:
                line = process.line(min(deadline, check_end) - time.monotonic())
            except TimeoutError:
                if stopped:
                    return stopped
                stopped = "check" if check_end < deadline else "deadline"
                process.ask_to_end()
                deadline, check_end = time.monotonic() + _FAREWELL_SECONDS, float("inf")
                continue
            if line is None:
                return stopped
            self._hear(line)
            if not stopped:
                check_end = float("inf")
                if self._current is not None:
                    check_end = time.monotonic() + _CHECK_SECONDS

    def _hear(self, line: str) -> None:
        record = heard(line)
        if record is None:
            self._tail = [*self._tail, line][-_TAIL_LINES:] if line.strip() else self._tail
            self._conductor.log(line)
            return
        what, value = record
        if what == "begin":
            self._current = value
        elif what == "progress":
            self.done += 1
            self._workload = self._conductor.scrubbed(value)
            self._conductor.log(f"{self.done}: {value}\n")
        elif what == "check":
            self._add(Row(**value))
        else:
            if what == "result":
                status = value["status"]
                self._results[status] = self._results.get(status, 0) + 1
                self._wrong |= bool(value["ours"]) and status in (WRONG, FAILED)
            self._conductor.hear(self._stage, what, value)

    def _fail(self, message: str) -> None:
        assert self._current is not None
        self._add(Row(self._current, FAILED, message))

    def _add(self, row: Row) -> None:
        self.done += 1
        self._current = None
        self._counts[row.status] = self._counts.get(row.status, 0) + 1
        self._conductor.log(f"{row.status}: {row.name} {row.message}\n")
        self._conductor.add_row(self._stage, row)


def child_environment(device: str, temporary: Path) -> dict[str, str]:
    """Compilers' caches begin empty, unless the caller has some; a dry run leaves other processes their cores.

    The checkout is what is imported, whatever PYTHONSAFEPATH says, and PYTHONOPTIMIZE is taken away: the checks assert.
    """
    environment = dict(os.environ)
    environment.pop("PYTHONOPTIMIZE", None)
    path = [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    if folder := environment.get("RNC_TEST_LIB_DIR"):  # stages run in the checkout
        environment["RNC_TEST_LIB_DIR"] = os.path.abspath(folder)
    environment.setdefault("TORCHINDUCTOR_CACHE_DIR", str(temporary / "inductor"))
    environment.setdefault("TRITON_CACHE_DIR", str(temporary / "triton"))
    if device == "dry-run":
        environment.setdefault("OMP_NUM_THREADS", "1")
    return environment
