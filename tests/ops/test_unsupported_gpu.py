"""GPUs that the kernels were not compiled for: said by `info` and by the first op, with what is accepted."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from resnet_cuda import _raw
from resnet_cuda.cli import info
from resnet_cuda.ops._kernels import CudaBackend

DEFAULT = "80 90a-real"  # as CMake names them: 80 with PTX, and Hopper


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((7, 5), DEFAULT, False),
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
    ],
)
def test_code_runs_where_cuda_says(
    capability: tuple[int, int], architectures: str, runs: bool
) -> None:
    assert _raw.runs_on(capability, architectures) == runs


@pytest.fixture
def turing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A build with CUDA on a machine with one GPU of compute capability 7.5."""
    build = {"cuda_compiled": True, "architectures": DEFAULT}
    card = SimpleNamespace(
        name="T4", major=7, minor=5, total_memory=2**34, multi_processor_count=40
    )
    monkeypatch.setattr(_raw, "build_info", lambda: build)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    _raw.require_code_for.cache_clear()
    yield
    _raw.require_code_for.cache_clear()


def test_the_first_op_says_which_gpus_are_supported(turing: None) -> None:
    x = SimpleNamespace(device=torch.device("cuda", 0))
    with pytest.raises(RuntimeError) as error:
        CudaBackend().prepare(x)  # type: ignore[arg-type]
    message = str(error.value)
    assert "cuda:0 has compute capability 7.5" in message
    assert f"compiled for {DEFAULT}" in message and "8.0 or newer" in message


def test_info_says_so_beside_the_gpu(turing: None) -> None:
    (line,) = [value for title, value in info.facts() if title == "GPU 0"]
    assert line.startswith("T4, sm_75") and "not supported: cuda:0 has compute capability" in line


def test_a_supported_gpu_is_not_refused(turing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    _raw.require_code_for(torch.device("cuda", 0))
    (line,) = [value for title, value in info.facts() if title == "GPU 0"]
    assert "not supported" not in line
