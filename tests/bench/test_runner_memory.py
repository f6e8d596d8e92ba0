"""The runner and memory: what candidates hold and need, and what becomes of those that do not fit."""

from __future__ import annotations

import pytest
import torch

from resnet_cuda.bench.device import CpuDevice
from resnet_cuda.bench.runner import Runner
from resnet_cuda.bench.workload import FAILED, OK, OURS, WRONG, Candidate, Result, Workload
from tests.bench.candidates import MS, PLAN, Buffer, Recorder, candidate, statuses, workload
from tests.bench.fake_cuda import FakeGpu

GIB = 2**30
PEER = "eager NCHW"


def test_an_output_kept_for_the_check_is_not_memory_that_its_candidate_holds(
    gpu: FakeGpu, recorder: Recorder
) -> None:
    def prepare():  # type: ignore[no-untyped-def]
        weights = Buffer(gpu, 100)

        def function(weights: Buffer = weights) -> Buffer:
            with gpu.allocate(1000):
                gpu.launch(1 * MS)
            return Buffer(gpu, 700)

        return function

    names = [OURS, PEER]
    rows = recorder.run(
        workload([Candidate(n, prepare, ours=n == OURS) for n in names], check=lambda outputs: {})
    )
    assert [rows[n].peak_memory for n in names] == [1100, 1100]


def test_a_workload_that_cannot_fit_is_done_with_a_smaller_batch_and_a_note(
    gpu: FakeGpu, recorder: Recorder
) -> None:
    def sized(batch: int) -> Workload:
        return workload(
            [candidate(gpu, OURS, needs=batch * GIB), candidate(gpu, PEER, needs=batch * GIB)],
            f"n{batch}",
            memory=batch * GIB // 2,
            smaller=(lambda: sized(batch // 2)) if batch > 1 else None,
        )

    first = sized(64)
    first.level, first.label = "overhead", "compile"  # its maker changed them afterwards
    rows = recorder.run(first)
    assert statuses(rows) == {OURS: OK, PEER: OK} and rows[OURS].workload == "n8"
    assert (rows[OURS].level, rows[OURS].label) == ("overhead", "compile")
    assert len(recorder.results) == 2, "sizes that did not fit leave notes, not rows"
    assert [note.partition("; ")[2] for note in recorder.notes] == [
        "n32 instead",
        "n16 instead",
        "n8 instead",
    ]
    assert "needs at least 32.0 GiB of memory, 16.0 GiB are free" in recorder.notes[0]
    assert "resnet_cuda: out of memory" in recorder.notes[2]


def test_a_workload_that_fits_at_no_size_has_failed(gpu: FakeGpu, recorder: Recorder) -> None:
    rows = recorder.run(workload([candidate(gpu, OURS, needs=20 * GIB), candidate(gpu, PEER)]))
    assert statuses(rows) == {OURS: FAILED, PEER: FAILED}
    assert "out of memory" in rows[OURS].message


def test_a_peer_that_does_not_fit_fails_alone_and_does_not_make_ours_smaller(
    gpu: FakeGpu, recorder: Recorder
) -> None:
    rows = recorder.run(
        workload(
            [candidate(gpu, OURS), candidate(gpu, "greedy", needs=20 * GIB), candidate(gpu, PEER)],
            smaller=lambda: pytest.fail("ours fits"),
        )
    )
    assert statuses(rows) == {OURS: OK, "greedy": FAILED, PEER: OK}
    assert "out of memory" in rows["greedy"].message
    assert any("greedy" in note and "out of memory" in note for note in recorder.notes)


@pytest.mark.parametrize("first", [OURS, PEER])
def test_what_does_not_fit_beside_the_others_is_measured_with_one_companion(
    gpu: FakeGpu, recorder: Recorder, first: str
) -> None:
    """7 GiB each: two fit in 16, three do not."""
    last = PEER if first == OURS else OURS
    names = [first, "eager channels_last", last]
    speeds = {OURS: 1 * MS, PEER: 3 * MS, "eager channels_last": 2 * MS}
    rows = recorder.run(workload([candidate(gpu, n, speeds[n], holds=7 * GIB) for n in names]))
    assert set(statuses(rows).values()) == {OK}, {n: r.message for n, r in rows.items()}
    assert rows[OURS].versus[PEER] == pytest.approx(3), "a ratio needs rounds of both"
    assert not recorder.notes


def test_ours_that_runs_out_only_while_timed_gets_its_turn(
    gpu: FakeGpu, recorder: Recorder
) -> None:
    ours = candidate(gpu, OURS, holds=3 * GIB, needs=9 * GIB)
    peers = [candidate(gpu, n, 2 * MS, holds=3 * GIB) for n in ("a", "b")]
    rows = recorder.run(workload([ours, *peers], smaller=lambda: pytest.fail("ours fits")))
    assert statuses(rows) == {OURS: OK, "a": OK, "b": OK}
    assert rows[OURS].versus == {"a": pytest.approx(2)}


def test_a_graph_of_ours_that_does_not_fit_fails_alone(gpu: FakeGpu, recorder: Recorder) -> None:
    graph = candidate(gpu, "resnet_cuda + graph", needs=20 * GIB)
    rows = recorder.run(
        workload(
            [candidate(gpu, OURS), graph, candidate(gpu, PEER)],
            smaller=lambda: pytest.fail("ours fits without a graph"),
        )
    )
    assert statuses(rows) == {OURS: OK, graph.name: FAILED, PEER: OK}


def test_a_companion_that_is_wrong_the_second_time_loses_its_first_time(
    gpu: FakeGpu, recorder: Recorder
) -> None:
    values = iter([1.0, 2.0])

    def prepare():  # type: ignore[no-untyped-def]
        value = next(values)
        held = Buffer(gpu, 7 * GIB)
        return lambda held=held: torch.tensor(value)

    unsteady = Candidate(PEER, prepare)
    ours = [candidate(gpu, n, holds=7 * GIB) for n in (OURS, "resnet_cuda + graph")]
    rows = recorder.run(workload([ours[0], unsteady, ours[1]]))
    assert statuses(rows) == {OURS: OK, PEER: WRONG, ours[1].name: OK}
    assert rows[PEER].timing is None
    assert rows[OURS].versus == {} and rows[ours[1].name].versus == {}


def test_on_the_cpu_a_candidate_s_peak_memory_is_about_what_it_allocates() -> None:
    if CpuDevice().peak_memory(lambda: None) is None:
        pytest.skip("this system does not let a process reset its peak memory")
    found: list[Result] = []
    count = 16 * 2**20

    def prepare():  # type: ignore[no-untyped-def]
        weights = torch.randn(count)
        return lambda: (weights + 1).sum()

    small = Candidate(PEER, lambda: lambda: torch.ones(8).sum())
    Runner(CpuDevice(), PLAN, found.append).run(
        [workload([Candidate(OURS, prepare, ours=True), small], check=None)]
    )
    peaks = {r.candidate: r.peak_memory for r in found}
    assert peaks[OURS] is not None and peaks[PEER] is not None
    assert 0.8 * 8 * count < peaks[OURS] < 1.6 * 8 * count, "weights and as much again"
    assert peaks[PEER] < count
