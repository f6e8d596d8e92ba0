"""The few things of a GPU that the safety checks need, and what stands for them in a dry run."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from resnet_cuda.bench.device import Device

_CYCLES = 200_000_000  # about 0.1 s


class Gpu:
    """The current GPU. `device`: the benchmarks' view of it; `cuda`: torch.cuda, or what stands for it in tests."""

    def __init__(self, device: Device, cuda: Any = torch.cuda) -> None:
        self._device, self._cuda = device, cuda
        self.tensors = device.torch_device
        self.second = torch.device("cuda", 1)

    @property
    def has_graphs(self) -> bool:
        """Whether torch can capture CUDA graphs here."""
        return self._device.has_graphs

    def count(self) -> int:
        return int(self._cuda.device_count())

    def synchronize(self) -> None:
        self._device.synchronize()

    def side_stream(self) -> Any:
        """A stream that starts behind all work so far."""
        stream = self._cuda.Stream()
        stream.wait_stream(self._cuda.current_stream())
        return stream

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        return self._cuda.stream(stream)

    def delay(self) -> None:
        """Keeps the current stream busy for a tenth of a second."""
        self._cuda._sleep(_CYCLES)

    def is_busy(self, stream: Any) -> bool:
        """Whether the stream has work left."""
        return not stream.query()

    def graph(self, function: Callable[[], object]) -> Callable[[], Any]:
        """`function`, captured after some calls; a replay returns the same tensors each time, filled anew."""
        return self._device.graph(function)

    @contextmanager
    def no_synchronization(self) -> Iterator[None]:
        """torch raises where one of its calls would wait for the GPU."""
        self._cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            self._cuda.set_sync_debug_mode("default")

    def allocated(self) -> int:
        """Bytes that tensors hold."""
        gc.collect()
        return int(self._cuda.memory_allocated())


class DryGpu(Gpu):
    """The CPU in a GPU's place: each call ends before the next begins, and a replay is a call."""

    has_graphs = False  # torch.compile would want real ones

    def count(self) -> int:
        return 1

    def side_stream(self) -> Any:
        return None

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        return nullcontext()

    def delay(self) -> None:
        pass

    def is_busy(self, stream: Any) -> bool:
        return True  # as on a GPU, where the delay is under way

    @contextmanager
    def no_synchronization(self) -> Iterator[None]:
        yield

    def allocated(self) -> int:
        gc.collect()
        return 0
