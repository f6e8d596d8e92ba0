"""Runs workloads: prepares the candidates, checks what they compute, times those that are right, reports each."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

from resnet_cuda.bench.ceilings import Ceilings
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.plan import Plan
from resnet_cuda.bench.timing import measure, ratio
from resnet_cuda.bench.workload import (
    ABSENT,
    FAILED,
    OK,
    SKIPPED,
    WRONG,
    Absent,
    Candidate,
    Result,
    Workload,
    result,
)

_USABLE_MEMORY = 0.9  # of what is free
_MAX_MESSAGE = 400


class Budget:
    """Seconds that are left of a run; None: as many as it takes."""

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = None if seconds is None else clock() + seconds

    def left(self) -> float:
        return float("inf") if self._end is None else self._end - self._clock()


class _Ready(NamedTuple):
    candidate: Candidate
    function: Callable[[], object]
    output: object
    first_call_seconds: float


class OutOfMemory(Exception):
    """A candidate did not fit."""


class Runner:
    """Hands each `Result` to `record` as soon as it is known, and remarks to `note`."""

    def __init__(
        self,
        device: Device,
        plan: Plan,
        record: Callable[[Result], None],
        note: Callable[[str], None] = lambda text: None,
        budget: Budget | None = None,
        ceilings: Ceilings | None = None,
    ) -> None:
        self.device, self.plan, self.record, self.note = device, plan, record, note
        self.budget = budget or Budget(None)
        self.ceilings = ceilings

    def run(self, workloads: Iterable[Workload]) -> None:
        """All that the plan wants, until the budget is spent; the rest is recorded as skipped."""
        with self.device.ours():
            for workload in workloads:
                if not self.plan.wants(workload):
                    continue
                if self.budget.left() <= 0:
                    for candidate in workload.candidates:
                        self.record(result(workload, candidate, SKIPPED, "no time left"))
                    continue
                self.run_one(workload)

    def run_one(self, workload: Workload) -> None:
        """One workload, with ever smaller batches until it fits."""
        while True:
            try:
                self._require_memory(workload)
                self._run(workload)
                return
            except OutOfMemory as error:
                self.device.release_memory()
                smaller = workload.smaller() if workload.smaller else None
                if smaller is None:
                    for candidate in workload.candidates:
                        self.record(result(workload, candidate, FAILED, str(error)))
                    return
                self.note(f"{workload.title}: {error}; {smaller.name} instead")
                workload = smaller

    def _require_memory(self, workload: Workload) -> None:
        free = self.device.free_memory()
        if workload.memory > _USABLE_MEMORY * free:
            raise OutOfMemory(
                f"needs at least {workload.memory / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free"
            )

    def _run(self, workload: Workload) -> None:
        rows: dict[str, Result] = {}
        ready: dict[str, _Ready] = {}
        for candidate in workload.candidates:
            row = rows[candidate.name] = result(workload, candidate, OK)
            if self.ceilings:
                row.floor_us = self.ceilings.floor(workload.dtype, workload.parts) * 1e6
                row.memory_share = self.ceilings.memory_share(workload.dtype, workload.parts)
            if candidate.preparing_seconds > self.budget.left():
                row.status, row.message = SKIPPED, "no time left"
                continue
            try:
                ready[candidate.name] = self._prepare(candidate)
            except Absent as error:
                row.status, row.message = ABSENT, str(error)
            except Exception as error:  # a peer may raise whatever it likes
                if self.device.is_out_of_memory(error):
                    raise OutOfMemory(f"{candidate.name} is out of memory") from error
                row.status, row.message = FAILED, _message(error)
        if workload.check:
            outputs = {name: r.output for name, r in ready.items()}
            for name, complaint in workload.check(outputs).items():
                rows[name].status, rows[name].message = WRONG, complaint
                del ready[name]
        ready = {name: r._replace(output=None) for name, r in ready.items()}
        try:
            self._time(ready, rows)
        except Exception as error:
            if self.device.is_out_of_memory(error):
                raise OutOfMemory("out of memory while timing") from error
            raise
        for row in rows.values():
            self.record(row)
        ready.clear()
        self.device.release_memory()

    def _prepare(self, candidate: Candidate) -> _Ready:
        start = self.device.now()
        function = candidate.prepare()
        output = function()
        self.device.synchronize()
        return _Ready(candidate, function, output, self.device.now() - start)

    def _time(self, ready: dict[str, _Ready], rows: dict[str, Result]) -> None:
        if not ready:
            return
        effort = self.plan.effort
        if effort.seconds > self.budget.left():
            effort = replace(effort, seconds=max(self.budget.left(), 0.0))
        timings = measure(self.device, {n: r.function for n, r in ready.items()}, effort)
        for name, timing in timings.items():
            rows[name].timing = timing.to_json()
            rows[name].first_call_seconds = ready[name].first_call_seconds
            rows[name].peak_memory = self.device.peak_memory(ready[name].function)
            if rows[name].ours:
                others = {n: t for n, t in timings.items() if not rows[n].ours}
                rows[name].versus = {n: ratio(t, timing) for n, t in others.items()}


def _message(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".strip()
    if not str(error):
        text += f" at {traceback.extract_tb(error.__traceback__)[-1].name}"
    return text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 4] + " ..."
