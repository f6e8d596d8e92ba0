"""Opens the libraries of cmake/RncDeviceLibrary.cmake: kernels by name, on the emulator or a GPU."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

BUILD = Path(__file__).resolve().parents[2] / "build"


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


class DeviceError(RuntimeError):
    """What a launch reported."""


class DeviceLibrary:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = library = ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
        library.rnc_device_malloc.restype = ctypes.c_void_p
        library.rnc_device_malloc.argtypes = [ctypes.c_uint64, ctypes.c_char_p, ctypes.c_int32]
        library.rnc_device_free.argtypes = [ctypes.c_void_p]
        library.rnc_device_free.restype = None
        for name in ("write", "read"):
            function = getattr(library, f"rnc_device_{name}")
            function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64]
        library.rnc_device_set_option.argtypes = [ctypes.c_char_p, ctypes.c_int64]
        library.rnc_device_kernel_name.argtypes = [ctypes.c_int32]
        for name in ("backend", "write", "read", "set_option", "kernel_name", "launch"):
            getattr(library, f"rnc_device_{name}").restype = ctypes.c_char_p

    @property
    def backend(self) -> str:
        """``emulated``, ``checked`` or ``cuda``."""
        return self._library.rnc_device_backend().decode()

    def kernels(self) -> list[str]:
        names = []
        while name := self._library.rnc_device_kernel_name(len(names)):
            names.append(name.decode())
        return names

    def set_options(self, **values: int) -> None:
        """Sets options of the emulator, by their names in ``emulator::Options``."""
        for name, value in values.items():
            self._raise_for(self._library.rnc_device_set_option(name.encode(), int(value)))

    def run(self, kernel: str, buffers: Sequence[Buffer], numbers: Sequence[int]) -> list[Tensor]:
        """Launches the kernel and returns its outputs; a fault is a DeviceError."""
        addresses: list[int] = []
        try:
            for buffer in buffers:
                addresses.append(self._allocate(buffer))
            error = self._library.rnc_device_launch(
                kernel.encode(),
                (ctypes.c_void_p * len(addresses))(*addresses),
                (ctypes.c_int64 * max(len(numbers), 1))(*numbers),
            )
            self._raise_for(error)
            return [
                self._read(buffer, address)
                for buffer, address in zip(buffers, addresses, strict=True)
                if isinstance(buffer, Output)
            ]
        finally:
            for address in addresses:
                self._library.rnc_device_free(address)

    def _allocate(self, buffer: Buffer) -> int:
        is_input = isinstance(buffer, Input)
        values = buffer.values.contiguous() if is_input else None
        size = values.nbytes if is_input else _bytes(buffer)
        address = self._library.rnc_device_malloc(size, buffer.name.encode(), int(is_input))
        if not address:
            raise MemoryError(f"{size} bytes of device memory for {buffer.name}")
        if is_input:
            self._raise_for(self._library.rnc_device_write(address, values.data_ptr(), size))
        return address

    def _read(self, buffer: Output, address: int) -> Tensor:
        values = torch.empty(buffer.shape, dtype=buffer.dtype)
        self._raise_for(self._library.rnc_device_read(values.data_ptr(), address, values.nbytes))
        return values

    @staticmethod
    def _raise_for(error: bytes | None) -> None:
        if error:
            raise DeviceError(error.decode())


def _bytes(buffer: Output) -> int:
    return torch.empty(buffer.shape, dtype=buffer.dtype, device="meta").nbytes


def find_library(name: str) -> Path:
    """The newest ``lib<name>.so`` of the build tree, or of the folder RNC_TEST_LIB_DIR."""
    file = f"lib{name}.so"
    folder = os.environ.get("RNC_TEST_LIB_DIR")
    found = list(Path(folder).glob(file)) if folder else list(BUILD.glob(f"**/{file}"))
    if not found:
        target = name.removesuffix("_checked").removesuffix("_cuda")
        raise FileNotFoundError(
            f"{file} is not in {folder or BUILD}: build the CMake target {target}, or set "
            "RNC_TEST_LIB_DIR to the folder that holds it"
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def open_library(name: str) -> DeviceLibrary:
    return DeviceLibrary(find_library(name))
