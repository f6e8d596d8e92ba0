"""The public ops on every distinct layer - inference, forward in training, forward and backward - and their peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from resnet_cuda import ops
from resnet_cuda.bench import computation, costs, eager, folded, layers, modes, networks
from resnet_cuda.bench.ceilings import Part
from resnet_cuda.bench.computation import (
    EPS,
    MOMENTUM,
    Random,
    Subject,
    away_from_gate,
    for_statistics,
    shrinkable,
)
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Elementwise, Layer, Network, shape_name
from resnet_cuda.bench.modes import INFERENCE, MODES, STEP, Made
from resnet_cuda.bench.plan import Plan
from resnet_cuda.bench.rule import Given
from resnet_cuda.bench.workload import Workload
from resnet_cuda.ops._folding import FoldedConv
from resnet_cuda.ops.conv_unit import run_unit
from resnet_cuda.testing.problems import ConvProblem

_COMPLETE = "resnet50"  # lends layers of the kinds that the plan's network lacks
_VECTORS = ("gamma", "beta", "running_mean", "running_var")
_LEAVES = ("x", "weight", "gamma", "beta", "residual")
_ACTIVATIONS = ("x", "residual")
_LEAVES_OF_PROJECTION = ("projection_weight", "projection_gamma", "projection_beta")

Function = Callable[[Mapping[str, Tensor], bool], Tensor]
Prepare = Callable[[Given, bool], Callable[[], Tensor]]


@dataclass(frozen=True)
class Op:
    """A public op on one part of a network.

    Args:
        ours: (tensors, training) -> the call.
        plain: (tensors, training) -> z, in torch's own ops.
        linear: the same without the ReLU at the end; None: there is no ReLU.
        leaves: names of the tensors that get gradients.
        inputs: makes the tensors, without the gradient of z.
        parts: of the floor, by mode.
        library_ways: fused calls of libraries at inference.
    """

    name: str
    subject: Subject
    ours: Prepare
    plain: Function
    linear: Function | None
    leaves: Sequence[str]
    inputs: Callable[[Random], Given]
    parts: Callable[[str, torch.dtype], Sequence[Part]]
    library_ways: Callable[[Device], Sequence[computation.Way]] = lambda device: ()


def workloads(device: Device, plan: Plan) -> Iterator[Workload]:
    """Every op on the layers that it serves in the plan's first network, or on one of ResNet-50's if there is none.

    Compilers take part in the first layer only: they need seconds to minutes for each.
    """
    network, complete = (
        layers.network(name, plan.batch, plan.image_size) for name in (plan.networks[0], _COMPLETE)
    )
    network = network.first(plan.first_layers)
    for dtype in plan.dtypes:
        first = True
        for make, select in OPS:
            subjects = select(network)
            lent = not subjects
            for subject in select(complete)[:1] if lent else subjects:
                # Of a few layers, the forward pass within the step will do, once apart.
                for mode in MODES if first or plan.first_layers is None else (INFERENCE, STEP):
                    compilers = modes.compilers(mode, plan) if first else []
                    if compilers:
                        torch._dynamo.reset()  # else earlier layers count as recompilation
                    workload = shrinkable(
                        partial(_workload, device, dtype, make, mode, compilers),
                        subject,
                    )
                    workload.facts["network"] = _COMPLETE if lent else plan.networks[0]
                    yield workload
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
        ways += op.library_ways(device)
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
        gradients=[f"d{name}" for name in op.leaves],
    )


def _inputs(op: Op, mode: str, random: Random) -> Given:
    given = op.inputs(random)
    if mode == STEP:
        exact = given.to(torch.float64).fresh()
        shape = op.plain(given.fresh(), True).shape
        given["dz"] = random.normal(shape)
        if op.linear is not None:
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
        activations = {name: tensors[name] for name in _ACTIVATIONS if name in tensors}
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
            if name not in _ACTIVATIONS:
                self.register_buffer(name, tensor)

    def forward(self, activations: Mapping[str, Tensor]) -> Tensor:
        return self._function({**activations, **dict(self.named_buffers())}, False)


def conv_op(layer: Layer) -> Op:
    """conv_bn_relu, or the bottleneck's launch for it, as the blocks choose it."""
    leaves = [name for name in _LEAVES if name != "x" or layer.input_gradient]
    if not layer.residual:
        leaves.remove("residual")
    if layer.projection:
        leaves += _LEAVES_OF_PROJECTION
    kind = "conv_bn_relu"
    if layer.reduces or layer.expands:
        kind = "bottleneck_reduce" if layer.reduces else "bottleneck_expand"
    linear = replace(layer, relu=False)
    return Op(
        f"{kind} {layer}{'' if layer.relu else ' without relu'}",
        layer,
        ours=partial(_conv_ours, layer),
        plain=lambda tensors, training: eager.layer(tensors, layer, training),
        linear=(lambda tensors, training: eager.layer(tensors, linear, training))
        if layer.relu
        else None,
        leaves=leaves,
        inputs=partial(computation.convolution_inputs, layer),
        parts=partial(_parts, costs.inference, costs.forward, costs.backward, layer),
        library_ways=partial(folded.layer_ways, layer=layer),
    )


def _conv_ours(layer: Layer, own: Given, training: bool) -> Callable[[], Tensor]:
    x, residual, unit = own["x"], own.get("residual"), _unit(layer.conv, own, training)
    if layer.projection:
        projection = _unit(layer.projection, own, training, "projection_")
        assert residual is not None
        return lambda: ops.bottleneck_expand(
            x,
            unit.weight,
            *unit.bn(),
            residual,
            projection=projection,
            training=training,
            momentum=MOMENTUM,
            eps=EPS,
        )
    launch = "expand" if layer.expands else "reduce" if layer.reduces else "conv"
    # What the op of that name and the blocks call, with the blocks' cache of folded weights.
    return lambda: run_unit(x, unit, residual, layer.relu, launch=launch)


