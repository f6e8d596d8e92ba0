"""Two reports compared: what is flagged, what is not, and why it says so."""

from __future__ import annotations

import random
from typing import Any

import pytest

from resnet_cuda.bench.compare import regressions
from resnet_cuda.bench.report import Report
from resnet_cuda.bench.timing import Timing, quartiles, ratio, ratios
from tests.bench import made_up
from tests.bench.candidates import MS, Recorder, candidate, workload
from tests.bench.fake_cuda import FakeGpu

OURS, PEER = "resnet_cuda", "eager channels_last"


def report(*workloads: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """What the runner finds on a fake GPU. A workload: its name, ours' seconds, and options of ours."""
    gpu = FakeGpu()
    recorder = Recorder(gpu)
    for options in workloads:
        name = options.pop("name", "w")
        peer = options.pop("peer", 2 * MS)
        mine = candidate(gpu, OURS, options.pop("seconds", MS), **options)
        recorder.run(workload([mine, candidate(gpu, PEER, peer)], name))
    made = Report(None, "bench", {"kind": "cuda", "name": "Fake H200"})
    for result in recorder.results:
        made.add(result)
    for name, value in sections.items():
        made.set(name, value)
    made.finish()
    return made.data


def raiser() -> None:
    raise RuntimeError("no kernel for this shape")


def test_a_report_does_not_regress_against_itself() -> None:
    same = report({"name": "a"}, {"name": "b", "seconds": 3 * MS})
    assert regressions(same, same) == []


def test_a_slower_kernel_is_flagged_with_figures() -> None:
    old = report({"name": "a"}, {"name": "b"})
    new = report({"name": "a"}, {"name": "b", "seconds": 1.5 * MS})
    (finding,) = regressions(new, old, 0.1)
    assert finding.kind == "slower"
    assert finding.key == ("op", "b", "inference", "float32", "", OURS)
    assert str(finding) == (
        "op b inference float32 resnet_cuda: 2.000 -> 1.333 times as fast as eager channels_last, "
        "33% less (margin 10%, noise 0.0%); medians: ours 1000.0 us -> 1500.0 us, "
        "eager channels_last 2000.0 us -> 2000.0 us"
    )


def test_a_machine_that_is_slower_as_a_whole_is_no_regression() -> None:
    assert regressions(report({"seconds": 2 * MS, "peer": 4 * MS}), report({})) == []


@pytest.mark.parametrize(("seconds", "flagged"), [(1.08 * MS, False), (1.15 * MS, True)])
def test_the_margin_is_what_a_ratio_may_lose(seconds: float, flagged: bool) -> None:
    assert bool(regressions(report({"seconds": seconds}), report({}), 0.1)) is flagged


def noisy_report(generator: random.Random, speedup: float, sigma: float, rounds: int) -> Any:
    """Of one workload whose samples vary by about `sigma`."""
    ours, peer = (
        Timing(tuple(us * generator.lognormvariate(0, sigma) for _ in range(rounds)))
        for us in (1e-3, speedup * 1e-3)
    )
    rows = made_up.comparison({OURS: 1000.0, PEER: speedup * 1000.0})
    rows[0]["versus"] = {PEER: ratio(peer, ours)}
    rows[0]["versus_quartiles"] = {PEER: quartiles(ratios(peer, ours))}
    for row in rows:
        row["timing"]["rounds"] = rounds
    return made_up.report(rows)


@pytest.mark.parametrize("rounds", [5, 40])
def test_noise_is_no_alarm_and_a_slow_kernel_is(rounds: int) -> None:
    """Five rounds are what long workloads of a quick run have."""
    generator = random.Random(0)

    def alarms(slower: float) -> int:
        """Of 500 pairs of runs, ours `slower` times as slow in the second."""
        return sum(
            bool(
                regressions(
                    noisy_report(generator, 1.5 / slower, 0.07, rounds),
                    noisy_report(generator, 1.5, 0.07, rounds),
                )
            )
            for _ in range(500)
        )

    assert alarms(1.0) <= 5, "noise alone is an alarm"
    assert alarms(2.0) >= 495, "a kernel that is half as fast is not found"


def test_ratios_without_quartiles_have_the_margin_alone() -> None:
    """As in reports from before there were any."""
    old, new = report({}), report({"seconds": 1.15 * MS})
    for data in (old, new):
        for row in data["results"]:
            row["versus_quartiles"] = {}
    assert len(regressions(new, old)) == 1


def test_every_comparison_of_a_workload_counts() -> None:
    """Each has ratios of its own, also where the last one is as fast as ever."""
    old = made_up.comparison({OURS: 10.0, PEER: 20.0})
    compiled = made_up.comparison({OURS: 10.0, "compile": 20.0}, label="compile")
    new = made_up.comparison({OURS: 20.0, PEER: 20.0})
    (finding,) = regressions(made_up.report(new + compiled), made_up.report(old + compiled))
    assert finding.key[4:] == ("", OURS) and PEER in finding.text


def test_being_faster_is_no_regression() -> None:
    assert regressions(report({"seconds": 0.5 * MS}), report({})) == []


@pytest.mark.parametrize(
    ("mischief", "status", "message"),
    [
        ({"value": 2.0}, "wrong", "largest error 1"),
        ({"prepare": raiser}, "failed", "no kernel for this shape"),
    ],
)
def test_a_kernel_that_became_wrong_or_fails_is_flagged(
    mischief: dict[str, Any], status: str, message: str
) -> None:
    new, old = report(dict(mischief)), report({})
    (finding,) = regressions(new, old)
    assert finding.kind == "status"
    assert f"was ok, is {status}" in finding.text and message in finding.text
    assert regressions(old, new) == [], "getting better is no regression"
    assert regressions(new, new) == [], "what was bad before did not become worse"


def test_a_vanished_result_is_flagged_where_it_would_have_to_be() -> None:
    old, new = report({"name": "a"}, {"name": "b"}), report({"name": "a"})
    (finding,) = regressions(new, old)
    assert (finding.kind, finding.key[1]) == ("vanished", "b")
    assert regressions(old, new) == [], "a new result is no regression"


def test_what_was_not_asked_for_or_not_reached_did_not_vanish() -> None:
    plans = {"plans": [{"only": [], "effort": {"seconds": 2}}]}
    longer = {"plans": [{"only": [], "effort": {"seconds": 5}}]}
    fewer = {"plans": [{"only": ["a"], "effort": {"seconds": 2}}]}
    old = report({"name": "a"}, {"name": "b"}, **plans)
    assert regressions(report({"name": "a"}, **fewer), old) == []
    assert len(regressions(report({"name": "a"}, **longer), old)) == 1
    cut_off = report({"name": "a"}, **plans)
    cut_off["finished"] = False
    assert regressions(cut_off, old) == []


def test_ours_that_is_absent_now_has_vanished_and_skipped_has_not() -> None:
    old = report({})
    for status, kinds in (("absent", ["vanished"]), ("skipped", [])):
        new = report({})
        new["results"][0].update(status=status, timing=None, versus={}, message="not built")
        assert [finding.kind for finding in regressions(new, old)] == kinds


def test_a_peer_that_is_gone_leaves_nothing_to_compare_with() -> None:
    new = report({"seconds": 5 * MS})
    new["results"][0]["versus"] = {}
    assert regressions(new, report({})) == []


def test_reports_of_different_devices_are_refused() -> None:
    old, new = report({}), report({})
    old["environment"] = {"kind": "cuda", "name": "Fake A100"}
    with pytest.raises(ValueError, match="new 'Fake H200' .*, old 'Fake A100'"):
        regressions(new, old)
