"""A GPU: time by CUDA events, caches flushed between samples, CUDA graphs."""

from __future__ import annotations

from typing import Any

import torch

from resnet_cuda.bench.device import Device


class CudaDevice(Device):
    """The current GPU. `cuda` is torch.cuda, or what stands for it in tests."""

    kind = "cuda"
    has_graphs = True

    def __init__(self, cuda: Any = torch.cuda) -> None:
        self._cuda = cuda
        if not cuda.is_available():
            raise RuntimeError(
                "device is 'cuda', but torch finds no GPU; accepted: 'cpu', 'dry-run'"
            )
        self.torch_device = torch.device("cuda")
        self.name = cuda.get_device_name()

    def mark(self) -> Any:
        event = self._cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) * 1e-3

    def synchronize(self) -> None:
        self._cuda.synchronize()

    def free_memory(self) -> int:
        return self._cuda.mem_get_info()[0]
