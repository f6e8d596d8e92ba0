"""Who is compared with whom, and the verdicts that follow."""

from __future__ import annotations

import pytest

from resnet_cuda.bench import results
from tests.bench import made_up
from tests.bench.made_up import OURS, comparison, report, row


def only(data: dict[str, object]) -> results.Comparison:
    (found,) = results.comparisons(data)
    return found


def test_a_graph_is_compared_with_a_graph() -> None:
    times = {OURS: 10.0, OURS + " + graph": 5.0, "eager": 20.0, "eager + graph": 8.0}
    found = only(report(comparison(times)))
    peers = {peer["candidate"]: peer for peer in found.peers}
    assert found.speedup(peers["eager"]) == 2.0
    assert found.speedup(peers["eager + graph"]) == 8.0 / 5.0
    assert found.speedup_over_best == 8.0 / 5.0, "the fastest against the fastest"


def test_without_a_common_round_the_medians_are_compared() -> None:
    rows = comparison({OURS: 10.0, "eager": 20.0})
    rows[0]["versus"] = {}
    assert only(report(rows)).speedup_over_best == 2.0


def test_a_wrong_candidate_wins_nothing() -> None:
    rows = comparison({OURS: 10.0, "eager": 20.0})
    rows.append(row("compile", None, status="wrong", message="off"))
    found = only(report(rows))
    assert found.best_peer and found.best_peer["candidate"] == "eager"
    data = report([row(OURS, None, status="wrong", message="off"), row("eager", 20.0)])
    assert only(data).speedup_over_best is None


def test_verdicts_are_geometric_means_with_counts() -> None:
    rows = []
    for i, us in enumerate((5.0, 20.0, 10.1)):
        rows += comparison({OURS: 10.0, "eager": us}, workload=f"layer {i}")
    best, eager = results.verdicts(report(rows))
    assert (best.peer, eager.peer) == ("", "eager")
    assert eager.mean == pytest.approx((0.5 * 2.0 * 1.01) ** (1 / 3))
    assert (eager.faster, eager.slower) == (1, 1), "1% is not faster"
    assert eager.worst == ("layer 0", 0.5)


def test_complaints_are_about_ours_and_about_the_checks() -> None:
    data = made_up.full()
    said = results.complaints(data)
    assert len(said) == 2, f"the wrong op and the wrong check, but no peer: {said}"
    assert "9 times as far" in said[0] and "conv_dgrad" in said[1]


def test_absent_peers_are_those_that_ran_nowhere() -> None:
    rows = made_up.every_status() + [row("tensorrt", None, status="absent", message="here not")]
    rows.append(row("tensorrt", 5.0, workload="elsewhere"))
    assert results.absent(report(rows)) == {"apex": "apex is not installed"}


def test_an_empty_report_has_no_results() -> None:
    for empty in ({}, report()):
        assert results.comparisons(empty) == []
        assert results.verdicts(empty) == []
        assert results.complaints(empty) == []
        assert results.statuses(empty) == {}


def test_a_workload_that_was_measured_twice_is_there_twice() -> None:
    rows = comparison({OURS: 10.0, "eager": 20.0}) + comparison({OURS: 11.0, "eager": 20.0})
    found = results.comparisons(report(rows))
    assert [len(c.rows) for c in found] == [2, 2]


def test_of_two_measurements_the_one_that_speaks_least_for_us_counts() -> None:
    rows = comparison({OURS: 10.0, "compile": 5.0}) + comparison({OURS: 10.0, "eager": 20.0})
    best = results.verdicts(report(rows))[0]
    assert best.mean == 0.5, "the workload's fastest peer is in the other comparison"
