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


def test_comparisons_of_one_workload_are_told_apart_by_their_labels() -> None:
    rows = comparison({OURS: 10.0, "eager": 20.0, "timm": 15.0})
    rows += comparison({OURS: 10.0, "compile": 5.0}, label="compile")
    plain, compiled = results.comparisons(report(rows))
    assert (plain.name, compiled.name) == ("conv n8-64x56x56", "conv n8-64x56x56 [compile]")
    assert compiled.title == "op conv n8-64x56x56 [compile] inference float32"
    best = results.verdicts(report(rows))[0]
    assert best.mean == 0.5, "the same workload: what compiles is a peer like the others"


def test_the_only_peer_of_a_sweep_is_not_called_the_fastest() -> None:
    rows = comparison({OURS: 10.0, "eager": 30.0, "oneDNN fused": 8.0})
    rows += comparison({OURS: 10.0, "eager": 30.0}, workload="of another batch", label="sweep")
    verdicts = {v.peer: v for v in results.verdicts(report(rows))}
    assert verdicts[""].mean == pytest.approx(0.8) and len(verdicts[""].ratios) == 1
    assert len(verdicts["eager"].ratios) == 2


def noisy(ratio: float, low: float, high: float, rounds: int) -> results.Verdict:
    rows = comparison({OURS: 10.0, "eager": 10.0 * ratio})
    rows[0]["versus_quartiles"] = {"eager": [low, high]}
    for each in rows:
        each["timing"]["rounds"] = rounds
    return results.verdicts(report(rows))[0]


def test_what_is_within_the_noise_is_no_verdict() -> None:
    assert noisy(1.2, 0.9, 1.6, 5).word == results.UNCLEAR
    assert noisy(0.8, 0.6, 1.1, 5).word == results.UNCLEAR
    assert noisy(1.2, 0.9, 1.6, 200).word == results.FASTER, "many rounds make it certain"
    assert noisy(0.5, 0.4, 0.6, 5).word == results.SLOWER
    assert noisy(1.01, 0.5, 2.0, 5).word == results.ALIKE


def test_the_fastest_peer_is_the_one_with_the_least_ratio() -> None:
    """Its median may be that of rounds in which the machine was slow."""
    rows = comparison({OURS: 10.0, "eager": 20.0, "timm": 21.0})
    rows[0]["versus"] = {"eager": 1.3, "timm": 1.1}
    found = only(report(rows))
    assert found.best_peer and found.best_peer["candidate"] == "timm"
    assert found.speedup_over_best == 1.1


def test_a_report_from_before_there_were_labels_is_read() -> None:
    rows = comparison({OURS: 10.0, "eager": 20.0})
    for each in rows:
        del each["label"], each["versus_quartiles"]
    found = only(report(rows))
    assert found.label == "" and found.speedup_spread(found.peers[0]) is None


def test_the_spread_of_a_speedup_is_that_of_its_rounds() -> None:
    rows = comparison({OURS: 10.0, "eager": 20.0})
    rows[0]["versus_quartiles"] = {"eager": [1.9, 2.3]}
    found = only(report(rows))
    assert found.speedup_spread(found.peers[0]) == pytest.approx(0.1)
