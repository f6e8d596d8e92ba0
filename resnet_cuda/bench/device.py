"""What a benchmark needs from the device it runs on: a clock on the device's own timeline, memory, and facts."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from timeit import default_timer
from typing import Any

import torch

import resnet_cuda
from resnet_cuda import _selection

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "_STATUS_ALLOC_FAILED")


class Unsupported(RuntimeError):
    """The device has no such thing; the message says what and why."""


class CaptureFailed(Unsupported):
    """The device has CUDA graphs, but what was to be captured raised; the message says what."""


class Device:
    """Base of the devices. `kind` is "cuda", "cpu" or "dry-run"."""

    kind: str
    torch_device: torch.device
    name: str  # of the hardware, e.g. "NVIDIA H200"
    min_sample_seconds = 0.0  # several calls make one sample where one is shorter than this
    has_graphs = False

    def now(self) -> float:
        """Seconds on the host's clock."""
        return default_timer()

    def mark(self) -> Any:
        """A point on the device's timeline, behind all work started so far."""
        raise NotImplementedError

    def seconds(self, start: Any, end: Any) -> float:
        """Between two marks; only after `synchronize`."""
        raise NotImplementedError

    def synchronize(self) -> None:
        """Waits for all work started so far."""

    def before_sample(self) -> None:
        """Evicts what the previous call left in the device's caches, where that can be done."""

    def graph(self, function: Callable[[], object]) -> Callable[[], object]:
        """A function that replays `function`, captured as a CUDA graph. Raises Unsupported."""
        raise Unsupported(f"{self.name} has no CUDA graphs")

    def allocated(self) -> int | None:
        """Bytes in use now; None if unknown."""
        return None

    def peak_memory(self, function: Callable[[], object]) -> int | None:
        """Bytes in use at the peak of one call, `allocated` before it included; None if unknown."""
        return None

    def free_memory(self) -> int:
        """Bytes that could still be allocated."""
        raise NotImplementedError

    def release_memory(self) -> None:
        """Hands cached memory back."""
        gc.collect()

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether this error, or one that led to it, says that there is too little memory."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, (MemoryError, torch.OutOfMemoryError)):
                return True
            # Libraries and compilers wrap or reword the allocator's error.
            if isinstance(cause, RuntimeError) and any(t in str(cause) for t in _OUT_OF_MEMORY):
                return True
            cause = cause.__cause__ or cause.__context__
        return False

    def clocks(self) -> dict[str, Any]:
        """Clock rates, power and temperature now, on a CPU also how many CPUs other processes used since the last
        reading ("others_cpus"); empty where they cannot be read, or where another reading so soon
        would take more than a few percent of the time."""
        return {}

    def facts(self) -> dict[str, Any]:
        """What the hardware is."""
        return {"kind": self.kind, "name": self.name}

    def ours(self) -> AbstractContextManager[object]:
        """Selects the backend under test for the enclosed calls."""
        return nullcontext()


class CpuDevice(Device):
    """The CPU: calls return when their work is done, so the host's clock is the device's."""

    kind = "cpu"
    # Far longer than the clock's resolution, shorter than the scheduler's time slices: on a busy machine most samples
    # are then not interrupted, and their median is none that was.
    min_sample_seconds = 0.001

    def __init__(self) -> None:
        self.torch_device = torch.device("cpu")
        self.name = cpu_name()
        self._used = _cpu_seconds()  # at the last reading

    def mark(self) -> float:
        # torch.utils.benchmark's clock for the CPU. Its `timer` waits for accelerators first, which are idle here.
        return default_timer()

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def allocated(self) -> int | None:
        """The process's resident memory, all of Python and torch included: only differences mean something."""
        _return_freed_memory()
        return _status("VmRSS")

    def peak_memory(self, function: Callable[[], object]) -> int | None:
        # Freed memory that malloc keeps is resident already: in it, the call would seem to need nothing.
        _return_freed_memory()
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to VmRSS
        except OSError:
            return None
        function()
        return _status("VmHWM")

    def free_memory(self) -> int:
        for line in _lines("/proc/meminfo"):
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def release_memory(self) -> None:
        super().release_memory()
        _return_freed_memory()

    def clocks(self) -> dict[str, Any]:
        rates = [
            float(line.partition(":")[2])
            for line in _lines("/proc/cpuinfo")
            if line.startswith("cpu MHz")
        ]
        found: dict[str, Any] = {}
        if rates:
            mean = statistics.mean(rates)
            found = {"cpu_mhz": mean, "cpu_mhz_min": min(rates), "cpu_mhz_max": max(rates)}
        before, self._used = self._used, _cpu_seconds()
        if before and self._used and (wall := self._used[0] - before[0]) > 0:
            everyone, own = (self._used[i] - before[i] for i in (1, 2))
            found["others_cpus"] = max(0.0, everyone - own) / wall
        return found

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "threads": torch.get_num_threads(), "cpus": os.cpu_count()}


class DryRunDevice(CpuDevice):
    """The plan of a GPU on the CPU: our kernels on the emulator, everything else in torch's CPU ops.

    For trying the plan, not for figures.
    """

    kind = "dry-run"
    min_sample_seconds = 0.0
    has_graphs = True

    def __init__(self) -> None:
        super().__init__()
        self.name = "the emulator, a dry run"

    def graph(self, function: Callable[[], object]) -> Callable[[], object]:
        """The function itself: what stands behind the capture is tried, the capture is not."""
        return function

    def ours(self) -> AbstractContextManager[object]:
        # Not `testing.emulated`: that needs the module `_host`, which exists for one version of Python only.
        _selection.select_emulator(_selection.emulator_library(checked=False))  # for the raw ops
        return resnet_cuda.use_backend("emulated")


def _lines(path: str) -> Iterator[str]:
    """The lines of a file of the system; none where it has no such file."""
    try:
        with open(path) as file:
            yield from file
    except OSError:
        return


def _cpu_seconds() -> tuple[float, float, float] | None:
    """Now, CPU seconds that everything on this machine has used, and this process alone; None if unknown."""
    for line in _lines("/proc/stat"):
        if line.startswith("cpu "):
            user, nice, system, _idle, _wait, *interrupts = map(int, line.split()[1:9])
            ticks = user + nice + system + sum(interrupts)
            everyone = ticks / os.sysconf("SC_CLK_TCK")
            return default_timer(), everyone, sum(os.times()[:2])
    return None


def cpu_name() -> str:
    """The CPU's model, else its architecture."""
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _status(field: str) -> int | None:
    """A size in /proc/self/status, in bytes."""
    for line in _lines("/proc/self/status"):
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def _return_freed_memory() -> None:
    """Makes malloc give what is free in its heaps back to the system; only glibc has a call for that."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        pass


def open_device(kind: str | None = None) -> Device:
    """The device of that kind; None is "cuda" where torch finds a GPU, else "cpu".

    Raises:
        ValueError: the kind is unknown.
        RuntimeError: there is no usable GPU.
    """
    kind = kind or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda":
        from resnet_cuda.bench.cuda_device import CudaDevice

        return CudaDevice()
    makers: dict[str, Callable[[], Device]] = {"cpu": CpuDevice, "dry-run": DryRunDevice}
    if kind not in makers:
        raise ValueError(f"device is {kind!r}; accepted: 'cuda', 'cpu', 'dry-run'")
    return makers[kind]()
