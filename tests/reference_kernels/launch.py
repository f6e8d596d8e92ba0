"""Launches kernels of a device library on torch tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.device_library.library import DeviceLibrary, library_path


@dataclass(frozen=True)
class Input:
    """A buffer that the kernel reads; ``name`` appears in messages."""

    name: str
    values: Tensor


@dataclass(frozen=True)
class Output:
    """A buffer that the kernel fills."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


Buffer = Input | Output


def launch(
    library: DeviceLibrary, kernel: str, buffers: Sequence[Buffer], numbers: Sequence[int]
) -> list[Tensor]:
    """Runs the kernel and returns its outputs; a fault is a DeviceError."""
    addresses: list[int] = []
    try:
        for buffer in buffers:
            if isinstance(buffer, Input):
                addresses.append(library.upload(as_bytes(buffer.values), buffer.name))
            else:
                size = as_bytes(torch.empty(buffer.shape, dtype=buffer.dtype)).nbytes
                addresses.append(library.allocate(size, buffer.name))
        library.launch(kernel, list(addresses), list(numbers))
        return [
            download(library, address, buffer)
            for address, buffer in zip(addresses, buffers, strict=True)
            if isinstance(buffer, Output)
        ]
    finally:
        for address in addresses:
            library.free(address)


def as_bytes(tensor: Tensor) -> np.ndarray:
    """The tensor's memory; numpy does not know every type of torch's."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy()


def download(library: DeviceLibrary, address: int, buffer: Output) -> Tensor:
    like = as_bytes(torch.empty(buffer.shape, dtype=buffer.dtype))
    values = torch.from_numpy(library.download(address, like))
    return values.view(buffer.dtype).view(buffer.shape)


@cache
def open_library(name: str, backend: str) -> DeviceLibrary:
    path = library_path(name, backend)
    if path is None:
        raise FileNotFoundError(
            f"the library {name} is not built for the backend {backend!r}: build the CMake target "
            f"{name}, or set RNC_TEST_LIB_DIR to the folder that holds it"
        )
    return DeviceLibrary(Path(path))