def _unit(conv: ConvProblem, own: Given, training: bool, prefix: str = "") -> ops.ConvUnit:
    gamma, beta, running_mean, running_var = (own[prefix + name] for name in _VECTORS)
    return ops.ConvUnit(
        own[prefix + "weight"],
        gamma,
        beta,
        running_mean,
        running_var,
        stride=(conv.stride, conv.stride),
        padding=(conv.padding, conv.padding),
        dilation=(conv.dilation, conv.dilation),
        groups=conv.groups,
        training=training,
        momentum=MOMENTUM,
        eps=EPS,
        folded=None if training else FoldedConv(),
    )


def bn_op(norm: Elementwise) -> Op:
    """bn_relu, for batch norms that no convolution precedes."""

    def linear(tensors: Mapping[str, Tensor], training: bool) -> Tensor:
        z = eager.batch_norm(tensors["x"], tensors, training)
        return z + tensors["residual"] if norm.residual else z

    def plain(tensors: Mapping[str, Tensor], training: bool) -> Tensor:
        z = linear(tensors, training)
        return z.relu_() if norm.relu else z

    def ours(own: Given, training: bool) -> Callable[[], Tensor]:
        x, residual, vectors = own["x"], own.get("residual"), [own[name] for name in _VECTORS]
        return lambda: ops.bn_relu(
            x,
            *vectors,
            residual=residual,
            training=training,
            momentum=MOMENTUM,
            eps=EPS,
            relu=norm.relu,
        )

    def inputs(random: Random) -> Given:
        given = Given(x=random.normal(norm.shape), **random.batch_norm(norm.shape[1]))
        if norm.residual:
            given["residual"] = random.normal(norm.shape)
        return given

    return Op(
        f"bn_relu {norm}{'' if norm.relu else ' without relu'}",
        norm,
        ours,
        plain,
        linear if norm.relu else None,
        ["x", "gamma", "beta", *(["residual"] if norm.residual else [])],
        inputs,
        partial(_parts, _bn_inference, _bn_forward, costs.bn_backward, norm),
    )


def add_op(addition: Elementwise) -> Op:
    def linear(tensors: Mapping[str, Tensor], training: bool) -> Tensor:
        return tensors["x"] + tensors["residual"]

    def plain(tensors: Mapping[str, Tensor], training: bool) -> Tensor:
        return linear(tensors, training).relu_()

    def ours(own: Given, training: bool) -> Callable[[], Tensor]:
        x, residual = own["x"], own["residual"]
        return lambda: ops.add_relu(x, residual)

    def parts(mode: str, dtype: torch.dtype) -> list[Part]:
        found = [costs.elementwise(addition.shape, dtype, tensors=3, mask=mode != INFERENCE)]
        if mode == STEP:
            found.append(costs.elementwise(addition.shape, dtype, tensors=2, mask=True))
        return found

    return Op(
        f"add_relu {shape_name(addition.shape)}",
        addition,
        ours,
        plain,
        linear,
        ["x", "residual"],
        lambda random: Given(
            x=random.normal(addition.shape), residual=random.normal(addition.shape)
        ),
        parts,
    )


def _parts(
    inference: Callable[..., list[Part]],
    forward: Callable[..., list[Part]],
    backward: Callable[..., list[Part]],
    subject: Any,
    mode: str,
    dtype: torch.dtype,
) -> list[Part]:
    if mode == INFERENCE:
        return inference(subject, dtype)
    return forward(subject, dtype) + (backward(subject, dtype) if mode == STEP else [])


def _bn_inference(norm: Elementwise, dtype: torch.dtype) -> list[Part]:
    tensors = 3 if norm.residual else 2
    return [costs.elementwise(norm.shape, dtype, tensors=tensors, vectors=2)]


def _bn_forward(norm: Elementwise, dtype: torch.dtype) -> list[Part]:
    statistics = costs.elementwise(norm.shape, dtype, tensors=1, statistics=True)
    return [statistics, costs.bn_apply(norm, dtype)]


def _plain_convolutions(network: Network, residual: bool) -> list[Layer]:
    return [
        layer
        for layer in network.convolutions
        if layer.batch_norm and layer.residual == residual and not (layer.reduces or layer.expands)
    ]


def _reducing(network: Network) -> list[Layer]:
    return [layer for layer in network.convolutions if layer.reduces]


def _expanding(network: Network, projection: bool) -> list[Layer]:
    expands = (layer for layer in network.convolutions if layer.expands)
    return [layer for layer in expands if projection == (layer.projection is not None)]


def _norms(network: Network, residual: bool) -> list[Elementwise]:
    return [norm for norm in network.batch_norms if norm.relu and norm.residual == residual]


def _additions(network: Network) -> Sequence[Elementwise]:
    return network.additions


# (the op, the parts of a network that it serves)
OPS: Sequence[tuple[Callable[[Any], Op], Callable[[Network], Sequence[Any]]]] = (
    (conv_op, partial(_plain_convolutions, residual=False)),
    (conv_op, partial(_plain_convolutions, residual=True)),
    (conv_op, _reducing),
    (conv_op, partial(_expanding, projection=False)),
    (conv_op, partial(_expanding, projection=True)),
    (bn_op, partial(_norms, residual=False)),
    (bn_op, partial(_norms, residual=True)),
    (add_op, _additions),
)
