"""One thread each, as for the tests of ops; what other tests have compiled can be forgotten."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from resnet_cuda import _raw
from tests.ops.conftest import _one_thread  # noqa: F401


@pytest.fixture
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def built() -> None:
    if not _raw.is_built():
        pytest.skip("resnet_cuda._C is not built: run `make build`")
