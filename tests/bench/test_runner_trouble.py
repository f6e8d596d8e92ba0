"""The runner where memory or the device gives out in places other than the candidates."""

from __future__ import annotations

from resnet_cuda.bench.workload import FAILED, OK, SKIPPED
from tests.bench.candidates import Recorder, candidate, same_values, workload
from tests.bench.fake_cuda import FakeGpu

GIB = 2**30
OURS, PEER, GRAPH = "resnet_cuda", "eager NCHW", "resnet_cuda + graph"


def test_a_check_that_does_not_fit_beside_all_candidates_is_made_beside_fewer(gpu: FakeGpu) -> None:
    def check(outputs: dict[str, object]) -> dict[str, str]:
        with gpu.allocate(7 * GIB):  # the same in float64
            return same_values(outputs)

    recorder = Recorder(gpu)
    candidates = [candidate(gpu, name, holds=4 * GIB) for name in (OURS, GRAPH, PEER)]
    rows = recorder.run(workload(candidates, check=check))
    assert {name: row.status for name, row in rows.items()} == dict.fromkeys(rows, OK)
    assert rows[OURS].timing and not recorder.notes


def test_a_check_that_fits_at_no_time_is_made_with_a_smaller_batch(gpu: FakeGpu) -> None:
    def at(batch: int):  # type: ignore[no-untyped-def]
        def check(outputs: dict[str, object]) -> dict[str, str]:
            with gpu.allocate(batch * GIB):
                return same_values(outputs)

        return workload(
            [candidate(gpu, OURS, holds=GIB), candidate(gpu, PEER, holds=GIB)],
            f"n{batch}",
            check=check,
            smaller=lambda: at(batch // 2),
        )

    recorder = Recorder(gpu)
    rows = recorder.run(at(32))
    assert rows[OURS].status == OK and rows[OURS].workload == "n8"
    assert "n16 instead" in recorder.notes[0]


def test_a_device_that_frees_no_more_memory_ends_the_figures_not_the_run(gpu: FakeGpu) -> None:
    def breaks() -> None:
        gpu.underway.append("a capture that nobody ended")

    recorder = Recorder(gpu)
    first = workload([candidate(gpu, OURS), candidate(gpu, PEER, prepare=breaks)], "first")
    second = workload([candidate(gpu, OURS)], "second")
    recorder.run(first, second)
    found = [(row.workload, row.candidate, row.status) for row in recorder.results]
    assert found == [("first", OURS, OK), ("first", PEER, OK), ("second", OURS, SKIPPED)]
    assert "takes no more work" in recorder.notes[0] and "captures_underway" in recorder.notes[0]


def test_what_follows_a_failed_capture_is_measured(gpu: FakeGpu) -> None:
    recorder = Recorder(gpu)
    device = recorder.runner.device

    def capture() -> None:
        device.graph(device.synchronize)

    first = workload([candidate(gpu, OURS), candidate(gpu, GRAPH, prepare=capture)], "first")
    second = workload([candidate(gpu, OURS, prepare=gpu.rand)], "second")
    recorder.run(first, second)
    assert [row.status for row in recorder.results] == [OK, FAILED, OK]
