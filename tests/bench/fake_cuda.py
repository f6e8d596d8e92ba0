"""A GPU that is not there: the part of torch.cuda that CudaDevice uses, asynchronous, on a virtual clock.

`FakeGpu` is the machine: its host clock, its memory, what its streams have to do. `FakeGpu.cuda` stands for the module
torch.cuda; every attribute of it exists there (test_cuda_device.py compares). Launching costs the host a little
time and returns; the work is done when the streams get to it, and only then are events complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from resnet_cuda.bench.cuda_device import CudaDevice
from resnet_cuda.bench.gpu_monitor import GpuMonitor

LAUNCH_SECONDS = 5e-6  # of the host, per launch
WRITE_RATE = 4e12  # bytes per second


class FakeGpu:
    """Args:
    speed: of the machine at a time, 1 is full; a fraction of it makes everything slower, launches included.
    """

    def __init__(
        self,
        *,
        capability: tuple[int, int] = (9, 0),
        l2_bytes: int = 2**26,
        memory_bytes: int = 2**36,
        speed: Callable[[float], float] = lambda now: 1.0,
        available: bool = True,
    ) -> None:
        self.capability, self.l2_bytes, self.memory_bytes = capability, l2_bytes, memory_bytes
        self.speed, self.available = speed, available
        self.now = 0.0
        self.log: list[tuple[str, float, float]] = []  # (what, start, end) on the device
        self.allocated = self.reserved = self.peak = 0
        self.lost: str | None = None  # an error that every later call raises
        self._in_l2: object = None
        self._faults: list[tuple[float, str]] = []
        self.streams: list[Any] = []
        self.cuda = _make_cuda(self)
        self.stream = self.cuda.Stream()
        self.capturing: Any = None
        self.underway: list[Any] = []  # pools of captures that torch's allocator thinks go on
        self.generator_captures = False

    # What functions under test do.

    def launch(self, seconds: float, name: str = "kernel", cached: float | None = None) -> None:
        """Enqueues work and returns. `cached`: what it takes where it was the last to use the L2."""
        self._check()
        self.spend(LAUNCH_SECONDS)
        if self.capturing is not None:
            self.capturing.work.append((seconds, name, cached))
        else:
            self._enqueue(seconds, name, cached)

    def spend(self, seconds: float) -> None:
        """Work of the host."""
        self.now += seconds / self.speed(self.now)

    def fail_later(self, message: str) -> None:
        """A kernel that goes wrong: the next synchronisation says so, and so does everything after it."""
        self._faults.append((self.stream.free_at, message))

    @contextmanager
    def allocate(self, size: int) -> Iterator[None]:
        """Bytes that are in use inside the context."""
        self.take(size)
        try:
            yield
        finally:
            self.allocated -= size

    def take(self, size: int) -> None:
        """Bytes that stay in use."""
        if self.allocated + size > self.memory_bytes:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB"
            )
        self.allocated += size
        self.reserved = max(self.reserved, self.allocated)
        self.peak = max(self.peak, self.allocated)

    def empty(self, size: int, dtype: torch.dtype, device: torch.device) -> SimpleNamespace:
        """Stands for torch.empty: a buffer that can be filled."""
        assert device.type == "cuda" and dtype == torch.uint8
        self.take(size)
        written = size if size >= 2 * self.l2_bytes else 0

        def fill_(value: int) -> None:
            self.launch(size / WRITE_RATE, f"write {written} bytes")

        return SimpleNamespace(fill_=fill_)

    def rand(self) -> None:
        """Stands for torch.rand on the GPU."""
        if self.generator_captures != (self.capturing is not None):
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        self.launch(1e-6, "rand")

    # What the fake of torch.cuda is made of.

    def replay(self, work: list[tuple[float, str, float | None]]) -> None:
        self._check()
        self.spend(LAUNCH_SECONDS)
        for seconds, name, cached in work:
            self._enqueue(seconds, name, cached)

    def finish(self, until: float) -> None:
        """The host waits."""
        if self.capturing is not None:
            self.capturing.broken = True
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        self.now = max(self.now, until)
        self._check()

    def _enqueue(self, seconds: float, name: str, cached: float | None) -> None:
        stream = self.stream
        start = max(stream.free_at, self.now)
        if cached is not None and self._in_l2 == name:
            seconds = cached
        self._in_l2 = name
        stream.free_at = start + seconds / self.speed(start)
        self.log.append((name, start, stream.free_at))

    def _check(self) -> None:
        for time, message in self._faults:
            if time <= self.now:
                self.lost = message
        if self.lost:
            raise RuntimeError(self.lost)


def _make_cuda(gpu: FakeGpu) -> SimpleNamespace:
    """The attributes of torch.cuda that the fake has."""

    class Event:
        def __init__(self, enable_timing: bool = False) -> None:
            self._timed = enable_timing
            self._time: float | None = None

        def record(self, stream: Any = None) -> None:
            self._time = max((stream or gpu.stream).free_at, gpu.now)

        def query(self) -> bool:
            return self._time is None or self._time <= gpu.now

        def elapsed_time(self, end_event: Any) -> float:
            if not (self._timed and end_event._timed):
                raise ValueError("Both events must be created with argument 'enable_timing=True'.")
            if self._time is None or end_event._time is None:
                raise ValueError("Both events must be recorded before calculating elapsed time.")
            if not (self.query() and end_event.query()):
                raise RuntimeError("CUDA error: device not ready")
            return (end_event._time - self._time) * 1e3

    class Stream:
        def __init__(self, device: Any = None) -> None:
            self.free_at = 0.0
            gpu.streams.append(self)

        def wait_stream(self, stream: Any) -> None:
            self.free_at = max(self.free_at, stream.free_at)

    def set_stream(stream: Any) -> None:
        gpu.stream = stream

    @contextmanager
    def stream(stream: Any) -> Iterator[None]:
        before, gpu.stream = gpu.stream, stream
        try:
            yield
        finally:
            gpu.stream = before

    class CUDAGraph:
        def __init__(self) -> None:
            self.work: list[tuple[float, str, float | None]] = []
            self.broken = False

        def replay(self) -> None:
            gpu.replay(self.work)

    class graph:  # noqa: N801
        def __init__(self, cuda_graph: Any, pool: Any = None) -> None:
            self._graph, self._pool = cuda_graph, pool or object()

        def __enter__(self) -> None:
            self._before, gpu.stream = gpu.stream, Stream()
            gpu.capturing = self._graph
            gpu.underway.append(self._pool)
            gpu.generator_captures = True

        def __exit__(self, *args: object) -> None:
            gpu.capturing = None
            if (
                self._graph.broken
            ):  # like torch 2.11, which then goes back to nothing that was before
                raise RuntimeError("CUDA error: operation failed due to a previous error")
            end_allocate(0, self._pool)
            gpu.generator_captures = False
            gpu.stream = self._before

    def end_allocate(device: int, pool: Any) -> None:
        if pool not in gpu.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        gpu.underway.remove(pool)

    def release_pool(device: int, pool: Any) -> None:
        pass

    def reset_peak_memory_stats() -> None:
        gpu.peak = gpu.allocated

    def empty_cache() -> None:
        if gpu.underway:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")
        gpu.reserved = gpu.allocated

    return SimpleNamespace(
        is_available=lambda: gpu.available,
        current_device=lambda: 0,
        get_device_name=lambda: "Fake H200",
        get_device_capability=lambda: gpu.capability,
        get_device_properties=lambda: SimpleNamespace(
            major=gpu.capability[0],
            minor=gpu.capability[1],
            multi_processor_count=132,
            L2_cache_size=gpu.l2_bytes,
            total_memory=gpu.memory_bytes,
        ),
        Event=Event,
        Stream=Stream,
        current_stream=lambda: gpu.stream,
        set_stream=set_stream,
        stream=stream,
        synchronize=lambda: gpu.finish(max(s.free_at for s in gpu.streams)),
        CUDAGraph=CUDAGraph,
        graph=graph,
        graph_pool_handle=object,
        memory=SimpleNamespace(
            _cuda_endAllocateToPool=end_allocate, _cuda_releasePool=release_pool
        ),
        mem_get_info=lambda: (gpu.memory_bytes - gpu.reserved, gpu.memory_bytes),
        memory_allocated=lambda: gpu.allocated,
        memory_reserved=lambda: gpu.reserved,
        max_memory_allocated=lambda: gpu.peak,
        reset_peak_memory_stats=reset_peak_memory_stats,
        empty_cache=empty_cache,
    )


class FakeCudaDevice(CudaDevice):
    """CudaDevice, all its lines, on a fake GPU and its clock."""

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__(gpu.cuda, gpu.empty, GpuMonitor(None))
        self.gpu = gpu

    def now(self) -> float:
        return self.gpu.now
