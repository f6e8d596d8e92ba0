"""Opens the libraries that CMake's ``emulator_copy_kernels`` builds: kernels by name, with buffers and numbers."""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from emulator_library import (
    EARLY,
    LATE,
    RANDOM,
    RANDOM_COMPLETION,
    REVERSED,
    ROUND_ROBIN,
    DeviceArray,
    Emulator,
    EmulatorApi,
)

# (schedule, completion of copies, seed): every timing policy with every order of threads.
TIMINGS = [
    *itertools.product((ROUND_ROBIN, REVERSED), (LATE, EARLY, RANDOM_COMPLETION), (1,)),
    *itertools.product((RANDOM,), (LATE, EARLY, RANDOM_COMPLETION), (2, 3, 4, 5)),
]


class CopyKernels(Emulator):
    """The emulator with the kernels of asynchronous copies."""

    @classmethod
    def open(cls, path: Path) -> CopyKernels:
        library = ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
        library.rnc_emulator_api.restype = ctypes.POINTER(EmulatorApi)
        library.rnc_device_launch.restype = ctypes.c_char_p
        return cls(library, library.rnc_emulator_api().contents)

    def run(
        self, kernel: str, buffers: Sequence[DeviceArray] = (), numbers: Sequence[int] = ()
    ) -> str:
        """Returns the error message; empty when the launch succeeded."""
        error = self.library.rnc_device_launch(
            kernel.encode(),
            (ctypes.c_void_p * max(len(buffers), 1))(*(buffer.address for buffer in buffers)),
            (ctypes.c_int64 * max(len(numbers), 1))(*(int(number) for number in numbers)),
        )
        return error.decode() if error else ""

    def set_timing(self, schedule: int, completion: int, seed: int) -> None:
        self.options.schedule, self.options.seed = schedule, seed
        self.options.cp_async = self.options.tma = completion

    def free(self) -> None:
        """Frees all arrays, ahead of the end of the test."""
        for address in self.allocated:
            self.api.device_free(address)
        self.allocated.clear()


def values(count: int, dtype: type = np.float32) -> np.ndarray:
    """Distinct numbers, none of them zero."""
    return np.arange(1, count + 1).astype(dtype)
