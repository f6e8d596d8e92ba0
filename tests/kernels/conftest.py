"""Kernel tests run the raw ops on every device there is: the emulator always, a GPU when one is at hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pass_checks import HOPPER

from resnet_cuda import _raw
from resnet_cuda.testing import emulated
from tests.device_library import sass

DEVICES = ["emulated", "cuda"] if torch.cuda.is_available() else ["emulated"]


@pytest.fixture
def capability() -> tuple[int, int]:
    """Compute capability of the GPU that the emulator plays.

    Modules about passes that multiply 16 bits override it with every generation that has such kernels; all others
    would only run the same kernels twice.
    """
    return HOPPER


@pytest.fixture(scope="session")
def machine_code() -> list[sass.Kernel]:
    """Of the extension's kernels."""
    if not _raw.build_info().get("cuda_compiled"):
        pytest.skip("the extension was built without nvcc, so it has no machine code")
    return sass.kernels(_raw.PACKAGE / "_C.abi3.so")


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, capability: tuple[int, int]) -> Iterator[str]:
    """The device to put tensors on; the emulator is selected while the test runs."""
    if request.param == "cuda":
        if capability != HOPPER:
            pytest.skip("a GPU at hand is tested once")
        yield "cuda"
        return
    with emulated(capability=capability):
        yield "cpu"
