"""GPUs that the kernels were not compiled for: said by `info` and by the first op, with what is accepted."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from resnet_cuda import _raw
from resnet_cuda.cli import info
from resnet_cuda.ops._kernels import CudaBackend

DEFAULT = "75-real 80 90a-real"  # as CMake names them: Turing, 80 with PTX, and Hopper


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((7, 0), DEFAULT, False),
        ((7, 5), DEFAULT, True),
        ((8, 0), DEFAULT, True),
        ((8, 9), DEFAULT, True),
        ((9, 0), DEFAULT, True),
        ((12, 0), DEFAULT, True),  # by 8.0's PTX
        ((8, 6), "80-real", True),
        ((9, 0), "80-real", False),
        ((8, 0), "86-real", False),
        ((10, 0), "90a-real", False),
        ((8, 9), "90a-real", False),
        ((10, 0), "90-virtual", True),
        ((7, 0), "90-virtual", False),
        ((7, 5), "80", False),
        ((7, 5), "75-real 80-virtual", True),
        ((8, 0), "75-real 80-virtual", True),
        # Kernels for tensor cores are not compiled for 7.5, nor translated from its PTX.
        ((8, 0), "75", False),
        ((8, 6), "75 90a-real", False),
    ],
)
def test_code_runs_where_cuda_says(
    capability: tuple[int, int], architectures: str, runs: bool
) -> None:
    assert _raw.runs_on(capability, architectures) == runs


def one_gpu(monkeypatch: pytest.MonkeyPatch, name: str, major: int, minor: int) -> None:
    """A build with CUDA on a machine with one GPU of this compute capability."""
    build = {"cuda_compiled": True, "architectures": DEFAULT}
    card = SimpleNamespace(
        name=name, major=major, minor=minor, total_memory=2**34, multi_processor_count=40
    )
    monkeypatch.setattr(_raw, "build_info", lambda: build)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, minor))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    _raw.require_code_for.cache_clear()


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """What was said of a GPU that is not there is not said to other tests."""
    yield
    _raw.require_code_for.cache_clear()


def gpu_line() -> str:
    (line,) = [value for title, value in info.facts() if title == "GPU 0"]
    return line


def test_the_first_op_says_which_gpus_are_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    one_gpu(monkeypatch, "V100", 7, 0)
    x = SimpleNamespace(device=torch.device("cuda", 0))
    with pytest.raises(RuntimeError) as error:
        CudaBackend().prepare(x)  # type: ignore[arg-type]
    message = str(error.value)
    assert "cuda:0 has compute capability 7.0" in message
    assert f"compiled for {DEFAULT}" in message and "7.5 or newer" in message


def test_info_says_so_beside_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    one_gpu(monkeypatch, "V100", 7, 0)
    assert gpu_line().startswith("V100, sm_70")
    assert "not supported: cuda:0 has compute capability 7.0" in gpu_line()


def test_turing_is_accepted_and_info_says_that_its_kernels_are_simt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one_gpu(monkeypatch, "T4", 7, 5)
    _raw.require_code_for(torch.device("cuda", 0))
    assert gpu_line().startswith("T4, sm_75")
    assert "SIMT kernels" in gpu_line() and "not supported" not in gpu_line()


def test_of_a_gpu_with_tensor_cores_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    one_gpu(monkeypatch, "A10", 8, 6)
    _raw.require_code_for(torch.device("cuda", 0))
    assert gpu_line().endswith("40 SMs")
