"""`python -m resnet_cuda bench`: what it measures, says and leaves behind, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from resnet_cuda.bench import compare
from resnet_cuda.bench import run as bench_run
from resnet_cuda.bench.ceilings import Ceilings
from resnet_cuda.bench.report import load
from resnet_cuda.bench.workload import OURS, Absent, Candidate, Workload
from resnet_cuda.cli import main
from tests.bench.made_up import HARNESS

Function = Callable[[], object]
BASE = ["bench", "--device", "dry-run", "--level", "op"]


def add() -> object:
    return torch.ones(8) + 1


def workload(name: str, ours: Function = add, peer: Function = add, **more: Any) -> Workload:
    """`ours` and `peer` are what is timed."""
    return Workload(
        "op",
        name,
        "inference",
        torch.float32,
        flops=8,
        bytes=96,
        candidates=[
            Candidate(OURS, lambda: ours, ours=True),
            Candidate("eager NCHW", lambda: peer),
            Candidate("apex", _absent),
        ],
        **more,
    )


def _absent() -> Function:
    raise Absent("apex is not installed")


@pytest.fixture
def level(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the given workloads the only ones that there are."""

    def use(*made: Workload) -> None:
        def workloads(device: object, plan: object) -> Iterator[Workload]:
            yield from made

        monkeypatch.setattr(bench_run, "level", lambda name: workloads)

    return use


