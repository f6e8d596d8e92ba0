"""What each convolution pass of a network will be: kernel, tile, arithmetic, traffic and the floor on a GPU.

The passes are the workloads of the bench's kernel level, so that what is planned is what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.kernels.prediction import plan_of
from resnet_cuda.bench import layers
from resnet_cuda.bench.computation import shrinkable
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Layer, Network
from resnet_cuda.bench.levels import convolution_passes as convolution
from resnet_cuda.bench.levels.kernel import CONVOLUTIONS
from resnet_cuda.bench.tables import Cell, Table
from resnet_cuda.bench.workload import Workload
from resnet_cuda.explain import Gpu
from resnet_cuda.testing.problems import ConvProblem, wide_resnet_layers


def _imagenet(name: str, batch: int) -> Network:
    return layers.network(name, batch, 224)


def _wide_resnet(batch: int) -> Network:
    """WRN-28-10 on 32 x 32, each convolution as if batch norm and ReLU followed."""
    found = [
        Layer(conv, batch_norm=True, relu=True, input_gradient=conv.C != 3, count=conv.count)
        for conv in wide_resnet_layers(28, 10, batch)
    ]
    return Network(found, [], [], [], [], [])


NETWORKS: dict[str, Callable[[int], Network]] = {
    "resnet50": partial(_imagenet, "resnet50"),
    "resnext50_32x4d": partial(_imagenet, "resnext50_32x4d"),
    "wrn_28_10": _wide_resnet,
}


@dataclass(frozen=True)
class PlannedPass:
    """One pass of one distinct layer; `count`: how often the network has it. floor_us: the longer of its arithmetic and
    its traffic on the plan's GPU."""

    network: str
    workload: str
    pass_name: str
    dtype: str
    count: int
    kernel: str
    why: str
    tile: tuple[int, int, int]
    grid: tuple[int, int, int]
    splits: int
    flops: int
    bytes: int
    floor_us: float

    @property
    def key(self) -> tuple[str, str, str]:
        """As in a report's results."""
        return self.workload, self.pass_name, self.dtype

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def passes(
    device: Device, name: str, dtype: torch.dtype, batch: int, first_layers: int | None
) -> Iterator[tuple[Workload, ConvProblem]]:
    """Every pass of the network's first distinct layers."""
    network = NETWORKS[name](batch).first(first_layers)
    for make, select in CONVOLUTIONS:
        for layer in select(network):
            yield shrinkable(partial(make, device, dtype), layer, {"network": name}), layer.conv
    for stem in network.pooled_stems():
        make_it = partial(convolution.max_pool, device, dtype)
        yield shrinkable(make_it, stem, {"network": name}), stem.layer.conv


def planned(
    network: str, workload: Workload, conv: ConvProblem, gpu: Gpu, tf32: bool = False
) -> PlannedPass:
    plan = plan_of(workload, conv, tf32)
    floor_us = gpu.floor_us(workload.flops, workload.bytes, workload.dtype, plan["tf32"])
    return PlannedPass(
        network,
        workload.name,
        workload.pass_name,
        "TF32" if plan["tf32"] else str(workload.dtype).removeprefix("torch."),
        workload.count,
        plan["kernel"] if plan["error"] is None else "none",
        plan["why"] if plan["error"] is None else plan["error"],
        plan["tile"],
        plan["grid"],
        plan["splits"],
        workload.flops,
        workload.bytes,
        floor_us,
    )


def tables(found: Sequence[PlannedPass], gpu: Gpu) -> Iterator[Table]:
    """One for each network and dtype."""
    header = ["pass", "times", "kernel", "tile", "blocks", "GFLOP", "MB", "floor us"]
    for name, dtype in dict.fromkeys((p.network, p.dtype) for p in found):
        mine = [p for p in found if (p.network, p.dtype) == (name, dtype)]
        rows = [[Cell(text) for text in _row(p)] for p in mine]
        simt = sum(p.count * p.floor_us for p in mine if "_simt_" in p.kernel)
        total = sum(p.count * p.floor_us for p in mine)
        notes = [
            f"floors: {gpu.name}, {gpu.bandwidth / 1e12:.1f} TB/s; bytes: every operand once",
            f"{100 * simt / total:.1f}% of the floors are of passes without tensor cores",
        ]
        yield Table(f"{name}, {dtype}", header, rows, notes)


def _row(p: PlannedPass) -> list[str]:
    x, y, z = p.grid
    return [
        f"{p.pass_name.removeprefix('conv_')} {p.workload}",
        str(p.count),
        p.kernel.removeprefix("conv_"),
        "x".join(map(str, p.tile)),
        str(x * y * z),
        f"{p.flops / 1e9:.2f}",
        f"{p.bytes / 1e6:.1f}",
        f"{p.floor_us:.1f}",
    ]
