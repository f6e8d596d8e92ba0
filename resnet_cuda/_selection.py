"""What the raw ops run on: the emulator's library and the GPU that it plays, or a GPU, and how they start there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from resnet_cuda import _compiler, _raw


def emulator_library(checked: bool) -> Path:
    """The shared library with the kernels compiled for the host; `checked` reports races, bounds
    and uninitialised reads.

    Raises:
        RuntimeError: it is not built.
    """
    _raw.require()
    path = _raw.PACKAGE / ("librnc_emulated_checked.so" if checked else "librnc_emulated.so")
    if not path.exists():
        raise RuntimeError(f"the emulated kernels are missing ({path}); {_raw.HOW_TO_BUILD}")
    return path


class Selection(NamedTuple):
    """The library that runs raw ops on CPU tensors, whether its convolutions may use TF32, and of the GPU that it plays
    the compute capability and how many multiprocessors it has."""

    library: Path | None
    allow_tf32: bool = False
    capability: tuple[int, int] = (9, 0)
    multiprocessors: int = 132


_selected = Selection(None)


def select_emulator(
    library: Path | None,
    allow_tf32: bool = False,
    capability: tuple[int, int] = (9, 0),
    multiprocessors: int = 132,
) -> None:
    """Opens the library that runs raw ops on CPU tensors; None deselects. TF32 needs asking for: torch's
    switch, on by default, only concerns GPUs."""
    global _selected
    wanted = Selection(library, allow_tf32, capability, multiprocessors)
    if wanted != _selected:
        path = "" if library is None else str(library)
        major, minor = capability
        torch.ops.resnet_cuda._select_emulator(path, allow_tf32, 10 * major + minor)
        _selected = wanted


def selected_emulator() -> Selection:
    """What the last `select_emulator` asked for."""
    return _selected


def _is_there(device: torch.device) -> bool:
    """Whether it is a GPU that can be asked: without one, tensors without values have "cuda" for their device, too."""
    return device.type == "cuda" and torch.cuda.is_available()


def capability_of(device: torch.device) -> tuple[int, int]:
    """The compute capability of a GPU; for the CPU and a GPU that is not there, of the one that the emulator plays."""
    return torch.cuda.get_device_capability(device) if _is_there(device) else _selected.capability


def multiprocessors_of(device: torch.device) -> int:
    """The same for how many multiprocessors it has."""
    if not _is_there(device):
        return _selected.multiprocessors
    return torch.cuda.get_device_properties(device).multi_processor_count


@_compiler.constant_result
def has_tensor_cores(device: torch.device) -> bool:
    """Whether convolutions there may take our kernels for tensor cores; older GPUs run SIMT kernels."""
    return capability_of(device) >= _raw.FIRST_TENSOR_CORES


def allows_tf32() -> bool:
    """Whether torch.backends.cudnn.conv.fp32_precision lets float32 convolutions on a GPU use TF32 now."""
    return bool(torch.ops.resnet_cuda._allows_tf32()) if _raw.is_built() else False


@contextmanager
def starting_early(on: bool) -> Iterator[None]:
    """Whether kernels that may start on a GPU while the one before them runs do so, meanwhile: for all threads, and for
    a comparison; results do not depend on it. They do unless told otherwise."""
    torch.ops.resnet_cuda._start_early(on)
    try:
        yield
    finally:
        torch.ops.resnet_cuda._start_early(True)


@lru_cache(maxsize=256)
def has_block_kernel(
    x_size: tuple[int, int, int, int],
    reduced: int,
    dtype: torch.dtype,
    capability: tuple[int, int],
) -> bool:
    """Whether a whole bottleneck, x_size [N, C, H, W] reduced to so many channels, is one launch there."""
    from resnet_cuda import _host

    name = str(dtype).removeprefix("torch.")
    plan = _host.bottleneck_block_plan(name, x_size, reduced, capability=capability)
    return plan["error"] is None
