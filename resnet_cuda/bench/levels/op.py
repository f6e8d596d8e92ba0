"""The public ops on every distinct layer - inference, forward in training, forward and backward - and their peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from resnet_cuda.bench import computation, modes, networks
from resnet_cuda.bench.computation import (
    Random,
    Source,
    away_from_gate,
    for_statistics,
    shrinkable,
)
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.levels.public_ops import OPS, Function, Op
from resnet_cuda.bench.modes import INFERENCE, MODES, STEP, Made
from resnet_cuda.bench.plan import Plan
from resnet_cuda.bench.rule import Given
from resnet_cuda.bench.workload import Workload


def workloads(device: Device, plan: Plan) -> Iterator[Workload]:
    """Every op on the layers that it serves in the plan's first network, or on one of ResNet-50's if there is none.

    Compilers take part in the first layer only: they need seconds to minutes for each.
    """
    source = Source(plan)
    few = source.network.first(plan.first_layers)
    for dtype in plan.dtypes:
        first = True
        for make, select in OPS:
            for subject, facts in source.subjects(select, few):
                # Of a few layers, the forward pass within the step will do, once apart.
                for mode in MODES if first or plan.first_layers is None else (INFERENCE, STEP):
                    compilers = modes.compilers(mode, plan) if first else []
                    if compilers:
                        torch._dynamo.reset()  # else earlier layers count as recompilation
                    make_it = partial(_workload, device, dtype, make, mode, compilers)
                    yield shrinkable(make_it, subject, facts)
                first = False


def _workload(
    device: Device,
    dtype: torch.dtype,
    make: Callable[[Any], Op],
    mode: str,
    compilers: Sequence[networks.Variant],
    subject: Any,
) -> Workload:
    if mode != INFERENCE:
        subject = for_statistics(subject)
    op = make(subject)
    eager_make = partial(_make_plain, op)
    ways = [
        modes.way(device, style, mode)
        for style in modes.styles(
            device, partial(_make_ours, op), eager_make, mode, dtype, compilers
        )
    ]
    if mode == INFERENCE:
        ways += [modes.at_inference(way) for way in op.library_ways(device)]
    return computation.workload(
        device,
        dtype,
        level="op",
        name=op.name,
        pass_name=mode,
        inputs=partial(_inputs, op, mode),
        plain=modes.plain(eager_make, mode),
        ways=ways,
        parts=op.parts(mode, dtype),
        part_of_network=op.subject,
        facts={"op": op.name.partition(" ")[0]},
    )


def _inputs(op: Op, mode: str, random: Random) -> Given:
    given = op.inputs(random)
    if mode == STEP:
        given["dz"] = random.normal(op.subject.output)
        if op.linear is not None:
            exact = given.to(torch.float64).fresh()
            given["dz"] = away_from_gate(given["dz"], op.linear(exact, True))
    return given


def _make_ours(op: Op, own: Given, training: bool, mode: str | None) -> Made:
    leaves = _leaves(op, own, training)
    return Made(op.ours(own, training), leaves)


def _make_plain(op: Op, own: Given, training: bool, mode: str | None) -> Made:
    leaves = _leaves(op, own, training)
    tensors = dict(own)
    if mode == "freezing":
        frozen = networks.compiled(_Constants(op.plain, tensors), mode)
        activations = {name: tensors[name] for name in modes.ACTIVATIONS if name in tensors}
        return Made(lambda: frozen(activations), leaves)
    if mode is None:
        return Made(lambda: op.plain(tensors, training), leaves)

    def forward(tensors: Mapping[str, Tensor]) -> Tensor:
        return op.plain(tensors, training)

    compiled = networks.compiled(forward, mode)
    return Made(lambda: compiled(tensors), leaves)


def _leaves(op: Op, own: Given, training: bool) -> dict[str, Tensor]:
    """Those that get gradients, made so in `own`, by name."""
    if training:
        own.update({name: own[name].detach().requires_grad_() for name in op.leaves})
    return {name: own[name] for name in op.leaves}


class _Constants(nn.Module):
    """A function whose tensors but x are a module's, which is what freezing takes for constants."""

    def __init__(self, function: Function, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._function = function
        for name, tensor in tensors.items():
            if name not in modes.ACTIVATIONS:
                self.register_buffer(name, tensor)

    def forward(self, activations: Mapping[str, Tensor]) -> Tensor:
        return self._function({**activations, **dict(self.named_buffers())}, False)
