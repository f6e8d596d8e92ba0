"""What a report says of the machine, and the settings that benchmarks run under."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resnet_cuda import _raw
from resnet_cuda.bench.device import CpuDevice, open_device
from resnet_cuda.bench.environment import environment, settings, untuned
from resnet_cuda.bench.report import plain
from tests.bench.fake_cuda import FakeCudaDevice, FakeGpu


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_environment_names_device_versions_host_and_build() -> None:
    found = environment(CpuDevice())
    assert (found["kind"], found["name"]) == ("cpu", found["host"]["cpu"])
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"].keys() >= {"resnet_cuda", "cuda", "cudnn", "driver", "triton", "timm"}
    assert found["versions"].keys() >= {"torchvision", "numpy", "python"}
    host = found["host"]
    assert host["cpus"] == os.cpu_count() and host["threads"] == torch.get_num_threads()
    assert 2**28 < host["memory_bytes"] < 2**50
    assert found["build"] == _raw.build_info()


def test_the_environment_of_a_gpu_has_its_facts() -> None:
    found = environment(FakeCudaDevice(FakeGpu()))
    assert (found["kind"], found["sms"], found["l2_bytes"]) == ("cuda", 132, 2**26)


def test_the_environment_tells_nothing_about_the_place() -> None:
    found = environment(CpuDevice())
    text = json.dumps(found)
    for secret in (platform.node(), str(Path.home()), os.getcwd(), str(_raw.PACKAGE)):
        assert secret not in text, f"the environment holds {secret!r}"
    assert plain(found) == found, "a path, or a value that is not plain"
    user = getpass.getuser()
    assert len(user) < 5 or user not in text


def test_references_are_computed_without_trying_algorithms() -> None:
    with settings(CpuDevice()):
        assert torch.backends.cudnn.benchmark
        with pytest.raises(ValueError), untuned():
            assert not torch.backends.cudnn.benchmark
            raise ValueError
        assert torch.backends.cudnn.benchmark


def test_a_flag_that_torch_does_not_tell_costs_itself_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses() -> str:
        raise RuntimeError("a mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", refuses)
    flags = environment(CpuDevice())["flags"]
    assert flags["deterministic_algorithms"] == "unknown: a mix of the legacy and new APIs"
    assert flags["cudnn_benchmark"] is True


def test_flags_are_those_in_force_while_measuring() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        flags = environment(CpuDevice())["flags"]
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert flags["float32_matmul_precision"] == "highest"
    assert flags["cudnn_benchmark"] is True
    assert flags["cudnn_allow_tf32"] is False and flags["matmul_allow_tf32"] is False


def test_settings_are_in_force_inside_and_as_before_outside() -> None:
    def state() -> tuple[object, ...]:
        cudnn = torch.backends.cudnn
        return (
            cudnn.benchmark,
            cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
            torch.get_float32_matmul_precision(),
            torch.get_num_threads(),
        )

    threads = torch.get_num_threads()
    torch.set_float32_matmul_precision("medium")
    before = state()
    try:
        with pytest.raises(KeyError), settings(CpuDevice()):
            assert state() == (True, False, False, "highest", threads)
            torch.set_num_threads(threads + 1)  # as a peer may
            raise KeyError
        assert state() == before
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.set_num_threads(threads)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the package in it, as far as looking for the commit goes."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    package = tmp_path / "resnet_cuda"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    monkeypatch.setattr(_raw, "PACKAGE", package)
    return tmp_path


def test_the_commit_is_named_and_whether_files_differ_from_it(checkout: Path) -> None:
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "c")
    commit = git(checkout, "rev-parse", "HEAD")
    found = environment(CpuDevice())
    assert (found["commit"], found["dirty"]) == (commit, False)
    (checkout / "notes.txt").write_text("not tracked")
    assert environment(CpuDevice())["dirty"] is False
    (checkout / "resnet_cuda" / "__init__.py").write_text("changed")
    assert environment(CpuDevice())["dirty"] is True


def test_a_package_that_is_only_installed_inside_a_checkout_has_no_commit(checkout: Path) -> None:
    (checkout / "other.py").write_text("")
    git(checkout, "add", "other.py")
    git(checkout, "commit", "-qm", "somebody else's")
    found = environment(CpuDevice())
    assert (found["commit"], found["dirty"]) == (None, None)


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = environment(CpuDevice())
    assert (found["commit"], found["dirty"]) == (None, None)


def test_devices_are_opened_by_kind_and_unknown_kinds_refused() -> None:
    assert open_device("cpu").kind == "cpu"
    assert open_device("dry-run").kind == "dry-run"
    assert open_device().kind == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="device is 'tpu'; accepted: 'cuda', 'cpu', 'dry-run'"):
        open_device("tpu")


def test_the_cpu_s_clocks_say_how_busy_others_kept_the_machine() -> None:
    """A process of our own is none of the others; one that we start is."""
    if not Path("/proc/stat").exists():
        pytest.skip("the system does not tell")
    device = CpuDevice()
    spin = "import time; end = time.time() + 1.0\nwhile time.time() < end: pass"
    subprocess.run([sys.executable, "-c", spin], check=True)
    assert device.clocks()["others_cpus"] > 0.3


def test_the_cpu_s_clocks_are_plausible() -> None:
    clocks = CpuDevice().clocks()
    if not clocks:
        pytest.skip("this system does not tell its CPU's clocks")
    assert 100 < clocks["cpu_mhz_min"] <= clocks["cpu_mhz"] <= clocks["cpu_mhz_max"] < 10_000
