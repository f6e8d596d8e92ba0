"""How much of what is measured: the knobs that every level obeys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from resnet_cuda.bench.device import Device
from resnet_cuda.bench.timing import Effort
from resnet_cuda.bench.workload import LEVELS, Workload

SWEEP = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
NETWORKS = ("resnet18", "resnet50", "resnet152", "resnext50_32x4d", "wrn_28_10")


@dataclass(frozen=True)
class Plan:
    """Sizes and choices of one run.

    Args:
        levels: which of LEVELS, in order.
        dtypes: of activations and weights (at model level also "float32 with autocast", see models).
        batch: images of kernels, ops and blocks, and of models outside a sweep.
        image_size: pixels per side of the network's input; layers scale with it.
        networks: models by name; the first also gives kernels, ops and blocks their layers.
        sweep: batch sizes of the throughput sweep; empty: none.
        effort: per comparison.
        compile: whether candidates that compile (torch.compile in its modes) take part.
        slow_compile: whether those that take minutes (max-autotune) do, too.
        first_layers: only so many distinct layers; None: all. For quick runs.
        only: parts of workloads' titles; empty: all.
    """

    levels: Sequence[str] = LEVELS
    dtypes: Sequence[torch.dtype] = (torch.bfloat16,)
    batch: int = 256
    image_size: int = 224
    networks: Sequence[str] = NETWORKS
    sweep: Sequence[int] = SWEEP
    effort: Effort = Effort()
    compile: bool = True
    slow_compile: bool = True
    first_layers: int | None = None
    only: Sequence[str] = ()

    def wants(self, workload: Workload) -> bool:
        return not self.only or any(part in workload.title for part in self.only)


GPU = Plan()
CPU = Plan(
    levels=(
        "op",
        "block",
        "model",
        "overhead",
    ),  # the kernels need a GPU; the CPU backend is oneDNN and ATen
    dtypes=(torch.float32, torch.bfloat16),
    batch=8,
    networks=("resnet18", "resnet50", "resnext50_32x4d"),
    sweep=(1, 2, 4, 8, 16),
)
# In three minutes on two cores, compilers included.
QUICK = replace(
    CPU,
    dtypes=(torch.float32,),
    batch=2,
    image_size=112,
    networks=("resnet18",),
    sweep=(1, 4),
    effort=Effort(seconds=1.0),
    first_layers=3,
)
# Every line of a GPU's plan on the emulator.
DRY_RUN = replace(
    GPU,
    batch=1,
    image_size=32,
    networks=("resnet18",),
    sweep=(1, 2),
    effort=Effort(seconds=0.0, min_rounds=2),
    compile=False,
    first_layers=2,
)


def default_plan(device: Device, quick: bool) -> Plan:
    """The plan of a run without options."""
    if device.kind == "dry-run":
        return DRY_RUN
    if quick:
        return QUICK
    return GPU if device.kind == "cuda" else CPU


# A level's module offers this; workloads are made one at a time, so that their tensors never exist together.
Workloads = Callable[[Device, Plan], Iterator[Workload]]
