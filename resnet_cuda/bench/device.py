"""What a benchmark needs from the device it runs on: a clock on the device's own timeline, memory, and facts."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

import resnet_cuda


class Unsupported(RuntimeError):
    """The device has no such thing; the message says what and why."""


class Device:
    """Base of the devices. `kind` is "cuda", "cpu" or "dry-run"."""

    kind: str
    torch_device: torch.device
    name: str  # of the hardware, e.g. "NVIDIA H200"
    min_sample_seconds = 0.0  # several calls make one sample where one is shorter than this
    has_graphs = False

    def now(self) -> float:
        """Seconds on the host's clock, for budgets only."""
        return time.perf_counter()

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

    def peak_memory(self, function: Callable[[], object]) -> int | None:
        """Bytes that one call needs at its peak, what is allocated already included; None if unknown."""
        return None

    def free_memory(self) -> int:
        """Bytes that could still be allocated."""
        raise NotImplementedError

    def release_memory(self) -> None:
        """Hands cached memory back."""
        gc.collect()

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, (MemoryError, torch.OutOfMemoryError))

    def clocks(self) -> dict[str, float]:
        """Clock rates, power and temperature now; empty where they cannot be read."""
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
    min_sample_seconds = 0.005

    def __init__(self) -> None:
        self.torch_device = torch.device("cpu")
        self.name = _cpu_name()

    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def free_memory(self) -> int:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "threads": torch.get_num_threads(), "cpus": os.cpu_count()}


class DryRunDevice(CpuDevice):
    """The plan of a GPU on the CPU: our kernels on the emulator, everything else in torch's CPU ops.

    For trying the plan, not for figures.
    """

    kind = "dry-run"
    min_sample_seconds = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.name = "the emulator, a dry run"

    def ours(self) -> AbstractContextManager[object]:
        return resnet_cuda.testing.emulated()


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


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
