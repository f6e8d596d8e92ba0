"""The kernels' addition with ReLU and pools as workloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_cuda.bench import costs
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Elementwise, Pool
from resnet_cuda.bench.levels.passes import Prepared, by_mask, opened, pack_mask, pass_workload
from resnet_cuda.bench.rule import Given
from resnet_cuda.bench.workload import Workload

raw = torch.ops.resnet_cuda
_aten = torch.ops.aten


def add_relu_forward(device: Device, dtype: torch.dtype, addition: Elementwise) -> Workload:
    def peer(g: Given) -> Tensor:
        return (g["x"] + g["residual"]).relu_()

    def plain(g: Given) -> Mapping[str, Tensor]:
        z = peer(g)
        return {"z": z, "what the mask lets through": z}

    return pass_workload(
        device,
        dtype,
        addition,
        "add_relu_forward",
        inputs=lambda random: Given(
            x=random.normal(addition.shape), residual=random.normal(addition.shape)
        ),
        plain=plain,
        ours=lambda g: lambda: raw._add_relu_forward(g["x"], g["residual"], True),
        read=lambda output: by_mask(*output),
        peer=lambda g: partial(peer, g),
        read_peer=lambda z: (z, z),
        part=costs.elementwise(addition.shape, dtype, tensors=3, mask=True),
        says="add, ReLU in place; no mask",
    )


def add_relu_backward(device: Device, dtype: torch.dtype, addition: Elementwise) -> Workload:
    def ours(g: Given) -> Prepared:
        mask = pack_mask(g["z"] > 0)
        return lambda: raw._add_relu_backward(g["dz"], mask)

    return pass_workload(
        device,
        dtype,
        addition,
        "add_relu_backward",
        inputs=lambda random: Given(
            dz=random.normal(addition.shape), z=random.normal(addition.shape).relu()
        ),
        plain=lambda g: {"dx": opened(g)},
        ours=ours,
        peer=lambda g: partial(opened, g),
        part=costs.elementwise(addition.shape, dtype, tensors=2, mask=True),
        says="threshold_backward, which reads the output in place of the mask",
    )


def max_pool_forward(device: Device, dtype: torch.dtype, pool: Pool) -> Workload:
    window = (pool.kernel, pool.stride, pool.padding)

    def peer(g: Given) -> tuple[Tensor, Tensor]:
        return _aten.max_pool2d_with_indices.default(g["x"], *([size] * 2 for size in window))

    return pass_workload(
        device,
        dtype,
        pool,
        "max_pool_forward",
        inputs=lambda random: Given(x=random.normal(pool.shape)),
        plain=lambda g: {"y": peer(g)[0]},
        ours=lambda g: lambda: raw._max_pool_forward(g["x"], *window, True),
        read=lambda output: output[:1],
        peer=lambda g: partial(peer, g),
        read_peer=lambda output: output[:1],
        part=costs.max_pool(pool, dtype),
        says="max_pool2d_with_indices: indices of 8 bytes, ours have one",
    )


def max_pool_backward(device: Device, dtype: torch.dtype, pool: Pool) -> Workload:
    window = (pool.kernel, pool.stride, pool.padding)
    pairs = [[size] * 2 for size in window]

    def peer(g: Given) -> Callable[[], Tensor]:
        indices = _aten.max_pool2d_with_indices.default(g["x"], *pairs)[1]
        return lambda: _aten.max_pool2d_with_indices_backward.default(
            g["dy"], g["x"], *pairs, [1, 1], False, indices
        )

    def ours(g: Given) -> Prepared:
        winners = raw._max_pool_forward(g["x"], *window, True)[1]
        return lambda: raw._max_pool_backward(g["dy"], winners, pool.shape, *window)

    return pass_workload(
        device,
        dtype,
        pool,
        "max_pool_backward",
        inputs=lambda random: Given(x=random.normal(pool.shape), dy=random.normal(pool.output)),
        plain=lambda g: {"dx": peer(g)()},
        ours=ours,
        peer=peer,
        part=costs.max_pool(pool, dtype),
        says="max_pool2d_with_indices_backward: indices of 8 bytes, ours have one",
    )


def average_pool_forward(device: Device, dtype: torch.dtype, pool: Pool) -> Workload:
    def peer(g: Given) -> Tensor:
        return F.adaptive_avg_pool2d(g["x"], 1)

    return pass_workload(
        device,
        dtype,
        pool,
        "global_avg_pool_forward",
        inputs=lambda random: Given(x=random.normal(pool.shape)),
        plain=lambda g: {"y": peer(g)},
        ours=lambda g: lambda: raw._global_avg_pool_forward(g["x"]),
        peer=lambda g: partial(peer, g),
        part=costs.average_pool(pool, dtype),
        says="adaptive_avg_pool2d",
    )


def average_pool_backward(device: Device, dtype: torch.dtype, pool: Pool) -> Workload:
    pixels = pool.shape[2] * pool.shape[3]

    def peer(g: Given) -> Tensor:
        spread = (g["dy"] / pixels).expand(pool.shape)
        return spread.contiguous(memory_format=torch.channels_last)

    return pass_workload(
        device,
        dtype,
        pool,
        "global_avg_pool_backward",
        inputs=lambda random: Given(dy=random.normal(pool.output)),
        plain=lambda g: {"dx": peer(g)},
        ours=lambda g: lambda: raw._global_avg_pool_backward(g["dy"], pool.shape),
        peer=lambda g: partial(peer, g),
        part=costs.average_pool(pool, dtype),
        says="the quotient, expanded and stored",
    )
