"""The command line: exit codes, what is printed, and what happens when something is missing."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest
import torch

import resnet_cuda
from resnet_cuda import _raw, _selection
from resnet_cuda.cli import check, main
from resnet_cuda.cli._check_cases import cases
from resnet_cuda.training.progress import progress_bar


@pytest.fixture(autouse=True)
def _restore_threads() -> object:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_info_prints_versions_and_what_was_built(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert resnet_cuda.__version__ in out
    assert torch.__version__ in out
    assert "librnc_emulated.so" in out


def test_a_command_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main([])
    assert error.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_explain_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "resnet18", "--image-size", "64", "--dtype", "bfloat16"]) == 0
    out = capsys.readouterr().out
    assert "layer4.1.conv2" in out and "20 units" in out


def test_explain_names_an_unknown_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "resnet51"]) == 2
    assert "resnet51" in capsys.readouterr().err


def test_the_demo_runs_and_agrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    if not _raw.is_built():
        pytest.skip("the compiled extension is not built: make build")
    assert main(["demo", "--epochs", "1", "--batch", "128", "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for words in ("accuracy, test", "time per step", "deviation of gradients", "plain", "fused"):
        assert words in out
    if not torch.cuda.is_available():
        assert "conv_fprop" in out, "the demo did not run the kernels on the emulator"
    assert (tmp_path / "loss_curves.png").stat().st_size > 10_000


def test_the_demo_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.partition(".")[0] in ("sklearn", "matplotlib"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["demo"]) == 2
    assert "pip install scikit-learn matplotlib" in capsys.readouterr().err


def test_check_reports_failures_by_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def add_relu_off_by_one(dtype: torch.dtype, device: str) -> object:
        for case in cases(dtype, device):
            if case.name == "add_relu":
                yield case
                yield case._replace(name="broken", fused=lambda x, r: torch.relu(x + r) + 1.0)

    monkeypatch.setattr(check, "cases", add_relu_off_by_one)
    monkeypatch.setattr(check, "gradient_cases", lambda device: [])
    assert main(["check"]) == 1
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if "broken" in line]
    assert lines and all(line.startswith("FAIL") for line in lines)
    assert all(line.startswith("PASS") for line in out.splitlines() if line.endswith("add_relu"))


def test_check_says_what_it_could_not_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(checked: bool) -> Path:
        raise RuntimeError("not built: make build")

    monkeypatch.setattr(_selection, "emulator_library", missing)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(check, "DTYPES", (torch.float32,))
    assert main(["check"]) == 0
    out = capsys.readouterr().out
    assert "not checked: the kernels' source, emulated (not built: make build)" in out
    assert "not checked: the kernels on a GPU" in out
    assert "conv_bn_relu 3x3 grouped, training" in out


def test_the_plain_progress_bar_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("training", 20) as advance:
        for i in range(20):
            advance(f"step {i}")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[-1] == f"training [{'#' * 30}] 20/20 step 19"
