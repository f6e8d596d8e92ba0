"""What a call costs before any arithmetic: every public op and module at a tiny size, in the host's time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resnet_cuda import nn as fused_nn
from resnet_cuda import ops, reference
from resnet_cuda.bench import networks
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.levels.model import inference_workload, training_workload
from resnet_cuda.bench.network_check import Check, LogitsRule
from resnet_cuda.bench.network_runs import Problem
from resnet_cuda.bench.plan import Plan
from resnet_cuda.bench.workload import OURS, Candidate, Workload

_EAGER = "eager channels_last"
_SIZE = (1, 8, 4, 4)
_NETWORK, _BATCH, _PIXELS = "resnet18", 1, 32
PASSES = ("inference", "forward", "backward")


class _Tensors(NamedTuple):
    x: Tensor
    residual: Tensor
    weight3x3: Tensor
    weight1x1: Tensor
    gamma: Tensor
    beta: Tensor
    running_mean: Tensor
    running_var: Tensor

    @property
    def bn(self) -> tuple[Tensor, ...]:
        return self[4:]


def _unit(t: _Tensors, training: bool) -> ops.ConvUnit:
    gamma, beta, mean, var = t.bn
    return ops.ConvUnit(t.weight3x3, gamma, beta, mean, var, padding=(1, 1), training=training)


def _pointwise_unit(t: _Tensors, training: bool) -> ops.ConvUnit:
    return replace(_unit(t, training), weight=t.weight1x1, padding=(0, 0))


Call = Callable[[ModuleType, _Tensors, bool], Tensor]
# By `resnet_cuda.ops` or `resnet_cuda.reference`.
_OPS: dict[str, Call] = {
    "conv_bn_relu": lambda m, t, training: m.conv_bn_relu(
        t.x, t.weight3x3, *t.bn, residual=t.residual, padding=1, training=training
    ),
    "conv_bn_relu_max_pool2d": lambda m, t, training: m.conv_bn_relu_max_pool2d(
        t.x, t.weight3x3, *t.bn, padding=1, training=training
    ),
    "residual_branch": lambda m, t, training: m.residual_branch(
        t.x, [_unit(t, training), _unit(t, training)], ops.Identity()
    ),
    "conv_unit": lambda m, t, training: m.conv_unit(t.x, _unit(t, training)),
    "bottleneck_reduce": lambda m, t, training: m.bottleneck_reduce(
        t.x, t.weight1x1, *t.bn, training=training
    ),
    "bottleneck_expand": lambda m, t, training: m.bottleneck_expand(
        t.x, t.weight1x1, *t.bn, t.residual, training=training
    ),
    "bottleneck_expand_reduce": lambda m, t, training: m.bottleneck_expand_reduce(
        t.x, _pointwise_unit(t, training), t.residual, _pointwise_unit(t, training)
    )[1],
    "bottleneck_block": lambda m, t, training: m.bottleneck_block(
        t.x, _pointwise_unit(t, training), _unit(t, training), _pointwise_unit(t, training)
    ),
    "bn_relu": lambda m, t, training: m.bn_relu(t.x, *t.bn, training=training),
    "add_relu": lambda m, t, training: m.add_relu(t.x, t.residual),
    "max_pool2d": lambda m, t, training: m.max_pool2d(t.x),
    "global_avg_pool": lambda m, t, training: m.global_avg_pool(t.x),
}
_INFERENCE_ONLY = {"bottleneck_block"}
# By `resnet_cuda.nn` or `resnet_cuda.reference`: constructor arguments and how many inputs.
_MODULES: dict[str, tuple[tuple[int, ...], int]] = {
    "BasicBlock": ((8, 8), 1),
    "Bottleneck": ((8, 2), 1),
    "PreActBasicBlock": ((8, 8), 1),
    "PreActBottleneck": ((8, 2), 1),
    "WideBasicBlock": ((8, 8), 1),
    "ConvBNReLU": ((8, 8, 3), 2),
    "BNReLU": ((8,), 2),
    "AddReLU": ((), 2),
}
NAMES = (*_MODULES, *_OPS)


def passes_of(name: str) -> tuple[str, ...]:
    """Of `PASSES`, those that the op or module has."""
    return PASSES[:1] if name in _INFERENCE_ONLY else PASSES


def workloads(device: Device, plan: Plan) -> Iterator[Workload]:
    """Modules, ops, and a network whose time is nearly all overhead. A plan for a few layers takes as many of them."""
    dtype = plan.dtypes[0]
    for name in NAMES[: plan.first_layers]:
        for pass_name in passes_of(name):
            yield tiny(device, name, pass_name, dtype)
    if _NETWORK not in networks.available():
        return
    problem = Problem(device, _NETWORK, _BATCH, _PIXELS, dtype)
    variants = (networks.FUSED, networks.EAGER, *(networks.GRAPHS if device.has_graphs else ()))
    for whole in (inference_workload(problem, variants), training_workload(problem, variants)):
        whole.level = "overhead"
        yield whole


def tiny(device: Device, name: str, pass_name: str, dtype: torch.dtype) -> Workload:
    """An op or a module at a size that takes no time.

    "inference" is without gradients, "forward" records them and takes the batch's statistics, "backward" computes them
    from one recorded forward.
    """
    candidates = [
        Candidate(OURS, lambda: _prepare(device, name, pass_name, dtype, ours=True), ours=True),
        Candidate(_EAGER, lambda: _prepare(device, name, pass_name, dtype, ours=False)),
    ]

    def exact() -> Tensor:
        result = _prepare(device, name, pass_name, torch.float64, ours=False, rounded_to=dtype)()
        assert isinstance(result, Tensor)
        return result

    return Workload(
        "overhead",
        f"{name} n{_SIZE[0]}-{_SIZE[1]}x{_SIZE[2]}x{_SIZE[3]}",
        pass_name,
        dtype,
        flops=0,
        bytes=0,
        candidates=candidates,
        check=None if pass_name == "backward" else Check(candidates[1], exact, LogitsRule(dtype)),
        host_time=True,
    )


def _prepare(
    device: Device,
    name: str,
    pass_name: str,
    dtype: torch.dtype,
    ours: bool,
    rounded_to: torch.dtype | None = None,
) -> Callable[[], object]:
    training = pass_name != "inference"
    t = _tensors(device, rounded_to or dtype, dtype, requires_grad=training)
    if name in _OPS:
        library = ops if ours else reference
        inputs: Sequence[Tensor] = [v for v in t if v.requires_grad]
        forward: Callable[[], Tensor] = lambda: _OPS[name](library, t, training)  # noqa: E731
    else:
        module = _module(name, ours, rounded_to or dtype).to(device.torch_device, dtype)
        module.train(training)
        arguments = [t.x, t.residual][: _MODULES[name][1]]
        inputs = [*arguments, *module.parameters()]
        forward = lambda: module(*arguments)  # noqa: E731
    if pass_name == "forward":
        return forward
    if pass_name == "inference":

        def infer() -> Tensor:
            with torch.inference_mode():
                return forward()

        return infer
    z = forward()
    dz = torch.randn(z.shape, device=z.device).to(z).contiguous(memory_format=torch.channels_last)
    return lambda: torch.autograd.grad(z, inputs, dz, retain_graph=True, allow_unused=True)


def _module(name: str, ours: bool, dtype: torch.dtype) -> Any:
    """With weights rounded to `dtype`."""
    with networks.seeded(0):
        plain = getattr(reference, name)(*_MODULES[name][0])
    module = plain
    if ours:
        module = getattr(fused_nn, name)(*_MODULES[name][0])
        module.load_state_dict(plain.state_dict())
    return module.to(memory_format=torch.channels_last).to(dtype)


def _tensors(
    device: Device, rounded_to: torch.dtype, dtype: torch.dtype, requires_grad: bool
) -> _Tensors:
    channels = _SIZE[1]
    generator = torch.Generator().manual_seed(0)

    def random(*size: int, offset: float = 0.0) -> Tensor:
        tensor = torch.randn(size, generator=generator) * 0.3 + offset
        if len(size) == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor.to(rounded_to).to(device.torch_device, dtype)

    learned = [
        random(*_SIZE),
        random(*_SIZE),
        random(channels, channels, 3, 3),
        random(channels, channels, 1, 1),
        random(channels, offset=1.0),
        random(channels),
    ]
    for tensor in learned:
        tensor.requires_grad_(requires_grad)
    x, residual, weight3x3, weight1x1, gamma, beta = learned
    mean, var = random(channels), random(channels).square() + 0.5
    return _Tensors(x, residual, weight3x3, weight1x1, gamma, beta, mean, var)
