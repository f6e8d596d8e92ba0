"""The kernel, op and block levels on a network of a few channels that has every kind of layer, and a look at what
their candidates do while they are timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from resnet_cuda import nn as fused_nn
from resnet_cuda.bench import computation, runner
from resnet_cuda.bench.device import CpuDevice, Device, DryRunDevice
from resnet_cuda.bench.plan import Plan, Workloads
from resnet_cuda.bench.runner import Runner
from resnet_cuda.bench.workload import ABSENT, OK, OURS, Candidate, Result, Workload
from resnet_cuda.models import ResNet, _registry
from tests.bench.tiny_networks import PLAN as MODELS_PLAN

EVERY_KIND = "tiny_every_kind"
EAGER = {OURS, "eager channels_last", "eager NCHW"}
GRAPHS = {f"{OURS} + graph", "eager channels_last + graph"}
PLAN = replace(MODELS_PLAN, levels=("kernel", "op", "block"), networks=(EVERY_KIND,))


def tiny_every_kind(**options: Any) -> ResNet:
    """Bottlenecks with a projection and without, two of these in a row, and strides."""
    return ResNet(fused_nn.Bottleneck, [3, 2], planes=(8, 16), num_classes=10, **options)


@contextmanager
def registered() -> Iterator[None]:
    """`EVERY_KIND` is a model inside, and lends layers instead of ResNet-50."""
    with (
        mock.patch.dict(_registry._models),
        mock.patch.object(computation, "COMPLETE", EVERY_KIND),
    ):
        _registry.register_model(tiny_every_kind)
        yield


def names(workload: Workload) -> set[str]:
    return {candidate.name for candidate in workload.candidates}


class _KeepsMemory:
    """Tiny tensors need not be handed back, and collecting Python's garbage each time takes longer than all else."""

    def release_memory(self) -> None:
        pass


class Cpu(_KeepsMemory, CpuDevice):
    """With so many bytes of free memory; None: as many as there are."""

    def __init__(self, free: int | None = None) -> None:
        super().__init__()
        self._free = free

    def free_memory(self) -> int:
        return super().free_memory() if self._free is None else self._free


class DryRun(_KeepsMemory, DryRunDevice):
    pass


def run(
    level: Workloads | Iterable[Workload], device: Device, plan: Plan = PLAN
) -> tuple[list[Result], list[str]]:
    """(results, notes) of a level, or of some workloads."""
    results: list[Result] = []
    notes: list[str] = []
    workloads = level(device, plan) if callable(level) else level
    with mock.patch.object(runner, "_settled_heap", nullcontext):  # see _KeepsMemory
        Runner(device, plan, results.append, notes.append).run(workloads)
    return results, notes


def complaints(results: Sequence[Result]) -> list[str]:
    """About everything that is neither right nor excused."""
    return [
        f"{r.workload} {r.pass_name} {r.dtype} {r.candidate}: {r.status} {r.message}"
        for r in results
        if r.status not in (OK, ABSENT)
    ]


class Call(NamedTuple):
    """An ATen op, or one of ours, as the dispatcher sees it."""

    name: str
    args: tuple[Any, ...]
    grad_mode: bool


class Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.calls.append(Call(func.name(), args, torch.is_grad_enabled()))
        return func(*args, **(kwargs or {}))


def timed(device: Device, candidate: Candidate) -> list[Call]:
    """What happens in one call of the function that is timed, after the first."""
    with device.ours():
        function = candidate.prepare()
        function()
        with Recording() as recording:
            function()
    return recording.calls


def copies(calls: Sequence[Call]) -> list[str]:
    """Conversions and copies of activations and filters."""
    copying = ("aten::_to_copy", "aten::clone", "aten::copy_")
    return [
        f"{call.name} of {list(call.args[0].shape)}"
        for call in calls
        if call.name.startswith(copying) and call.args[0].dim() == 4
    ]


def inputs(workload: Workload) -> dict[str, Tensor]:
    """What all its candidates share."""
    given: Callable[[], dict[str, Tensor]] = workload.check.given  # type: ignore[union-attr]
    return given()
