"""Kernel tests run the raw ops on every device there is: the emulator always, a GPU when one is at hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from resnet_cuda.testing import emulated


@pytest.fixture(params=["emulated", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device to put tensors on; the emulator is selected while the test runs."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device on this machine")
        yield "cuda"
        return
    with emulated():
        yield "cpu"
