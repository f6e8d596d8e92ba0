"""`python -m resnet_cuda bench`: what it measures, says and leaves behind, and how it ends."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from resnet_cuda.bench import run as bench_run
from resnet_cuda.bench.report import load
from resnet_cuda.bench.workload import OURS, Absent, Candidate, Workload
from resnet_cuda.cli import main

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


def test_a_run_is_compared_with_an_earlier_one(
    level: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    level(workload("adding"))
    assert main([*BASE, "--out", str(tmp_path / "old")]) == 0
    path = tmp_path / "old" / "report.json"
    data = json.loads(path.read_text())
    for row in data["results"]:  # as if ours had been a thousand times as fast
        row["versus"] = {peer: 1000 * ratio for peer, ratio in row["versus"].items()}
    path.write_text(json.dumps(data))
    capsys.readouterr()
    assert main([*BASE, "--against", str(tmp_path / "old")]) == 1
    assert "worse: op adding" in capsys.readouterr().out


def test_what_a_run_cannot_be_compared_with_is_said_before_it_runs(
    level: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    level(workload("adding"))
    assert main([*BASE, "--against", str(tmp_path / "absent.json")]) == 2
    assert "absent.json" in capsys.readouterr().err
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
