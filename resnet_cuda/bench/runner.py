"""Runs workloads: prepares the candidates, checks what they compute, times those that are right, reports each.

Nothing that one candidate does costs another its result. Memory: all candidates of a workload exist together, so that
they can take turns. What does not fit beside the others gets a turn of its own, with one companion from the other
side so that a ratio of the same rounds exists; a peer that does not fit even so has failed at this size, by name.
Only if none of ours fits is everything done with a smaller batch, and a note says so.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from resnet_cuda.bench.ceilings import Ceilings
from resnet_cuda.bench.device import CaptureFailed, Device, Unsupported
from resnet_cuda.bench.plan import Plan
from resnet_cuda.bench.timing import Timing, measure, quartiles, ratio, ratios
from resnet_cuda.bench.workload import (
    ABSENT,
    FAILED,
    OK,
    OURS,
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
# Of the rate of a large matrix product: Winograd's algorithm saves up to 4 of 5 products.
_MOST_OF_CEILING = 5.0
_NO_TIME = "no time left"

T = TypeVar("T")
Rows = dict[str, Result]


class Budget:
    """Seconds that are left of a run; None: as many as it takes."""

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = None if seconds is None else clock() + seconds

    def left(self) -> float:
        return float("inf") if self._end is None else self._end - self._clock()


class OutOfMemory(Exception):
    """The workload is too large for the device."""


@dataclass
class _Ready:
    """A candidate that has run once. `own_memory`: bytes that it holds between calls, None if unknown."""

    function: Callable[[], object]
    output: object
    own_memory: int | None


class _Failure(NamedTuple):
    status: str
    message: str
    out_of_memory: bool = False


class Runner:
    """Hands each `Result` to `record` as soon as its workload is done, even if that is interrupted; remarks to `note`;
    before each workload its title and how many are done to `progress`."""

    def __init__(
        self,
        device: Device,
        plan: Plan,
        record: Callable[[Result], None],
        note: Callable[[str], None] = lambda text: None,
        budget: Budget | None = None,
        ceilings: Ceilings | None = None,
        progress: Callable[[str, int], None] = lambda title, done: None,
    ) -> None:
        self.device, self.plan, self.record, self.note = device, plan, record, note
        self.budget = budget or Budget(None)
        self.ceilings, self.progress = ceilings, progress
        self._done = 0
        self._lost: str | None = None  # why the device takes no more work

    @property
    def lost(self) -> str | None:
        """Why the device takes no more work from this process; None as long as it does."""
        return self._lost

    def run(self, workloads: Iterable[Workload]) -> None:
        """All that the plan wants, until the budget is spent; the rest is recorded as skipped."""
        with self.device.ours(), _settled_heap():
            for workload in workloads:
                if not self.plan.wants(workload):
                    continue
                self.progress(workload.title, self._done)
                self.run_one(workload)
                self._done += 1

    def run_level(self, name: str, workloads: Callable[[], Iterable[Workload]]) -> None:
        """The workloads of a level. If making them fails, that is recorded as ours and the other levels go on."""
        try:
            self.run(workloads())
        except Exception as error:
            self.record(
                Result(name, "workloads", "", "", OURS, True, FAILED, message=_message(error))
            )

    def run_one(self, workload: Workload) -> None:
        """One workload, with ever smaller batches until ours fits."""
        while True:
            rows = self._rows(workload)
            try:
                self._compare(workload, rows)
                break
            except OutOfMemory as error:
                smaller = workload.smaller() if workload.smaller else None
                if smaller is None:
                    _settle(rows.values(), FAILED, str(error))
                    break
                self.note(f"{workload.title}: {error}; {smaller.name} instead")
                smaller.level, smaller.label = workload.level, workload.label
                workload = smaller
            except BaseException as error:
                _settle(rows.values(), SKIPPED, f"interrupted by {_message(error)}")
                self._record(rows)
                raise
        self._record(rows)
        self._release_memory()

    def _rows(self, workload: Workload) -> Rows:
        rows = {c.name: result(workload, c, OK) for c in workload.candidates}
        if len(rows) < len(workload.candidates):
            names = [c.name for c in workload.candidates]
            raise ValueError(f"{workload.title}: candidates' names must differ, they are {names}")
        if self.ceilings:
            floor = self.ceilings.floor(workload.dtype, workload.parts)
            memory_share = self.ceilings.memory_share(workload.dtype, workload.parts)
            for row in rows.values():
                row.floor_us, row.memory_share = floor * 1e6, memory_share
        return rows

    def _record(self, rows: Rows) -> None:
        for row in rows.values():
            self.record(row)

    def _compare(self, workload: Workload, rows: Rows) -> None:
        if self._lost or self.budget.left() <= 0:
            return _settle(rows.values(), SKIPPED, self._lost or _NO_TIME)
        free = self.device.free_memory()
        if workload.memory > _USABLE_MEMORY * free:
            raise OutOfMemory(
                f"needs at least {workload.memory / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free"
            )
        for candidate in self._compare_together(workload, workload.candidates, rows):
            self._release_memory()
            others = [c for c in workload.candidates if c.ours != candidate.ours]
            companion = [c for c in others if rows[c.name].timing][:1]
            if candidate in self._compare_together(workload, [candidate, *companion], rows):
                beside = "".join(f" beside {c.name}" for c in companion)
                self._does_not_fit(rows, candidate, f"out of memory{beside}")

    def _compare_together(
        self, workload: Workload, candidates: Sequence[Candidate], rows: Rows
    ) -> list[Candidate]:
        """Fills the candidates' rows, where they have no time yet, and our ratios; returns those candidates that do
        not fit beside the others."""
        ready: dict[str, _Ready] = {}
        aside: list[Candidate] = []
        for candidate in candidates:
            row = rows[candidate.name]
            if candidate.preparing_seconds > self.budget.left():
                _settle([row], SKIPPED, _NO_TIME)
                continue
            start = self.device.now()
            made, failure = self._attempt(lambda c=candidate: self._prepare(c))  # type: ignore[misc]
            if made:
                ready[candidate.name] = made
                row.first_call_seconds = row.first_call_seconds or self.device.now() - start
            elif failure and failure.out_of_memory and ready:
                aside.append(candidate)
            elif failure and failure.out_of_memory:
                self._does_not_fit(rows, candidate, failure.message)
            elif failure:
                _settle([row], failure.status, failure.message)
        outgrown = self._check(workload, ready, rows)
        outgrown |= self._time(workload, ready, rows)
        return aside + [c for c in candidates if c.name in outgrown]

    def _does_not_fit(self, rows: Rows, candidate: Candidate, message: str) -> None:
        """Not even with at most one other. That of a peer is the peer's failure; without ours there is nothing to
        compare."""
        if candidate.ours and not any(row.ours and row.timing for row in rows.values()):
            raise OutOfMemory(f"{candidate.name}: {message}")
        _settle([rows[candidate.name]], FAILED, message)
        self.note(f"{candidate.name}: {message} in {rows[candidate.name].workload}")

    def _prepare(self, candidate: Candidate) -> _Ready:
        before = self.device.allocated()
        function = candidate.prepare()
        output = function()
        self.device.synchronize()
        after = self.device.allocated()
        known = before is not None and after is not None
        return _Ready(function, output, after - before if known else None)  # type: ignore[operator]

    def _check(self, workload: Workload, ready: dict[str, _Ready], rows: Rows) -> set[str]:
        """Takes out of `ready` what computed something wrong, and lets go of the outputs; returns whose check ran out
        of memory beside the others."""
        outgrown: set[str] = set()
        if workload.check and ready:
            outputs = {name: r.output for name, r in ready.items()}
            complaints, failures = self._complaints(workload.check, outputs)
            for name, complaint in complaints.items():
                _call_wrong(rows, name, complaint)
            for name, failure in failures.items():
                if failure.out_of_memory:
                    outgrown.add(name)
                    continue
                message = f"its output cannot be checked: {failure.message}"
                _settle([rows[name]], failure.status, message)
            for name in complaints.keys() | failures.keys():
                ready.pop(name, None)
            outputs.clear()
        for candidate in ready.values():
            # What goes with the output is not the candidate's own; a graph's output, say, stays.
            before, candidate.output = self.device.allocated(), None
            after = self.device.allocated()
            if candidate.own_memory is not None and before is not None and after is not None:
                candidate.own_memory -= max(0, before - after)
        return outgrown

    def _complaints(
        self, check: Callable[[dict[str, object]], dict[str, str]], outputs: dict[str, object]
    ) -> tuple[dict[str, str], dict[str, _Failure]]:
        """What the check says; where it raises, also whose output makes it raise when it joins those before it."""
        complaints, failure = self._attempt(lambda: check(dict(outputs)))
        failures: dict[str, _Failure] = {}
        passed: dict[str, object] = {}
        for name, output in outputs.items() if failure else ():
            found, failure = self._attempt(lambda: check({**passed, name: output}))  # noqa: B023
            if failure:
                failures[name] = failure
            else:
                passed[name], complaints = output, found
        return complaints or {}, failures

    def _time(self, workload: Workload, ready: dict[str, _Ready], rows: Rows) -> set[str]:
        """Fills in the times; returns who ran out of memory beside the others."""
        if not ready:
            return set()
        failures: dict[str, _Failure] = {}
        left = max(self.budget.left(), 0.0)
        effort = replace(self.plan.effort, seconds=min(self.plan.effort.seconds, left))
        timings = measure(
            self.device,
            {name: r.function for name, r in ready.items()},
            effort,
            lambda name, error: failures.update({name: self._failure(error)}),
        )
        if workload.host_time:
            timings = {name: timing.on_host() for name, timing in timings.items()}
        for name, complaint in self._impossible(workload, timings).items():
            _call_wrong(rows, name, complaint)
            del timings[name]
        clocks = self.device.clocks()
        outgrown = {name for name, f in failures.items() if f.out_of_memory}
        for name in failures.keys() - outgrown:
            _settle([rows[name]], failures[name].status, failures[name].message)
        for name, timing in timings.items():
            row = rows[name]
            if row.timing is None:
                row.timing = timing.to_json()
                row.peak_memory = self._peak_memory(ready[name])
                if clocks:
                    row.facts["clocks"] = clocks
            if row.ours:
                others = {n: t for n, t in timings.items() if not rows[n].ours}
                row.versus |= {n: ratio(t, timing) for n, t in others.items()}
                row.versus_quartiles |= {n: quartiles(ratios(t, timing)) for n, t in others.items()}
        return outgrown

    def _impossible(self, workload: Workload, timings: Mapping[str, Timing]) -> dict[str, str]:
        """Who cannot have done the work, although its output is right: a compiler may have made it a constant."""
        arithmetic = 0.0
        if self.ceilings:
            arithmetic = self.ceilings.arithmetic(workload.dtype, workload.parts)
        return {
            name: f"takes {1e6 * timing.median:.3g} us, its arithmetic {1e6 * arithmetic:.3g} us at the measured rate: "
            "it does not do the work when it is called"
            for name, timing in timings.items()
            if timing.median * _MOST_OF_CEILING < arithmetic and not workload.host_time
        }

    def _peak_memory(self, ready: _Ready) -> int | None:
        """Bytes of this candidate alone: what it holds between calls and what one call needs at its peak."""
        before = self.device.allocated()
        peak, _ = self._attempt(lambda: self.device.peak_memory(ready.function))
        if peak is None or before is None or ready.own_memory is None:
            return None
        return max(0, ready.own_memory) + max(0, peak - before)

    def _attempt(self, action: Callable[[], T]) -> tuple[T | None, _Failure | None]:
        """What the action returns, or why it does not. A peer may raise whatever it likes, only an interrupt ends the
        run."""
        try:
            return action(), None
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            failure = self._failure(error)
        # Out here the error, and with it the frames that hold the failed action's tensors, are gone.
        if failure.out_of_memory:
            self._release_memory()
        return None, failure

    def _release_memory(self) -> None:
        if not self._lost:
            self._still_works(self.device.release_memory)

    def _still_works(self, action: Callable[[], None]) -> None:
        """Does it; if it raises, an illegal access, say, lies behind, and all later calls would fail for it."""
        try:
            action()
        except Exception as lost:
            self._lost = f"the device takes no more work: {_message(lost)}"
            self.note(self._lost)

    def _failure(self, error: BaseException) -> _Failure:
        if self._lost:
            return _Failure(SKIPPED, self._lost)
        if isinstance(error, Absent):
            return _Failure(ABSENT, str(error))
        if isinstance(error, Unsupported) and not isinstance(error, CaptureFailed):
            return _Failure(ABSENT, str(error))
        if self.device.is_out_of_memory(error):
            return _Failure(FAILED, f"out of memory ({_message(error)})", out_of_memory=True)
        self._still_works(self.device.synchronize)
        return _Failure(FAILED, _message(error))


@contextmanager
def _settled_heap() -> Iterator[None]:
    """Leaves what there is already out of the collections inside, of which memory needs two per workload: torch's
    modules alone take more than 0.1 s each time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _settle(rows: Iterable[Result], status: str, message: str) -> None:
    """The status of those rows for which nothing has been found out."""
    for row in rows:
        if row.status == OK and row.timing is None:
            row.status, row.message = status, message


def _call_wrong(rows: Rows, name: str, complaint: str) -> None:
    wrong = rows[name]
    wrong.status, wrong.message, wrong.timing = WRONG, complaint, None
    wrong.versus, wrong.versus_quartiles = {}, {}
    for row in rows.values():  # it may have been right, and timed, in an earlier turn
        row.versus.pop(name, None)
        row.versus_quartiles.pop(name, None)


def _message(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".strip()
    if not str(error):
        frames = traceback.extract_tb(error.__traceback__)
        text += f" at {frames[-1].name}" if frames else ""
    return text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 4] + " ..."
