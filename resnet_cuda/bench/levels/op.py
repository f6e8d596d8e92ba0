"""The public ops against the same in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from resnet_cuda import ops
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.plan import Plan
from resnet_cuda.bench.workload import OURS, Candidate, Workload


def workloads(device: Device, plan: Plan) -> Iterator[Workload]:
    for dtype in plan.dtypes:
        yield add_relu(device, dtype, plan.batch, plan.image_size // 4)


def add_relu(device: Device, dtype: torch.dtype, batch: int, pixels: int) -> Workload:
    size = (batch, 256, pixels, pixels)

    def prepare(
        op: Callable[[torch.Tensor, torch.Tensor], object],
    ) -> Callable[[], Callable[[], object]]:
        def make() -> Callable[[], object]:
            x, residual = (
                torch.randn(size, device=device.torch_device, dtype=dtype).contiguous(
                    memory_format=torch.channels_last
                )
                for _ in range(2)
            )
            return lambda: op(x, residual)

        return make

    count = batch * 256 * pixels**2
    return Workload(
        "op",
        f"add_relu n{batch}-256x{pixels}x{pixels}",
        "inference",
        dtype,
        flops=0,
        bytes=3 * count * dtype.itemsize,
        candidates=[
            Candidate(OURS, prepare(ops.add_relu), ours=True),
            Candidate("eager channels_last", prepare(lambda x, r: torch.relu(x + r))),
        ],
    )
