"""A stage that goes wrong costs only itself, and is in the report."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.hardware import conductor as conductor_module
from benchmarks.hardware.conclusion import conclusion, verdict
from benchmarks.hardware.conductor import Conductor, Log, Options
from benchmarks.hardware.scrub import Scrubber
from benchmarks.hardware.stages import Stage
from resnet_cuda.bench.report import Report, load

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def stage(what: str, limit: float = 30.0, section: str | None = "correctness") -> Stage:
    command = (sys.executable, "-u", str(Path(__file__).with_name("stage_for_tests.py")), what)
    return Stage(what, "", limit, command, section)


def conduct(
    folder: Path, *stages: Stage, seconds: float = 60.0, **known: Any
) -> tuple[dict[str, Any], int]:
    """Runs the stages; returns the written report and the exit status."""
    report = Report(folder, "hardware_run", {})
    for name, value in known.items():
        report.set(name, value)
    with (folder / "log.txt").open("w") as file:
        options = Options("dry-run", seconds, environment=ENVIRONMENT)
        Conductor(stages, options, report, Log(file), Scrubber(ROOT)).run()
    report.finish()
    data = load(folder / "report.json")
    return data, verdict(data, stages)


def statuses(data: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["status"] for entry in data["stages"]}


def rows(data: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["name"], row["status"]) for row in data["correctness"]]


def test_good_stages_are_reported_and_the_exit_status_is_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, code = conduct(tmp_path, stage("good"))
    assert code == 0
    assert rows(data) == [("good", "ok"), ("good too", "ok")]
    assert [row["message"] for row in data["correctness"]] == ["", "bitwise"]
    assert "good               ok" in capsys.readouterr().out
    assert conclusion(data, [stage("good")])[0] == "Correctness held."


def test_a_wrong_kernel_makes_the_exit_status_1_and_is_in_the_conclusion(tmp_path: Path) -> None:
    data, code = conduct(tmp_path, stage("wrong"), stage("good"))
    assert code == 1
    assert statuses(data) == {"wrong": "failed", "good": "ok"}
    assert rows(data)[:4] == [
        ("good", "ok"),
        ("bad", "failed"),
        ("skipped", "skipped"),
        ("good", "ok"),
    ]
    text = "\n".join(conclusion(data, [stage("wrong"), stage("good")]))
    assert "CORRECTNESS DID NOT HOLD" in text and "3 of 4 values are wrong" in text


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("killed", "the process was ended by SIGKILL"),
        ("segfault", "the process was ended by SIGSEGV"),
        ("spoils", "3 of 4 values are wrong"),
    ],
)
def test_the_checks_behind_a_fatal_one_are_made_in_a_new_process(
    tmp_path: Path, what: str, message: str
) -> None:
    data, code = conduct(tmp_path, stage(what))
    assert code == 1
    assert rows(data) == [("good", "ok"), ("bad", "failed"), ("good", "ok")]
    assert message in data["correctness"][1]["message"]


def test_a_check_that_hangs_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conductor_module, "_CHECK_SECONDS", 1.5)
    data, code = conduct(tmp_path, stage("hangs"), stage("good"))
    assert code == 1
    assert rows(data)[:3] == [("good", "ok"), ("bad", "failed"), ("good", "ok")]
    assert "no answer within" in data["correctness"][1]["message"]
    assert statuses(data)["good"] == "ok"


def test_a_stage_that_keeps_dying_is_given_up(tmp_path: Path) -> None:
    data, code = conduct(tmp_path, stage("always dies"), stage("good"))
    assert code == 1
    assert statuses(data) == {"always dies": "failed", "good": "ok"}
    assert "given up" in data["stages"][0]["message"]


def test_a_silent_stage_is_stopped_at_its_limit(tmp_path: Path) -> None:
    start = time.monotonic()
    data, code = conduct(tmp_path, stage("silent", limit=1.0), stage("good"))
    assert time.monotonic() - start < 20
    assert statuses(data) == {"silent": "timed out", "good": "ok"}
    assert "the stage's limit of 3 s" in data["stages"][0]["message"]
    assert code == 1, "not everything that decides was checked"


def test_a_stage_that_raises_says_why_without_folders(tmp_path: Path) -> None:
    data, code = conduct(tmp_path, stage("raises"), stage("good"))
    assert code == 1
    assert "RuntimeError: no such thing in" in data["stages"][0]["message"]
    for file in ("report.json", "log.txt"):
        assert str(ROOT) not in (tmp_path / file).read_text(), file


def test_what_a_stage_started_ends_with_it(tmp_path: Path) -> None:
    start = time.monotonic()
    data, _ = conduct(tmp_path, stage("starts another"))
    assert time.monotonic() - start < 20, "the open pipe kept the conductor"
    pid = int(data["notes"][0].split()[1])
    for _ in range(50):
        if not _runs(pid):
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} of the stage is still there")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_wrong_result_of_a_benchmark_counts(tmp_path: Path) -> None:
    data, code = conduct(tmp_path, stage("measures", section=None))
    assert code == 1
    assert [row["status"] for row in data["results"]] == ["ok", "wrong"]
    assert statuses(data) == {"measures": "failed"}


@pytest.mark.parametrize(
    ("what", "status", "message"),
    [
        ("segfault in a workload", "failed", "3 ok; the process was ended by SIGSEGV in w1"),
        ("lost in a workload", "ok", "3 ok"),
    ],
)
def test_the_workloads_behind_a_fatal_one_are_measured_in_a_new_process(
    tmp_path: Path, what: str, status: str, message: str
) -> None:
    broken = stage(what, section=None)
    data, code = conduct(tmp_path, broken, stage("good"))
    assert code == 0, "figures do not decide"
    assert [row["workload"] for row in data["results"]] == ["w0", "w2", "w3"]
    assert (statuses(data)[what], data["stages"][0]["message"]) == (status, message)
    told = f"  not all measured: {what}: {message}" in conclusion(data, [broken])
    assert told == (status == "failed")


def test_stages_without_time_are_skipped_and_the_exit_status_says_so(tmp_path: Path) -> None:
    data, code = conduct(tmp_path, stage("good"), stage("wrong"), seconds=1.0)
    assert statuses(data) == {"good": "skipped", "wrong": "skipped"}
    assert {entry["message"] for entry in data["stages"]} == {"no time left"}
    assert code == 1


def test_without_a_gpu_nothing_is_tried(tmp_path: Path) -> None:
    data, code = conduct(tmp_path, stage("wrong"), unusable="Tesla T4 has capability 7.5")
    assert code == 2
    assert statuses(data) == {"wrong": "skipped"}
    assert "Tesla T4" in conclusion(data, [])[0]


def test_stages_whose_binaries_are_missing_are_skipped(tmp_path: Path) -> None:
    needy = Stage("good", "", 30.0, stage("good").command, "correctness", needs=("extension",))
    data, code = conduct(tmp_path, needy, build={"extension": "no nvcc", "libraries": ""})
    assert statuses(data) == {"good": "skipped"}
    assert data["stages"][0]["message"] == "needs the extension: no nvcc"
    assert code == 1


def test_probes_are_counted_by_backend(tmp_path: Path) -> None:
    counted = Stage("wrong", "", 30.0, stage("wrong").command, "correctness", counted=True)
    data, _ = conduct(tmp_path, counted, stage("good"))
    assert data["probes"] == {"emulated": {"ok": 2, "failed": 1, "skipped": 1}}


def test_the_log_is_limited(tmp_path: Path) -> None:
    conduct(tmp_path, stage("chatters"))
    text = (tmp_path / "log.txt").read_text()
    assert 3 * 2**20 < len(text) < 4.1 * 2**20
    assert text.endswith("reached its limit.\n")
