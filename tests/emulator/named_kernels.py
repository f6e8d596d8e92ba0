"""Opens the libraries whose kernels are launched by name, with buffers and numbers (tests/device_library)."""

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

# (schedule, completion of asynchronous operations, seed): every timing policy with every order of threads.
TIMINGS = [
    *itertools.product((ROUND_ROBIN, REVERSED), (LATE, EARLY, RANDOM_COMPLETION), (1,)),
    *itertools.product((RANDOM,), (LATE, EARLY, RANDOM_COMPLETION), (2, 3, 4, 5)),
]
# What kernels may read without being given it.
ARGUMENTS = 4


class NamedKernels(Emulator):
    """The emulator with kernels that have names."""

    @classmethod
    def open(cls, path: Path) -> NamedKernels:
        library = ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
        library.rnc_emulator_api.restype = ctypes.POINTER(EmulatorApi)
        library.rnc_device_launch.restype = ctypes.c_char_p
        return cls(library, library.rnc_emulator_api().contents)

    def run(
        self,
        kernel: str,
        buffers: Sequence[DeviceArray | None] = (),
        numbers: Sequence[int] = (),
    ) -> str:
        """Returns the error message; empty when the launch succeeded. Numbers may be unsigned."""
        addresses = [buffer.address if buffer else None for buffer in buffers]
        wrapped = [(int(number) + 2**63) % 2**64 - 2**63 for number in numbers]
        error = self.library.rnc_device_launch(
            kernel.encode(),
            (ctypes.c_void_p * max(len(addresses), ARGUMENTS))(*addresses),
            (ctypes.c_int64 * max(len(wrapped), ARGUMENTS))(*wrapped),
        )
        return error.decode() if error else ""

    def set_timing(self, schedule: int, completion: int, seed: int) -> None:
        self.options.schedule, self.options.seed = schedule, seed
        self.options.cp_async = self.options.tma = self.options.wgmma = completion

    def free(self) -> None:
        """Frees all arrays, ahead of the end of the test."""
        for address in self.allocated:
            self.api.device_free(address)
        self.allocated.clear()


def values(count: int, dtype: type = np.float32) -> np.ndarray:
    """Distinct numbers, none of them zero."""
    return np.arange(1, count + 1).astype(dtype)
