"""The runner: what candidates do to it, and that everyone's result is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from resnet_cuda.bench.ceilings import Ceilings
from resnet_cuda.bench.device import CpuDevice, DryRunDevice
from resnet_cuda.bench.runner import Budget, Runner
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
)
from tests.bench.candidates import MS, PLAN, Recorder, candidate, statuses, workload
from tests.bench.fake_cuda import FakeGpu

GIB = 2**30
PEER = "eager NCHW"


def raiser(error: BaseException):  # type: ignore[no-untyped-def]
    def raise_it() -> None:
        raise error

    return raise_it


def test_rows_hold_times_ratios_and_memory(gpu: FakeGpu, recorder: Recorder) -> None:
    rows = recorder.run(
        workload(
            [
                candidate(gpu, OURS, 1 * MS, holds=100, needs=1000),
                candidate(gpu, PEER, 1.5 * MS, holds=300, needs=4000),
            ]
        )
    )
    assert statuses(rows) == {OURS: OK, PEER: OK}
    assert rows[OURS].median_us == pytest.approx(1000)
    assert rows[OURS].versus == {PEER: pytest.approx(1.5)}
    assert rows[OURS].versus_quartiles == {PEER: (pytest.approx(1.5), pytest.approx(1.5))}
    assert rows[PEER].versus == {}
    assert [rows[name].peak_memory for name in (OURS, PEER)] == [1100, 4300], (
        "the memory of a candidate is its own, whoever else is there"
    )
    assert rows[OURS].first_call_seconds and rows[OURS].first_call_seconds > 1 * MS
    assert gpu.allocated < 2 * GIB, "what the candidates held was not let go"


# Deliberately slow, deliberately wrong.


def test_a_slow_kernel_of_ours_shows_in_the_ratio(gpu: FakeGpu, recorder: Recorder) -> None:
    rows = recorder.run(workload([candidate(gpu, OURS, 2 * MS), candidate(gpu, PEER, 1 * MS)]))
    assert rows[OURS].versus[PEER] == pytest.approx(0.5)


def test_a_wrong_kernel_is_not_timed_and_the_error_is_told(
    gpu: FakeGpu, recorder: Recorder
) -> None:
    rows = recorder.run(workload([candidate(gpu, OURS, 0.1 * MS, value=1.5), candidate(gpu, PEER)]))
    wrong = rows[OURS]
    assert (wrong.status, wrong.timing, wrong.versus) == (WRONG, None, {})
    assert wrong.message == "largest error 0.5, 1e-3 allowed"
    assert rows[PEER].status == OK and rows[PEER].timing


def test_who_is_faster_than_arithmetic_has_not_done_it(gpu: FakeGpu, recorder: Recorder) -> None:
    recorder.runner.ceilings = Ceilings(1e12, {"float32": 1e9})
    folded = candidate(gpu, PEER, MS / 100)
    work = workload([candidate(gpu, OURS, MS), folded])
    work.parts = [(10**6, 10)]  # a millisecond
    rows = recorder.run(work)
    assert statuses(rows) == {OURS: OK, PEER: WRONG} and rows[PEER].timing is None
    assert "does not do the work" in rows[PEER].message and rows[OURS].versus == {}
    work.host_time = True
    assert statuses(recorder.run(work)) == {OURS: OK, PEER: OK}, (
        "calls return before the work is done"
    )


def test_a_peer_that_is_wrong_does_not_count_as_a_rival(gpu: FakeGpu, recorder: Recorder) -> None:
    rows = recorder.run(
        workload([candidate(gpu, OURS), candidate(gpu, PEER, 0.1 * MS, value=float("nan"))])
    )
    assert statuses(rows) == {OURS: OK, PEER: WRONG} and rows[OURS].versus == {}


# Peers that raise.


@pytest.mark.parametrize("where", ["prepare", "run"])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("no algorithm"), "RuntimeError: no algorithm"),
        (SystemExit(1), "SystemExit: 1"),
        (AssertionError(), "AssertionError: at raise_it"),
        (RuntimeError("x" * 5000), "RuntimeError: " + "x" * 382 + " ..."),
    ],
)
def test_a_peer_that_raises_has_failed_and_the_rest_goes_on(
    gpu: FakeGpu, recorder: Recorder, where: str, error: BaseException, message: str
) -> None:
    bad = candidate(gpu, "bad", **{where: raiser(error)})  # type: ignore[arg-type]
    rows = recorder.run(workload([candidate(gpu, OURS), bad, candidate(gpu, PEER)]))
    assert statuses(rows) == {OURS: OK, "bad": FAILED, PEER: OK}
    assert " ".join(rows["bad"].message.split()) == " ".join(message.split())
    assert set(rows[OURS].versus) == {PEER}


def test_a_peer_that_raises_only_while_it_is_timed_has_failed(
    gpu: FakeGpu, recorder: Recorder
) -> None:
    calls = iter(range(100))

    def third_time_unlucky() -> None:
        if next(calls) == 5:
            raise RuntimeError("third time unlucky")

    bad = candidate(gpu, "bad", run=third_time_unlucky)
    rows = recorder.run(workload([candidate(gpu, OURS), bad, candidate(gpu, PEER, 2 * MS)]))
    assert statuses(rows) == {OURS: OK, "bad": FAILED, PEER: OK}
    assert rows["bad"].timing is None and "third time" in rows["bad"].message
    assert rows[OURS].versus == {PEER: pytest.approx(2)}


def test_absent_and_unsupported_are_told_apart_from_failed(gpu: FakeGpu) -> None:
    cpu = CpuDevice()
    found: list[Result] = []
    peers = [
        candidate(gpu, "package", prepare=raiser(Absent("apex is not installed"))),
        Candidate("graph", lambda: cpu.graph(lambda: None)),
    ]
    Runner(cpu, PLAN, found.append).run([workload(peers)])
    assert [(r.status, r.message) for r in found] == [
        (ABSENT, "apex is not installed"),
        (ABSENT, f"{cpu.name} has no CUDA graphs"),
    ]


def test_a_capture_that_fails_is_a_failure(gpu: FakeGpu, recorder: Recorder) -> None:
    device = recorder.runner.device
    bad = Candidate("resnet_cuda + graph", lambda: device.graph(device.synchronize), ours=True)
    rows = recorder.run(workload([candidate(gpu, OURS), bad]))
    assert statuses(rows) == {OURS: OK, bad.name: FAILED}
    assert "cannot be captured" in rows[bad.name].message


def test_an_output_that_breaks_the_check_fails_its_candidate_alone(
    gpu: FakeGpu, recorder: Recorder
) -> None:
    bad = Candidate("bad", lambda: lambda: "not a tensor")
    wrong = candidate(gpu, "wrong", value=3)
    rows = recorder.run(workload([candidate(gpu, OURS), bad, wrong, candidate(gpu, PEER)]))
    assert statuses(rows) == {OURS: OK, "bad": FAILED, "wrong": WRONG, PEER: OK}
    assert rows["bad"].message.startswith("its output cannot be checked: ValueError")


def test_a_lost_device_is_blamed_on_one_candidate_only(gpu: FakeGpu, recorder: Recorder) -> None:
    bad = candidate(gpu, "bad", run=lambda: gpu.fail_later("CUDA error: illegal memory access"))
    later = workload([candidate(gpu, OURS)], "later")
    rows = recorder.run(workload([candidate(gpu, OURS), bad, candidate(gpu, PEER)], "first"), later)
    assert rows["bad"].status == FAILED and "illegal memory" in rows["bad"].message
    assert rows[PEER].status == SKIPPED and "takes no more work" in rows[PEER].message
    assert recorder.results[-1].workload == "later" and recorder.results[-1].status == SKIPPED
    assert len(recorder.notes) == 1


# Interrupts.


def test_an_interrupt_keeps_what_is_known_and_ends_the_run(
    gpu: FakeGpu, recorder: Recorder
) -> None:
    stop = candidate(gpu, "slow peer", prepare=raiser(KeyboardInterrupt()))
    absent = candidate(gpu, "absent", prepare=raiser(Absent("not here")))
    with pytest.raises(KeyboardInterrupt):
        recorder.run(
            workload([candidate(gpu, OURS)], "first"),
            workload([candidate(gpu, OURS), absent, stop], "second"),
            workload([candidate(gpu, OURS)], "third"),
        )
    assert [(r.workload, r.candidate, r.status) for r in recorder.results] == [
        ("first", OURS, OK),
        ("second", OURS, SKIPPED),
        ("second", "absent", ABSENT),
        ("second", "slow peer", SKIPPED),
    ]
    assert "interrupted" in recorder.results[1].message


# The plan and the budget.


def test_what_there_is_no_time_for_is_listed_as_skipped(gpu: FakeGpu) -> None:
    budget = Budget(0.1, lambda: gpu.now)
    recorder = Recorder(gpu, budget=budget)
    slow_to_prepare = candidate(gpu, "compile", preparing_seconds=60.0)
    titles = [f"w{i}" for i in range(4)]
    recorder.runner.run(workload([candidate(gpu, OURS), slow_to_prepare], t) for t in titles)
    rows = [(r.workload, r.candidate, r.status) for r in recorder.results]
    assert rows[:2] == [("w0", OURS, OK), ("w0", "compile", SKIPPED)]
    assert rows[-1] == ("w3", "compile", SKIPPED) and rows[-2] == ("w3", OURS, SKIPPED)
    assert all(r.message == "no time left" for r in recorder.results if r.status == SKIPPED)


def test_only_what_the_plan_wants_is_run_and_progress_tells(gpu: FakeGpu) -> None:
    recorder = Recorder(gpu, replace(PLAN, only=("yes",)))
    recorder.run(*(workload([candidate(gpu, OURS)], n) for n in ("yes 1", "no", "yes 2")))
    assert [r.workload for r in recorder.results] == ["yes 1", "yes 2"]
    assert recorder.progress == [
        ("op yes 1 inference float32", 0),
        ("op yes 2 inference float32", 1),
    ]


def test_a_level_that_cannot_make_its_workloads_is_recorded_and_the_next_goes_on(
    gpu: FakeGpu, recorder: Recorder
) -> None:
    def breaks() -> Iterator[Workload]:
        yield workload([candidate(gpu, OURS)])
        raise ValueError("no such network")

    recorder.runner.run_level("op", breaks)
    recorder.runner.run_level("block", lambda: [workload([candidate(gpu, OURS)])])
    assert [r.status for r in recorder.results] == [OK, FAILED, OK]
    assert recorder.results[1].ours and "no such network" in recorder.results[1].message


def test_candidates_of_one_name_are_refused(gpu: FakeGpu, recorder: Recorder) -> None:
    with pytest.raises(ValueError, match="names must differ"):
        recorder.run(workload([candidate(gpu, OURS), candidate(gpu, OURS)]))


def test_clocks_are_recorded_with_a_comparison(
    gpu: FakeGpu, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder.runner.device, "clocks", lambda: {"sm_mhz": 1980})
    rows = recorder.run(workload([candidate(gpu, OURS), candidate(gpu, PEER)]))
    assert {name: row.facts for name, row in rows.items()} == {
        name: {"clocks": {"sm_mhz": 1980}} for name in (OURS, PEER)
    }


# The other devices.


def test_a_dry_run_tries_what_stands_behind_a_graph() -> None:
    found: list[Result] = []
    device = DryRunDevice()
    device.ours = contextlib.nullcontext  # type: ignore[method-assign]
    graph = Candidate("graph", lambda: device.graph(lambda: torch.tensor(1.0)))
    Runner(device, PLAN, found.append).run([workload([graph])])
    assert [r.status for r in found] == [OK]
