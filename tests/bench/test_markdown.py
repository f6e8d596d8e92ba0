"""report.md: complete, honest, and possible from any part of a report."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest

from resnet_cuda.bench.markdown import harness_line, markdown, sentence
from resnet_cuda.bench.markdown_text import as_it_is
from resnet_cuda.bench.publish import Summariser, publish, summarise
from resnet_cuda.bench.report import Report
from resnet_cuda.bench.results import verdicts
from tests.bench import made_up
from tests.bench.made_up import OURS, comparison, report


def test_every_section_of_a_report_is_there() -> None:
    text = markdown(made_up.full(), ["roofline.png"])
    for words in (
        "Made-up GPU 9000",
        "finished.",
        "166 ok, 1 wrong",  # probes
        "off by 1",  # correctness
        "abc1234",  # environment
        "4.00 TB/s",
        "800 TFLOP/s",
        "build | ok | 12.5",
        "apex is not installed",
        "8 images instead of 16",
        "no time left",
        "1.2% apart by medians",
        "strange_kernel",
        "| 1.00 GiB | 2.00 GiB | 0.80 GiB | 2.00x | 1.25x |",
        "![roofline.png](roofline.png)",
    ):
        assert words in text, f"{words!r} is missing"


def test_every_status_shows_up() -> None:
    text = markdown(report(made_up.every_status()))
    for words in ("failed (", "wrong (", "skipped (no time left)", "apex: apex is not installed"):
        assert words in text
    assert "**Of ours, 1 are wrong or failed:**" in text


def test_verdicts_come_first() -> None:
    headings = re.findall(r"^## (.+)$", markdown(made_up.full()), flags=re.M)
    assert headings[0] == "Verdicts" and headings.index("Results") > 0


def test_it_says_plainly_where_ours_is_slower() -> None:
    text = markdown(report(made_up.layers()))
    slow = (
        "kernel, conv_fprop, bfloat16: **slower** than the fastest peer, takes 2.00 times as long"
    )
    assert slow in text
    fast = markdown(report(comparison({OURS: 10.0, "eager": 20.0})))
    assert "**faster** than the fastest peer, which takes 2.00 times as long" in fast
    even = markdown(report(comparison({OURS: 10.0, "eager": 10.1})))
    assert "as fast as the fastest peer" in even


def test_an_unclear_verdict_says_how_noisy_it_is() -> None:
    rows = comparison({OURS: 10.0, "eager": 12.0})
    rows[0]["versus_quartiles"] = {"eager": [0.9, 1.6]}
    said = sentence(verdicts(report(rows))[0])
    assert "unclear, the fastest peer's time over ours is 1.20, within its noise of ±48%" in said


def test_a_mixed_verdict_counts_both_sides() -> None:
    rows = comparison({OURS: 10.0, "eager": 40.0}) + comparison(
        {OURS: 10.0, "eager": 5.0}, workload="the slow one"
    )
    best = verdicts(report(rows))[0]
    said = sentence(best)
    assert "faster in 1, slower in 1; worst: 2.00 times as long for the slow one" in said


@pytest.mark.parametrize("missing", sorted(made_up.full()))
def test_any_section_may_be_missing(missing: str) -> None:
    data = made_up.full()
    del data[missing]
    text = markdown(data)
    assert text.startswith("# ") and "could not be summarised" not in text


@pytest.mark.parametrize("level", ["kernel", "op", "model"])
def test_one_level_is_enough(level: str) -> None:
    data = made_up.full()
    data["results"] = [row for row in data["results"] if row["level"] == level]
    assert f"### {level}, " in markdown(data)


def test_nothing_at_all_is_a_report_too() -> None:
    assert "not finished" in markdown({})
    assert "not finished" in markdown(report(finished=False))


def test_a_cut_off_run_says_so() -> None:
    text = markdown(report(made_up.layers(), finished=False, stopped_by="SIGTERM"))
    assert "**cut off by SIGTERM**" in text


def test_a_dry_run_gives_no_verdict_on_speed() -> None:
    environment = {"kind": "dry-run", "name": "the emulator"}
    text = markdown(report(made_up.layers(), environment=environment))
    assert "A dry run" in text and "slower" not in text


def test_a_strange_section_is_written_down_and_costs_no_other() -> None:
    data = made_up.full()
    data["stages"] = ["not what was agreed"]
    data["something_new"] = {"a": 1.23456, "b": [1, 2], "c": {"d": {"e": None}}}
    text = markdown(data)
    assert "could not be summarised" in text and "not what was agreed" in text
    assert "## Something new" in text and "- a: 1.235" in text
    assert "Made-up GPU 9000" in text and "### model, inference" in text


def test_a_message_cannot_break_a_table() -> None:
    data = report(stages=[{"name": "a|b", "status": "failed", "message": "line\nbreak <tag>"}])
    lines = markdown(data).splitlines()
    (line,) = [line for line in lines if "break" in line]
    assert line == "| a\\|b | failed | 0.0 | line break &lt;tag> |"


def test_the_text_depends_on_the_data_alone() -> None:
    data = made_up.full()
    again = json.loads(json.dumps(copy.deepcopy(data)))
    assert markdown(data) == markdown(again)


def test_a_harness_that_does_not_hold_is_not_hidden() -> None:
    assert "does not hold" in harness_line({"harness": {**made_up.HARNESS, "holds": False}})
    assert harness_line({}) == ""


def test_a_machine_that_others_used_is_mistrusted() -> None:
    rows = comparison({OURS: 10.0, "eager": 12.0})
    for each, cpus in zip(rows, (0.02, 0.9), strict=True):
        each["facts"] = {"clocks": {"others_cpus": cpus}}
    said = harness_line(report(rows, harness=made_up.HARNESS))
    assert "more than 0.25 CPUs during 1 of 2 results" in said
    assert "Other processes" not in harness_line(report(rows[:1], harness=made_up.HARNESS))


def test_lists_of_objects_are_tables_and_the_rest_is_nested() -> None:
    assert as_it_is([{"a": 1, "b": "x|y"}, {"a": 2}])[2:] == ["| 1 | x\\|y |", "| 2 |  |"]
    assert as_it_is({"a": {"b": [1, 2]}, "c": None}) == ["- a:", "  - b: 1, 2", "- c: -"]


def test_publishing_writes_the_text_with_the_pictures_that_were_drawn(tmp_path: Path) -> None:
    (tmp_path / "sweep.png").write_text("of an earlier run")
    pytest.importorskip("matplotlib")
    assert publish(report(made_up.layers(), ceilings=made_up.CEILINGS), tmp_path) == []
    text = (tmp_path / "report.md").read_text()
    assert "roofline.png" in text and "speedup.png" in text
    assert "sweep.png" not in text and not (tmp_path / "sweep.png").exists()


def test_the_summary_is_rewritten_now_and_then(tmp_path: Path) -> None:
    now = [0.0]
    summariser = Summariser(clock=lambda: now[0])
    data = Report(tmp_path, "bench", {"name": "here"}, lambda what, value: summariser.note(data))
    data.note("at once")
    assert not (tmp_path / "report.md").exists()
    now[0] = 60.0
    data.note("a minute later")
    assert "a minute later" in (tmp_path / "report.md").read_text()
    summarise(data.data, tmp_path)
    data.finish()
