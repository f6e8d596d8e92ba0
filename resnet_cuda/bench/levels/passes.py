"""What the workloads of the kernels' elementwise passes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_cuda.bench import computation
from resnet_cuda.bench.ceilings import Part
from resnet_cuda.bench.computation import EAGER, Random, Way
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Elementwise, Pool
from resnet_cuda.bench.rule import Given, Reading
from resnet_cuda.bench.workload import OURS, Workload
from resnet_cuda.ops._kernels import unpack_mask

Prepared = Callable[[], object]
Prepare = Callable[[Given], Prepared]
_aten = torch.ops.aten


def pass_workload(
    device: Device,
    dtype: torch.dtype,
    part_of_network: Elementwise | Pool,
    pass_name: str,
    *,
    inputs: Callable[[Random], Given],
    plain: Callable[[Given], Mapping[str, Tensor]],
    ours: Prepare,
    peer: Prepare,
    part: Part,
    says: str,
    read: Callable[[Any], Sequence[Tensor | None]] | None = None,
    read_peer: Callable[[Any], Sequence[Tensor | None]] | None = None,
) -> Workload:
    relu = isinstance(part_of_network, Elementwise) and part_of_network.relu
    return computation.workload(
        device,
        dtype,
        level="kernel",
        name=f"{part_of_network}{' relu' if relu else ''}",
        pass_name=pass_name,
        inputs=inputs,
        plain=plain,
        ways=[Way(OURS, ours, Reading(read)), Way(EAGER, peer, Reading(read_peer))],
        parts=[part],
        part_of_network=part_of_network,
        facts={"peer": says},
    )


def pack_mask(keep: Tensor) -> Tensor:
    """bool [N, C, H, W] -> the kernels' bit mask: uint8 [ceil(N C H W / 8)], NHWC order."""
    flat = keep.permute(0, 2, 3, 1).reshape(-1).to(torch.uint8)
    bytes_ = F.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    shifts = torch.arange(8, dtype=torch.uint8, device=keep.device)
    return (bytes_ << shifts).sum(1, dtype=torch.uint8)


def opened(g: Given) -> Tensor:
    """dz where the ReLU let something through, else 0."""
    return _aten.threshold_backward.default(g["dz"], g["z"], 0) if "z" in g else g["dz"]


def by_mask(z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(z, z as the mask lets it through); a bit that is set where z is 0 shows as a 1."""
    kept = torch.where(z == 0, torch.ones_like(z), z)
    return z, torch.where(unpack_mask(mask, z.shape), kept, 0)
