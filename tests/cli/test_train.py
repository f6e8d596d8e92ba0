"""The command `train`: a killed run that is resumed, what it writes, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from resnet_cuda.cli import main
from resnet_cuda.training import load_checkpoint, make_cifar_like

ROOT = Path(__file__).parents[2]
STEPS_PER_EPOCH, STEPS = 5, 10
PATIENCE = 120  # seconds for a process to import torch and make three steps


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cifar")
    make_cifar_like(folder, train_images=40, test_images=10)
    return folder


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    # Threads are given because they decide in which order sums are taken.
    options = ["--batch", "8", "--epochs", "2", "--threads", "1", "--device", "cpu"]
    return ["train", "--data", str(data), "--out", str(out), *options, *more]


def kill_in_mid_epoch(command: list[str], checkpoint: Path) -> int:
    """Runs the command until its checkpoint is inside an epoch, kills it, and returns how many steps it had made."""
    process = subprocess.Popen(
        [sys.executable, "-m", "resnet_cuda", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    try:
        started = time.monotonic()
        while time.monotonic() - started < PATIENCE and process.poll() is None:
            if checkpoint.exists() and load_checkpoint(checkpoint)["iteration"] >= 3:
                break
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    return int(load_checkpoint(checkpoint)["iteration"])


def test_a_killed_and_resumed_run_is_bitwise_the_uninterrupted_one(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(folder, tmp_path / "whole")) == 0
    killed = tmp_path / "killed"
    each_step = ("--checkpoint-every", "1")
    steps = kill_in_mid_epoch(arguments(folder, killed, *each_step), killed / "checkpoint.pt")
    assert steps < STEPS and steps % STEPS_PER_EPOCH, f"killed after {steps} steps, not in an epoch"
    assert main(arguments(folder, killed, "--resume")) == 0

    whole, resumed = (
        load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("whole", "killed")
    )
    for name, value in whole["model"].items():
        assert torch.equal(resumed["model"][name], value), f"{name} differs after resuming"
    assert _table(killed / "log.csv") == _table(tmp_path / "whole" / "log.csv")


def _table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def test_a_run_leaves_log_summary_and_curves(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    command = arguments(folder, tmp_path, "--plain", "--amp", "bf16", "--seed", "3")
    assert main(command) == 0
    assert "test error" in capsys.readouterr().out
    assert [row["iteration"] for row in _table(tmp_path / "log.csv")] == ["5", "10"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["parameters"] == 269_722
    assert (summary["fused"], summary["amp"], summary["seed"]) == (False, "bf16", 3)
    assert summary["recipe"]["milestones"] == [5, 8], "milestones did not scale with the length"
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")

    assert main(command) == 2, "a second run began over the first one's checkpoint"
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model", "cifar_resnet21"), "cifar_resnet21"),
        (("--iterations", "7"), "epochs and iterations"),
        (("--batch", "41"), "batch=41: expected 1 to 40"),
        (("--lr", "0"), "lr=0.0: expected more than 0"),
        (("--threads", "0"), "threads=0"),
        (("--device", "gpu"), "device='gpu'"),
        (("--device", "cuda:99"), "device='cuda:99': there are"),
        (("--checkpoint-every", "0"), "checkpoint_every=0"),
        (("--resume",), "checkpoint.pt: no such file"),
        (("--data", "nowhere"), "data='nowhere': not a folder"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    message: str,
) -> None:
    assert main(arguments(folder, tmp_path, *more)) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "a refused run wrote something"
