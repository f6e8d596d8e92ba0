"""Kernel tests run the raw ops on every device there is: the emulator always, a GPU when one is at hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from resnet_cuda.testing import emulated

DEVICES = ["emulated", "cuda"] if torch.cuda.is_available() else ["emulated"]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device to put tensors on; the emulator is selected while the test runs."""
    if request.param == "cuda":
        yield "cuda"
        return
    with emulated():
        yield "cpu"
