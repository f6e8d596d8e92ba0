"""Fixtures for the whole suite: seeds, and other packages' networks where they are installed."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from resnet_cuda.bench import peers


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _exact_float32() -> Iterator[None]:
    """On a GPU, too: torch and our kernels compute float32 in float32 unless a test asks for TF32."""
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = True


@pytest.fixture(scope="session")
def torchvision_models() -> ModuleType:
    try:
        return peers.torchvision_models()
    except ImportError:
        pytest.skip("torchvision is not installed")


@pytest.fixture(scope="session")
def timm(torchvision_models: ModuleType) -> ModuleType:
    return pytest.importorskip("timm")
