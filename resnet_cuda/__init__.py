"""Residual networks on fused CUDA kernels: convolution, batch norm, shortcut and ReLU in as few
passes as they need."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from resnet_cuda import convert, models, nn, ops, reference
from resnet_cuda._backend import backend, use_backend

# These bind the functions over the submodules of the same names, for good: a later import of the
# submodule finds it loaded and binds nothing.
from resnet_cuda.explain import explain
from resnet_cuda.fuse import fuse, fuse_report, unfuse

if TYPE_CHECKING:
    from resnet_cuda import testing

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "backend",
    "convert",
    "explain",
    "fuse",
    "fuse_report",
    "models",
    "nn",
    "ops",
    "reference",
    "testing",
    "unfuse",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    """Loads what only tests and benchmarks need when it is first asked for."""
    if name == "testing":
        return importlib.import_module("resnet_cuda.testing")
    raise AttributeError(f"module 'resnet_cuda' has no attribute {name!r}")