def test_a_run_leaves_a_table_a_report_and_pictures(
    level: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    level(workload("adding"), workload("adding more"))
    out = tmp_path / "new" / "folder"
    assert main([*BASE, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    for words in ("adding more", "eager", "apex is not installed", "The harness against itself"):
        assert words in said, f"{words!r} is not on the terminal"
    last = said.strip().splitlines()[-1]
    assert "Took" in last and str(out) in last, "the last line says how long it took and where"
    data = load(out / "report.json")
    assert data["finished"] and len(data["results"]) == 6
    assert "adding more" in (out / "report.md").read_text()
    pytest.importorskip("matplotlib")
    assert (out / "speedup.png").exists()


def test_no_folder_is_needed(
    level: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    level(workload("adding"))
    monkeypatch.chdir(tmp_path)
    assert main(BASE) == 0
    assert "adding" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_something_wrong_or_failing_of_ours_is_exit_code_1(
    level: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> object:
        raise RuntimeError("this kernel is broken")

    level(workload("broken", ours=fail))
    assert main(BASE) == 1
    assert "OURS: op broken" in capsys.readouterr().out
    level(workload("wrong", check=lambda outputs: {OURS: "off by one"}))
    assert main(BASE) == 1
    assert "off by one" in capsys.readouterr().out


def test_a_failing_peer_is_no_failure_of_ours(
    level: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> object:
        raise RuntimeError("no algorithm")

    level(workload("adding", peer=fail))
    assert main(BASE) == 0
    assert "no algorithm" in capsys.readouterr().out


@pytest.mark.usefixtures("signals_arrive")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_keeps_what_was_measured_and_says_where(
    level: Callable[..., None],
    number: signal.Signals,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    level(
        workload("first"),
        workload("second", peer=lambda: signal.raise_signal(number)),
        workload("third"),
    )
    handler = signal.getsignal(number)
    assert main([*BASE, "--out", str(tmp_path)]) == 128 + number
    assert signal.getsignal(number) is handler
    data = load(tmp_path / "report.json")
    measured = {row["workload"] for row in data["results"] if row["timing"]}
    assert measured == {"first"} and data["stopped_by"] == number.name
    assert f"cut off by {number.name}" in (tmp_path / "report.md").read_text()
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert f"Cut off by {number.name}" in last and str(tmp_path) in last


# The command line with two workloads, of which the second never ends.
_ENDLESS = """
import sys, time, torch
from resnet_cuda.bench import compare
from resnet_cuda.bench import run as bench_run
from resnet_cuda.bench.workload import OURS, Candidate, Workload
from resnet_cuda.cli import main

def wait():
    print("waiting", flush=True)
    time.sleep(60)

def workloads(device, plan):
    for name, function in (("first", lambda: None), ("second", wait)):
        candidates = [Candidate(OURS, lambda function=function: function, ours=True)]
        yield Workload("op", name, "inference", torch.float32, 1, 1, candidates)

bench_run.level = lambda name: workloads
sys.exit(main(["bench", "--device", "dry-run", "--level", "op", "--out", sys.argv[1]]))
"""


@pytest.mark.usefixtures("signals_arrive")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_told_to_end_leaves_its_report(
    number: signal.Signals, tmp_path: Path
) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", _ENDLESS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "waiting" in line:
                process.send_signal(number)
        code = process.wait(timeout=30)
    assert code == 128 + number, "".join(said)
    data = load(tmp_path / "report.json")
    assert data["stopped_by"] == number.name and not data["finished"]
    assert [(r["workload"], r["status"]) for r in data["results"]] == [
        ("first", "ok"),
        ("second", "skipped"),
    ]
    assert f"cut off by {number.name}" in (tmp_path / "report.md").read_text()
    assert str(tmp_path) in said[-1], "the last line says where the report is"


def test_a_budget_leaves_out_and_lists(
    level: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    level(workload("first"), workload("second"))
    assert main([*BASE, "--minutes", "0.001"]) == 0
    assert "no time left" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batch", "0"], ["--batch", "'0'", "integers from 1"]),
        (["--batch", "many"], ["--batch", "'many'", "integers from 1"]),
        (["--image-size", "8"], ["--image-size", "'8'", "integers from 32"]),
        (["--sweep", "1", "-4"], ["--sweep", "-4"]),
        (["--seconds", "0"], ["--seconds", "'0'", "numbers above 0"]),
        (["--minutes", "-3"], ["--minutes", "'-3'", "numbers above 0"]),
        (["--minutes", "nan"], ["--minutes", "'nan'", "numbers above 0"]),
        (["--dtype", "int8"], ["--dtype", "'int8'", "'bfloat16'"]),
        (["--network", "resnet51"], ["--network", "'resnet51'", "'resnet50'"]),
        (["--level", "atom"], ["--level", "'atom'", "'kernel'"]),
        (["--device", "tpu"], ["--device", "'tpu'", "'cuda'"]),
    ],
)
def test_a_bad_argument_is_named_with_its_value_and_what_is_accepted(
    arguments: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main(["bench", *arguments])
    assert error.value.code == 2
    message = capsys.readouterr().err
    for words in said:
        assert words in message


def test_a_device_that_is_not_there_is_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "--device", "cuda"]) == 2
    message = capsys.readouterr().err
    assert "'cuda'" in message and "'dry-run'" in message


def test_the_kernels_are_not_measured_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--cpu", "--level", "kernel"]) == 2
    message = capsys.readouterr().err
    assert "'kernel'" in message and "dry-run" in message


def test_only_what_exists_can_be_chosen(
    level: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    level(workload("first"), workload("second"))
    assert main([*BASE, "--only", "nothing like it"]) == 2
    assert "'nothing like it'" in capsys.readouterr().err
    assert main([*BASE, "--only", "second"]) == 0
    said = capsys.readouterr().out
    assert "second" in said and "first" not in said


def test_a_file_is_no_folder(
    level: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    level(workload("adding"))
    path = tmp_path / "file"
    path.write_text("precious")
    assert main([*BASE, "--out", str(path)]) == 2
    assert f"--out is {path}" in capsys.readouterr().err
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model-traffic", "--only", "conv"], "--only has no effect with --model-traffic"),
        (["--model-traffic", "--cpu"], "--device has no effect with --model-traffic"),
        (["--layers"], "--layers has no effect without --model-traffic"),
        (["--training", "--quick"], "--training has no effect without --model-traffic"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_slow_kernel_is_named_by_the_verdict_and_by_the_comparison_with_an_earlier_run(
    level: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the command to the exit code, on the CPU's own clock: ours sleeps first as long as its peer, then longer."""

    def sleeping(milliseconds: int) -> Function:
        return lambda: time.sleep(milliseconds * 1e-3)

    # What takes seconds and is not about the kernel.
    monkeypatch.setattr(bench_run, "self_comparison", lambda device: HARNESS)
    monkeypatch.setattr(bench_run, "measure_ceilings", lambda *_: Ceilings(1e9, {"float32": 1e9}))
    arguments = ["bench", "--cpu", "--level", "op", "--seconds", "0.1"]
    level(workload("sleeping", ours=sleeping(2), peer=sleeping(2)))
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    level(workload("sleeping", ours=sleeping(6), peer=sleeping(2)))
    capsys.readouterr()
    assert main([*arguments, "--against", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "worse: op sleeping inference float32 resnet_cuda: " in said
    line = next(line for line in said.splitlines() if line.startswith("op, inference, float32 "))
    assert line.split()[3] == "slower", "the last table has the verdict"


def test_a_run_is_compared_with_an_earlier_one(
    level: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A dry run times a few rounds of microseconds: one interruption would make them too noisy to judge.
    monkeypatch.setattr(compare, "ratio_error", lambda *_: 0.0)
    level(workload("adding"))
    assert main([*BASE, "--out", str(tmp_path / "old")]) == 0
    path = tmp_path / "old" / "report.json"
    data = json.loads(path.read_text())
    for row in data["results"]:  # as if ours had been a thousand times as fast
        row["versus"] = dict.fromkeys(row["versus"], 1000.0)
    path.write_text(json.dumps(data))
    capsys.readouterr()
    assert main([*BASE, "--against", str(tmp_path / "old")]) == 1
    assert "worse: op adding" in capsys.readouterr().out


def test_what_a_run_cannot_be_compared_with_is_said_before_it_runs(
    level: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    level(workload("adding"))
    assert main([*BASE, "--against", str(tmp_path / "absent.json")]) == 2
    assert f"--against is {tmp_path / 'absent.json'}" in capsys.readouterr().err
    assert main([*BASE, "--against", str(tmp_path)]) == 2
    assert f"--against is {tmp_path}: has no report.json" in capsys.readouterr().err
    (tmp_path / "text.json").write_text("a table")
    assert main([*BASE, "--against", str(tmp_path / "text.json")]) == 2
    assert "text.json: is not JSON" in capsys.readouterr().err
    other = tmp_path / "report.json"
    other.write_text(
        json.dumps({"schema": 1, "environment": {"kind": "cuda", "name": "X"}, "results": []})
    )
    assert main([*BASE, "--against", str(other), "--out", str(tmp_path / "out")]) == 2
    assert "devices differ" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_level_that_cannot_be_made_is_reported_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(device: object, plan: object) -> Iterator[Workload]:
        raise RuntimeError("no such layers")

    def fine(device: object, plan: object) -> Iterator[Workload]:
        yield workload("adding")

    monkeypatch.setattr(bench_run, "level", lambda name: broken if name == "block" else fine)
    assert main(["bench", "--device", "dry-run", "--level", "block", "op"]) == 1
    said = capsys.readouterr().out
    assert "no such layers" in said and "adding" in said
