"""Residual networks on fused CUDA kernels: convolution, batch norm, shortcut and ReLU in as few passes as they need."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from resnet_cuda import ops
from resnet_cuda._backend import backend, use_backend

if TYPE_CHECKING:
    from resnet_cuda import models, nn, reference, testing
    from resnet_cuda.explain import explain
    from resnet_cuda.fuse import fuse, unfuse

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "backend",
    "explain",
    "fuse",
    "models",
    "nn",
    "ops",
    "reference",
    "testing",
    "unfuse",
    "use_backend",
]

_SUBMODULES = ("models", "nn", "reference", "testing")
_FUNCTIONS = {"fuse": "fuse", "unfuse": "fuse", "explain": "explain"}


def __getattr__(name: str) -> Any:
    """Loads the parts that not every user needs when they are first asked for."""
    if name in _SUBMODULES:
        return importlib.import_module(f"resnet_cuda.{name}")
    if name in _FUNCTIONS:
        value = getattr(importlib.import_module(f"resnet_cuda.{_FUNCTIONS[name]}"), name)
        # The import binds the submodule of the same name to the package; the function is the public meaning.
        globals()[name] = value
        return value
    raise AttributeError(f"module 'resnet_cuda' has no attribute {name!r}")
