"""Torch's compiler forgets what other tests have compiled, and runs one thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from resnet_cuda import _raw


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """The tensors are tiny and tests run in parallel processes: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def built() -> None:
    if not _raw.is_built():
        pytest.skip("resnet_cuda._C is not built: run `make build`")
