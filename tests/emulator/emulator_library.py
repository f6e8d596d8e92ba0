"""Opens the libraries that CMake's ``emulator_test_kernels`` builds from the kernels in this folder."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

ROUND_ROBIN, REVERSED, RANDOM = 0, 1, 2
LATE, EARLY, RANDOM_COMPLETION = 0, 1, 2
# (schedule, seed): each fixed order, and eighteen random ones.
SCHEDULES = [(ROUND_ROBIN, 1), (REVERSED, 1), *((RANDOM, seed) for seed in range(1, 19))]


class Options(ctypes.Structure):
    _fields_ = [
        ("schedule", ctypes.c_int32),
        ("seed", ctypes.c_uint32),
        ("workers", ctypes.c_int32),
        ("check", ctypes.c_int32),
        ("count", ctypes.c_int32),
        ("max_errors", ctypes.c_int32),
        ("cp_async", ctypes.c_int32),
        ("tma", ctypes.c_int32),
        ("wgmma", ctypes.c_int32),
        ("capability", ctypes.c_int32),
        ("multiprocessors", ctypes.c_int32),
    ]


COUNTERS = (
    "global_load_bytes global_store_bytes global_load_sectors global_store_sectors "
    "distinct_load_bytes distinct_store_bytes shared_load_bytes shared_store_bytes "
    "shared_wavefronts shared_wavefronts_ideal context_switches collectives "
    "distinct_load_sectors distinct_store_sectors mma_instructions mma_multiply_adds"
).split()


class Counters(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in COUNTERS]


class LaunchRecord(ctypes.Structure):
    _fields_ = [
        ("kernel", ctypes.c_char_p),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint64),
        ("counters", Counters),
        ("cluster", ctypes.c_uint32 * 3),
        ("starts_early", ctypes.c_uint32),
    ]


class EmulatorApi(ctypes.Structure):
    _fields_ = [
        ("options", ctypes.POINTER(Options)),
        ("checked", ctypes.c_int32),
        (
            "device_malloc",
            ctypes.CFUNCTYPE(
                ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_char_p, ctypes.c_int32
            ),
        ),
        ("device_free", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
        ("launch_count", ctypes.CFUNCTYPE(ctypes.c_uint64)),
        (
            "launch_record",
            ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.POINTER(LaunchRecord)),
        ),
        ("clear_launches", ctypes.CFUNCTYPE(None)),
    ]


@dataclass
class DeviceArray:
    """A numpy view of emulated device memory."""

    address: int
    array: np.ndarray


@dataclass
class Emulator:
    library: ctypes.CDLL
    api: EmulatorApi
    allocated: list[int] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path) -> Emulator:
        library = ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
        library.rnc_emulator_api.restype = ctypes.POINTER(EmulatorApi)
        library.rnc_test_launch.restype = ctypes.c_char_p
        return cls(library, library.rnc_emulator_api().contents)

    @property
    def options(self) -> Options:
        return self.api.options.contents

    def reset(self) -> None:
        for name, value in (("schedule", ROUND_ROBIN), ("seed", 1), ("workers", 0)):
            setattr(self.options, name, value)
        self.options.check = self.api.checked
        self.options.count = 0
        self.options.max_errors = 1
        self.options.cp_async = self.options.tma = self.options.wgmma = LATE
        for address in self.allocated:
            self.api.device_free(address)
        self.allocated.clear()
        self.api.clear_launches()

    def _malloc(self, count: int, dtype: type, name: str, initialised: int) -> DeviceArray:
        size = count * np.dtype(dtype).itemsize
        address = self.api.device_malloc(size, 0, name.encode(), initialised)
        assert address, f"device_malloc of {size} bytes for {name} failed"
        self.allocated.append(address)
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return DeviceArray(address, memory.view(dtype))

    def upload(self, values: np.ndarray, name: str) -> DeviceArray:
        out = self._malloc(values.size, values.dtype.type, name, initialised=1)
        out.array[:] = values.ravel()
        return out

    def empty(self, count: int, dtype: type, name: str) -> DeviceArray:
        return self._malloc(count, dtype, name, initialised=0)

    def launch(
        self,
        kernel: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        x: DeviceArray | None = None,
        y: DeviceArray | None = None,
        counts: DeviceArray | None = None,
        n: int = 0,
        operand: int = 0,
        cluster: tuple[int, ...] = (1,),
    ) -> str:
        """Returns the error message; empty when the launch succeeded."""

        def dim3(extent: tuple[int, ...]) -> ctypes.Array[ctypes.c_uint32]:
            return (ctypes.c_uint32 * 3)(*extent, *(1,) * (3 - len(extent)))

        def pointer(array: DeviceArray | None) -> ctypes.c_void_p:
            return ctypes.c_void_p(array.address if array else None)

        error = self.library.rnc_test_launch(
            kernel.encode(),
            dim3(grid),
            dim3(block),
            dim3(cluster),
            pointer(x),
            pointer(y),
            pointer(counts),
            n,
            operand,
        )
        return error.decode() if error else ""

    def launches(self) -> list[LaunchRecord]:
        records = []
        for index in range(self.api.launch_count()):
            record = LaunchRecord()
            self.api.launch_record(index, ctypes.byref(record))
            records.append(record)
        return records


def library_path(name: str) -> Path:
    folder = os.environ.get("RNC_TEST_LIB_DIR")
    build = Path(__file__).resolve().parents[2] / "build"
    found = sorted(Path(folder).glob(name) if folder else build.glob(f"**/{name}"))
    if not found:
        where = folder or build
        pytest.fail(
            f"{name} is not in {where}: build the CMake target emulator_test_kernels, or set "
            "RNC_TEST_LIB_DIR to the folder that holds it"
        )
    return max(found, key=lambda path: path.stat().st_mtime)
