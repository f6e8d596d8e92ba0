"""The compiled extension: loading it, and what was built. What its raw ops return is in `_fakes`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch

PACKAGE = Path(__file__).parent
# Compute capabilities: the oldest for which kernels are compiled, the oldest with tensor cores that they use.
OLDEST_GPU = (7, 5)
FIRST_TENSOR_CORES = (8, 0)
HOW_TO_BUILD = (
    "build them with `make build`, or `pip install --no-build-isolation .` in the source tree "
    "(needs a C++ compiler, and nvcc for a GPU); "
    'until then `use_backend("cpu")` and `use_backend("reference")` work'
)

_import_error: ImportError | None = None
try:
    importlib.import_module("resnet_cuda._C")
except ImportError as error:
    _import_error = error


def is_built() -> bool:
    """Whether the compiled extension is there."""
    return _import_error is None


def require() -> None:
    """Raises RuntimeError, saying how to build, where the compiled extension is missing."""
    if _import_error is not None:
        raise RuntimeError(
            f"the CUDA kernels are not built (importing resnet_cuda._C: {_import_error}); {HOW_TO_BUILD}"
        ) from _import_error


def build_info() -> dict[str, Any]:
    """What was compiled: CUDA or not, its version, architectures, torch's ABI, the compiler. Empty
    without the extension."""
    return json.loads(torch.ops.resnet_cuda._build_info()) if is_built() else {}


def require_cuda() -> None:
    """Raises RuntimeError where the extension is missing or was built without CUDA."""
    require()
    if not build_info()["cuda_compiled"]:
        raise RuntimeError(
            f"the extension was built without nvcc, so it has no kernels for a GPU; {HOW_TO_BUILD}"
        )


def runs_on(capability: tuple[int, int], architectures: str) -> bool:
    """Whether a GPU of this compute capability can run the code compiled for `architectures`, as CMake
    names them: "80-real" runs on 8.0 and 8.6, "80" on all from 8.0 by its PTX, "90a-real" on 9.0 only.

    GPUs from 8.0 on also run kernels for tensor cores, which are not compiled for older architectures.
    """
    major, minor = capability
    for name in architectures.split():
        number, _, kind = name.partition("-")
        own = divmod(int(number.rstrip("af")), 10)
        exact = number[-1] == "a"
        if own < FIRST_TENSOR_CORES <= capability:
            continue
        if capability == own and kind != "virtual":
            return True
        if not exact and kind != "virtual" and own[0] == major and own[1] <= minor:
            return True
        if not exact and kind != "real" and own <= capability:
            return True
    return False


@cache
def require_code_for(device: torch.device) -> None:
    """Raises RuntimeError where the kernels were not compiled for this GPU.

    A machine without GPUs has CUDA tensors without values alone (torch's FakeTensorMode), which run no code.
    """
    if not torch.cuda.is_available():
        return
    capability, architectures = torch.cuda.get_device_capability(device), _architectures()
    if not runs_on(capability, architectures):
        raise RuntimeError(
            f"{device} has compute capability {capability[0]}.{capability[1]}, and the kernels were "
            f"compiled for {architectures}; accepted: a GPU of these, 7.5 or newer (an 8.0 without "
            '-real includes all newer ones), or use_backend("reference")'
        )


def _architectures() -> str:
    return str(build_info()["architectures"])


def require_ops(names: Iterable[str]) -> None:
    """Raises ImportError, saying how to build, where the compiled extension has no such op: it is of other sources."""
    missing = [name for name in names if not hasattr(torch.ops.resnet_cuda, name)]
    if missing:
        raise ImportError(
            f"resnet_cuda._C was built from other sources than these: it has no {', '.join(missing)}; {HOW_TO_BUILD}"
        )
