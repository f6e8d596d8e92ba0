"""Opens what cmake/RncDeviceLibrary.cmake builds: kernels on the emulator or on a GPU, behind one C API.

Needs numpy and nothing else, so that a build folder and the tests can be carried to a machine with a GPU.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import numpy as np

BACKENDS = ("emulated", "checked", "cuda")
_SUFFIXES = {"emulated": "", "checked": "_checked", "cuda": "_cuda"}

SCHEDULES = {"round_robin": 0, "reversed": 1, "random": 2}
COMPLETIONS = {"late": 0, "early": 1, "random": 2}


class DeviceError(RuntimeError):
    """What the emulator reported or the GPU's runtime answered."""


def library_path(name: str, backend: str) -> Path | None:
    """The newest build of a library, in $RNC_TEST_LIB_DIR or anywhere in build/; None where there is none."""
    file = f"lib{name}{_SUFFIXES[backend]}.so"
    folder = os.environ.get("RNC_TEST_LIB_DIR")
    build = Path(__file__).resolve().parents[2] / "build"
    found = sorted(Path(folder).glob(file) if folder else build.glob(f"**/{file}"))
    return max(found, key=lambda path: path.stat().st_mtime) if found else None


class DeviceLibrary:
    """Kernels of one library on one backend."""

    def __init__(self, path: Path) -> None:
        self._library = library = ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
        c, message = ctypes, ctypes.c_char_p
        for name, restype, argtypes in (
            ("backend", message, []),
            ("describe", message, [c.c_char_p, c.c_uint64, c.POINTER(c.c_int32)]),
            ("malloc", c.c_void_p, [c.c_uint64, c.c_char_p, c.c_int32]),
            ("free", None, [c.c_void_p]),
            ("write", message, [c.c_void_p, c.c_void_p, c.c_uint64]),
            ("read", message, [c.c_void_p, c.c_void_p, c.c_uint64]),
            ("launch", message, [c.c_char_p, c.POINTER(c.c_void_p), c.POINTER(c.c_int64)]),
            ("kernel_name", message, [c.c_int32]),
            ("set_option", message, [c.c_char_p, c.c_int64]),
        ):
            function = getattr(library, f"rnc_device_{name}")
            function.restype, function.argtypes = restype, argtypes
            setattr(self, f"_{name}", function)
        self.backend = self._backend().decode()

    @staticmethod
    def _require(message: bytes | None) -> None:
        if message:
            raise DeviceError(message.decode())

    def describe(self) -> tuple[str, int]:
        """The device's name and its compute capability times 10; raises DeviceError where there is none."""
        name, capability = ctypes.create_string_buffer(256), ctypes.c_int32()
        self._require(self._describe(name, len(name), ctypes.byref(capability)))
        return name.value.decode(), capability.value

    def kernels(self) -> list[str]:
        names = []
        while name := self._kernel_name(len(names)):
            names.append(name.decode())
        return names

    def set_options(self, **options: int | str) -> None:
        """The emulator's options by name; schedules and completions by theirs."""
        for name, value in options.items():
            if isinstance(value, str):
                value = (SCHEDULES if name == "schedule" else COMPLETIONS)[value]
            self._require(self._set_option(name.encode(), int(value)))

    def upload(self, array: np.ndarray, name: str) -> int:
        """Device memory with the array's bytes; free() it."""
        array = np.ascontiguousarray(array)
        address = self.allocate(array.nbytes, name, initialised=True)
        self._require(self._write(address, array.ctypes.data, array.nbytes))
        return address

    def allocate(self, size: int, name: str, initialised: bool = False) -> int:
        address = self._malloc(size, name.encode(), int(initialised))
        if not address:
            raise DeviceError(f"no memory for {size} bytes of {name}")
        return address

    def download(self, address: int, like: np.ndarray) -> np.ndarray:
        """An array of the shape and type of `like`."""
        out = np.empty_like(like, order="C")
        self._require(self._read(out.ctypes.data, address, out.nbytes))
        return out

    def free(self, address: int) -> None:
        self._free(address)

    def launch(self, kernel: str, buffers: list[int | None], numbers: list[int]) -> None:
        """Runs a kernel to completion; raises DeviceError with what went wrong."""
        pointers = (ctypes.c_void_p * len(buffers))(*buffers)
        values = (ctypes.c_int64 * len(numbers))(*numbers)
        self._require(self._launch(kernel.encode(), pointers, values))
