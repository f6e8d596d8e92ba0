"""What the workloads of the kernels' passes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_cuda.bench import computation, costs
from resnet_cuda.bench.ceilings import Part
from resnet_cuda.bench.computation import EAGER, EAGER_NCHW, EPS, Random, Way
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Elementwise, Pool
from resnet_cuda.bench.rule import Given, Reading
from resnet_cuda.bench.workload import OURS, Workload
from resnet_cuda.ops._saved_gate import unpack_mask

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
        ways=[Way(OURS, ours, Reading(read)), *in_both_layouts(peer, read_peer)],
        parts=[part],
        part_of_network=part_of_network,
        facts={"peer": says},
    )


def in_both_layouts(
    peer: Prepare, read: Callable[[Any], Sequence[Tensor | None]] | None = None
) -> list[Way]:
    """Eager torch in its channels_last and in its NCHW kernels: which are faster depends on pass, dtype and device."""
    return [
        Way(EAGER, peer, Reading(read)),
        Way(EAGER_NCHW, lambda g: peer(g.nchw()), Reading(read, channels_last=False)),
    ]


def statistics_of(partials: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Partial sums -> (mean, invstd) [C]."""
    wide = partials.double()
    mean, var = merge_statistics(wide, tile_sizes(wide, rows), rows)
    return mean.to(partials.dtype), torch.rsqrt(var + EPS).to(partials.dtype)


def tile_sizes(partials: Tensor, rows: int) -> Tensor:
    """How many of all pixels each tile of partial sums [tiles, 2, C] is about: [tiles, 1], in their dtype."""
    sizes = torch.full_like(partials[:, 0, :1], costs.STATISTICS_ROWS)
    sizes[-1] = rows - costs.STATISTICS_ROWS * (len(sizes) - 1)
    return sizes


def merge_statistics(partials: Tensor, sizes: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """[tiles, 2, C], means and sums of squared deviations of tiles of such sizes -> (mean, biased variance) [C]."""
    means, deviations = partials.unbind(1)
    mean = (sizes * means).sum(0) / rows
    return mean, (deviations + sizes * (means - mean) ** 2).sum(0) / rows


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
