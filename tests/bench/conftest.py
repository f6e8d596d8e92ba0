"""A fake GPU, and a runner on it."""

from __future__ import annotations

import pytest

from tests.bench.candidates import Recorder
from tests.bench.fake_cuda import FakeGpu

GIB = 2**30


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu(memory_bytes=16 * GIB)


@pytest.fixture
def recorder(gpu: FakeGpu) -> Recorder:
    return Recorder(gpu)
