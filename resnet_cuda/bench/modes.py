"""A differentiable computation as it is used: at inference, forward in training, forward and backward.

And in which ways: layout, autocast, compiled, as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resnet_cuda.bench import networks
from resnet_cuda.bench.computation import Way
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.plan import Plan
from resnet_cuda.bench.rule import Given, Reading
from resnet_cuda.bench.workload import OURS

INFERENCE, FORWARD, STEP = "inference", "forward", "training step"
MODES = (INFERENCE, FORWARD, STEP)
ACTIVATIONS = (
    "x",
    "residual",
    "dz",
)  # among the inputs' names; the others are parameters and buffers


class Made(NamedTuple):
    """`call` computes z [N, K, P, Q]; `leaves` are the tensors that get gradients, by name."""

    call: Callable[[], Tensor]
    leaves: Mapping[str, Tensor]


# (tensors of one's own, training, torch.compile's mode or None) -> what computes with them
Make = Callable[[Given, bool, str | None], Made]


@dataclass(frozen=True)
class Style:
    """One way to run what `make` makes.

    Args:
        autocast: parameters in float32; activations as they are inside of a network under autocast.
        mode: torch.compile's, "freezing" included; None: not compiled.
    """

    name: str
    make: Make
    channels_last: bool = True
    autocast: bool = False
    mode: str | None = None
    graph: bool = False
    preparing_seconds: float = 0.0


def styles(
    device: Device,
    ours: Make,
    eager: Make,
    mode: str,
    dtype: torch.dtype,
    compilers: Sequence[networks.Variant] = (),
) -> list[Style]:
    """Ours, eager torch in both layouts, CUDA graphs where the device has them, autocast, and the compilers given."""
    found = [
        Style(OURS, ours),
        Style("eager channels_last", eager),
        Style("eager NCHW", eager, channels_last=False),
    ]
    if device.has_graphs:
        found += [replace(s, name=f"{s.name} + graph", graph=True) for s in found[:2]]
    if dtype == torch.bfloat16 and mode == STEP:
        found.append(Style(networks.AUTOCAST.name, eager, autocast=True))
    for variant in compilers:
        seconds = variant.preparing_seconds
        found.append(Style(variant.name, eager, mode=variant.mode, preparing_seconds=seconds))
    return found


def compilers(mode: str, plan: Plan) -> list[networks.Variant]:
    """torch.compile in the modes that the plan wants and that suit; weights are constants only at inference."""
    if not plan.compile or mode == FORWARD:  # a step's forward is compiled with its backward
        return []
    found = [networks.COMPILED]
    if mode == INFERENCE:
        found.append(networks.FROZEN)
    return [*found, networks.AUTOTUNED] if plan.slow_compile else found


def way(device: Device, style: Style, mode: str) -> Way:
    """The candidate."""

    def prepare(given: Given) -> Callable[[], object]:
        own = given.fresh() if style.channels_last else given.fresh().nchw()
        if style.autocast:
            own = Given((n, t if n in ACTIVATIONS else t.float()) for n, t in own.items())
        if style.mode == networks.AUTOTUNED.mode:
            for name in ACTIVATIONS:
                # Inside a network nobody copies activations into a CUDA graph's memory first. (Freezing would take
                # them for constants and compute everything when it compiles.)
                if name in own:
                    torch._dynamo.mark_static_address(own[name])
        made = style.make(own, mode != INFERENCE, style.mode)

        def forward() -> Tensor:
            with _autocast(device, style):
                return made.call()

        run = _run(forward, made, own.get("dz"), mode)
        if style.mode is not None:
            with networks.compiling(style.mode):
                run()
        return device.graph(run) if style.graph else run

    reading = Reading(_narrow if style.autocast else None, style.channels_last)
    return Way(style.name, prepare, reading, style.preparing_seconds)


def plain(make: Make, mode: str) -> Callable[[Given], Mapping[str, Tensor]]:
    """What the judge compares with: z and the gradient of every leaf, by name."""

    def compute(given: Given) -> Mapping[str, Tensor]:
        own = given.fresh()
        made = make(own, mode != INFERENCE, None)
        output = _run(made.call, made, own.get("dz"), mode)()
        if mode != STEP:
            assert isinstance(output, Tensor)
            return {"z": output}
        assert isinstance(output, tuple)
        return dict(zip(("z", *(f"d{name}" for name in made.leaves)), output, strict=True))

    return compute


def at_inference(way: Way) -> Way:
    """A way that knows of no gradients, in the mode in which INFERENCE runs all others."""

    def prepare(given: Given) -> Callable[[], object]:
        function = way.prepare(given)

        def run() -> object:
            with torch.no_grad():
                return function()

        return run

    return replace(way, prepare=prepare)


def _narrow(output: tuple[Tensor, ...]) -> list[Tensor]:
    """The gradients of float32 filters, which autocast computes in bfloat16, in that."""
    return [tensor.bfloat16() if tensor.dim() == 4 else tensor for tensor in output]


def _run(
    forward: Callable[[], Tensor], made: Made, dz: Tensor | None, mode: str
) -> Callable[[], object]:
    leaves = list(made.leaves.values())

    def inference() -> object:
        with torch.no_grad():
            return forward()

    def training_forward() -> object:
        return forward().detach()

    def step() -> object:
        z = forward()
        assert dz is not None
        return z.detach(), *torch.autograd.grad(z, leaves, dz.to(z.dtype))

    return {INFERENCE: inference, FORWARD: training_forward, STEP: step}[mode]


def _autocast(device: Device, style: Style) -> AbstractContextManager[Any]:
    if not style.autocast:
        return nullcontext()
    # Weights are cast anew in each call, as in every training step.
    return torch.autocast(
        device.torch_device.type, dtype=torch.bfloat16, cache_enabled=not style.graph
    )
