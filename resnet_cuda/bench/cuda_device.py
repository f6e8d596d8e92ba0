"""A GPU: time by CUDA events, caches flushed between samples, CUDA graphs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from resnet_cuda.bench.device import CaptureFailed, Device
from resnet_cuda.bench.gpu_monitor import GpuMonitor, open_monitor

CAPABILITY = (8, 0)  # the oldest that the kernels are built for
_GRAPH_WARM_UP_CALLS = 3
_LEAST_FLUSH_BYTES = 2**28
_FLUSH_SECONDS = 0.5e-3


class CudaDevice(Device):
    """The current GPU.

    Args:
        cuda: torch.cuda, or what stands for it in tests.
        empty: torch.empty, likewise.
        monitor: reads clocks; None: the driver's.

    Raises:
        RuntimeError: there is no GPU, or one that the kernels are not built for.
    """

    kind = "cuda"
    has_graphs = True

    def __init__(
        self,
        cuda: Any = torch.cuda,
        empty: Callable[..., Any] = torch.empty,
        monitor: GpuMonitor | None = None,
    ) -> None:
        self._cuda, self._empty = cuda, empty
        if not cuda.is_available():
            raise RuntimeError(
                f"device is 'cuda', but torch {torch.__version__} finds no GPU; needed: a GPU of compute capability "
                f"{_dotted(CAPABILITY)} or newer and a torch that was built with CUDA; "
                "without one: 'cpu', 'dry-run'"
            )
        self.name = cuda.get_device_name()
        capability = cuda.get_device_capability()
        if capability < CAPABILITY:
            raise RuntimeError(
                f"device is 'cuda', but the GPU is {self.name} of compute capability {_dotted(capability)}; "
                f"needed: {_dotted(CAPABILITY)} or newer, which the kernels are built for; "
                "without one: 'cpu', 'dry-run'"
            )
        self.torch_device = torch.device("cuda")
        self._properties = cuda.get_device_properties()
        uuid = getattr(self._properties, "uuid", None)
        self._monitor = monitor or open_monitor(uuid and f"GPU-{uuid}", cuda.current_device())
        self._flush_buffer: Any = None
        self._flush_writes = 1
        self._replayed_bytes = 0

    def mark(self) -> Any:
        event = self._cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) * 1e-3

    def synchronize(self) -> None:
        self._cuda.synchronize()

    def before_sample(self) -> None:
        # Writing a buffer of twice the L2's size leaves nothing of the last call in it (and dirty lines of its own, as
        # a preceding layer would). It has a second purpose: while the GPU writes, the host launches the sample, so
        # that the first mark passes with the kernels already queued and launches cost no time between the marks. Half a
        # millisecond of writes covers kernels, ops and blocks. It does not cover the hundreds of launches of
        # a small batch's model, and must not: whoever runs that without a graph waits for the launches, too.
        if self._flush_buffer is None:
            self._prepare_flush()
        for _ in range(self._flush_writes):
            self._flush_buffer.fill_(1)

    def _prepare_flush(self) -> None:
        size = max(2 * self._properties.L2_cache_size, _LEAST_FLUSH_BYTES)
        self._flush_buffer = self._empty(size, dtype=torch.uint8, device=self.torch_device)
        times = []
        for _ in range(3):
            start = self.mark()
            self._flush_buffer.fill_(1)
            end = self.mark()
            self.synchronize()
            times.append(self.seconds(start, end))
        self._flush_writes = math.ceil(_FLUSH_SECONDS / min(times))

    def graph(self, function: Callable[[], object]) -> Callable[[], object]:
        cuda = self._cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):  # libraries initialise and choose algorithms outside of the capture
            for _ in range(_GRAPH_WARM_UP_CALLS):
                function()
        cuda.current_stream().wait_stream(side)
        cuda.synchronize()
        graph, stream, pool = cuda.CUDAGraph(), cuda.current_stream(), cuda.graph_pool_handle()
        cuda.reset_peak_memory_stats()
        try:
            with cuda.graph(graph, pool):
                output = function()
        except Exception as error:
            self._leave_capture(stream, pool)
            if self.is_out_of_memory(error):
                raise
            first = error  # then comes what it made of the capture
            while isinstance(first.__context__, Exception):
                first = first.__context__
            raise CaptureFailed(
                f"cannot be captured as a CUDA graph: {type(first).__name__}: {first}"
            ) from error
        needed = cuda.max_memory_allocated() - cuda.memory_allocated()

        def replay() -> object:
            # A graph's intermediates lie in its own pool, which the allocator's peak does not show.
            self._replayed_bytes = max(self._replayed_bytes, needed)
            graph.replay()
            return output

        return replay

    def _leave_capture(self, stream: Any, pool: Any) -> None:
        """After a capture that failed. Where ending it fails, too, torch leaves the capture's stream in place, and
        before 2.12 its allocator and its generators stay in the capture: freeing memory and random numbers raise."""
        cuda = self._cuda
        cuda.set_stream(stream)
        for leave in (cuda.memory._cuda_endAllocateToPool, cuda.memory._cuda_releasePool):
            with suppress(Exception):  # it has left
                leave(cuda.current_device(), pool)
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the graph is empty
            with cuda.graph(cuda.CUDAGraph()):
                pass
        cuda.set_stream(stream)

    def allocated(self) -> int | None:
        return self._cuda.memory_allocated()

    def peak_memory(self, function: Callable[[], object]) -> int | None:
        self._cuda.synchronize()
        self._cuda.reset_peak_memory_stats()
        before, self._replayed_bytes = self._cuda.memory_allocated(), 0
        function()
        self._cuda.synchronize()
        return max(self._cuda.max_memory_allocated(), before + self._replayed_bytes)

    def free_memory(self) -> int:
        free, _ = self._cuda.mem_get_info()
        return free + self._cuda.memory_reserved() - self._cuda.memory_allocated()

    def release_memory(self) -> None:
        super().release_memory()
        self._cuda.empty_cache()

    def clocks(self) -> dict[str, Any]:
        return self._monitor.read()

    def facts(self) -> dict[str, Any]:
        properties = self._properties
        return {
            **super().facts(),
            "capability": _dotted((properties.major, properties.minor)),
            "sms": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
            "memory_bytes": properties.total_memory,
            "driver": self._monitor.driver(),
        }


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
