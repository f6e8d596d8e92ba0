"""Fixtures for the whole suite: seeds, and other packages' networks where they are installed."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest
import torch

_keep_alive: list[torch.library.Library] = []


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def _import_torchvision() -> ModuleType:
    """torchvision's models. They work without its C++ ops, which a build for another torch cannot load."""
    try:
        return importlib.import_module("torchvision.models")
    except ImportError:
        pytest.skip("torchvision is not installed")
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for op in ("nms", "qnms"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _keep_alive.append(library)
        return importlib.import_module("torchvision.models")


@pytest.fixture(scope="session")
def torchvision_models() -> ModuleType:
    return _import_torchvision()


@pytest.fixture(scope="session")
def timm(torchvision_models: ModuleType) -> ModuleType:
    return pytest.importorskip("timm")
