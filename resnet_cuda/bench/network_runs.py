"""Candidates that run a whole network: inference and one training step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resnet_cuda.bench import networks
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.network_check import Gradients, gradients_of, loss_of
from resnet_cuda.bench.networks import Variant
from resnet_cuda.bench.workload import Candidate

# So small that weights stay as good as they are over any number of steps; the arithmetic is the same.
_LEARNING_RATE = 1e-6
_MOMENTUM = 0.9


@dataclass(frozen=True)
class Problem:
    """A network by name, `batch` images of `pixels` squared, activations in `dtype` on `device`."""

    device: Device
    network: str
    batch: int
    pixels: int
    dtype: torch.dtype

    def images(self, variant: Variant, batch: int) -> Tensor:
        target = self.device.torch_device
        x = networks.images(batch, self.pixels, self.dtype, target, variant.channels_last)
        return x.float() if variant.autocast else x

    def build(self, variant: Variant, training: bool) -> nn.Module:
        target = self.device.torch_device
        return networks.build(variant, self.network, self.dtype, target, training)

    def autocast(self, variant: Variant) -> AbstractContextManager[Any]:
        if not variant.autocast:
            return nullcontext()
        # Weights are cast anew in each step, in a captured one, too.
        return torch.autocast(
            self.device.torch_device.type, dtype=self.dtype, cache_enabled=not variant.graph
        )


class _FirstOutput:
    """Calls `function`; the first call's result is what `keep` makes of it, for the check. Later ones hold nothing."""

    def __init__(self, function: Callable[[], object], keep: Callable[[Any], object]) -> None:
        self._function = function
        self._keep: Callable[[Any], object] | None = keep

    def __call__(self) -> object:
        result = self._function()
        keep, self._keep = self._keep, None
        return None if keep is None else keep(result)


def inference(problem: Problem, variant: Variant) -> Candidate:
    """The logits [N, classes] of all images, batch norms with their running statistics."""

    def prepare() -> Callable[[], object]:
        network = problem.build(variant, training=False)
        x = problem.images(variant, problem.batch)
        forward: Callable[[Tensor], Tensor] = network
        # Compilers see parameters that need no gradient either way, and inference tensors are not for all of them.
        mode = torch.inference_mode if variant.mode is None else torch.no_grad
        if variant.engine:
            forward = networks.tensorrt_engine(network, x)
        if variant.mode is not None:
            forward = networks.compiled(network, variant.mode)

        def run() -> Tensor:
            with mode(), problem.autocast(variant):
                return forward(x)

        if variant.mode is not None:
            with networks.compiling(variant.mode):
                run()
        function = problem.device.graph(run) if variant.graph else run
        return _FirstOutput(function, lambda logits: logits.clone())

    return Candidate(variant.name, prepare, variant.is_ours, variant.preparing_seconds)


def training(problem: Problem, variant: Variant, checked: int) -> Candidate:
    """Forward, loss, backward and SGD with momentum. The first call returns the gradients before any step of `checked`
    images, which are the whole batch or another, smaller one."""

    def prepare() -> Callable[[], object]:
        network = problem.build(variant, training=True)
        initial = {name: t.clone() for name, t in network.state_dict().items()}
        forward = network if variant.mode is None else networks.compiled(network, variant.mode)

        def ready(batch: int) -> Callable[[], object]:
            with networks.compiling(variant.mode):
                step = _step(problem, variant, network, forward, batch)
                if variant.mode is not None:
                    step()
            function = problem.device.graph(step) if variant.graph else step
            _restore(network, initial)
            return function

        if checked == problem.batch:
            return _FirstOutput(ready(checked), lambda _: gradients_of(network))
        ready(checked)()
        evidence: Gradients = gradients_of(network)
        return _FirstOutput(ready(problem.batch), lambda _: evidence)

    return Candidate(variant.name, prepare, variant.is_ours, variant.preparing_seconds)


def _step(
    problem: Problem,
    variant: Variant,
    network: nn.Module,
    forward: Callable[[Tensor], Tensor],
    batch: int,
) -> Callable[[], object]:
    x = problem.images(variant, batch)
    y = networks.labels(batch, x.device)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=_LEARNING_RATE, momentum=_MOMENTUM, foreach=True
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with problem.autocast(variant):
            logits = forward(x)
        loss_of(logits, y).backward()
        optimizer.step()

    return step


def training_step(problem: Problem, variant: Variant) -> Callable[[], object]:
    """One step of a network that is neither compiled nor captured."""
    network = problem.build(variant, training=True)
    return _step(problem, variant, network, network, problem.batch)


def _restore(network: nn.Module, initial: dict[str, Tensor]) -> None:
    """Weights and statistics as they were before compilers and graphs warmed up, in the same memory."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            tensor.copy_(initial[name])
