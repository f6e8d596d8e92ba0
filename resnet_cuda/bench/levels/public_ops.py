"""The public ops on the parts of a network, beside the same in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_cuda import ops
from resnet_cuda.bench import computation, costs, eager, folded, training_passes
from resnet_cuda.bench.ceilings import Part
from resnet_cuda.bench.computation import EPS, MOMENTUM, Random, Shrinkable, Way
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Elementwise, Layer, Network, Pool, Stem, shape_name
from resnet_cuda.bench.modes import INFERENCE, STEP
from resnet_cuda.bench.rule import Given
from resnet_cuda.ops._folding import FoldedConv
from resnet_cuda.ops._unit_call import run_unit
from resnet_cuda.ops.conv_bn_relu_max_pool2d import run_pooled_unit
from resnet_cuda.ops.max_pool2d import PoolWindow
from resnet_cuda.testing.problems import ConvProblem
from resnet_cuda.trace import FORWARD

_VECTORS = ("gamma", "beta", "running_mean", "running_var")
_LEAVES = ("x", "weight", "gamma", "beta", "residual")
_LEAVES_OF_PROJECTION = ("projection_weight", "projection_gamma", "projection_beta")

Function = Callable[[Mapping[str, Tensor], bool], Tensor]
Prepare = Callable[[Given, bool], Callable[[], Tensor]]


@dataclass(frozen=True)
class Op:
    """A public op on one part of a network.

    Args:
        ours: (tensors, training) -> the call.
        plain: (tensors, training) -> z, in torch's own ops.
        linear: the same without the ReLU at the end, or whatever else is about zero where rounding alone decides which
            way a gradient goes; None: it never does.
        leaves: names of the tensors that get gradients.
        inputs: makes the tensors, without the gradient of z.
        parts: of the floor, by mode.
        library_ways: fused calls of libraries at inference.
    """

    name: str
    subject: Shrinkable
    ours: Prepare
    plain: Function
    linear: Function | None
    leaves: Sequence[str]
    inputs: Callable[[Random], Given]
    parts: Callable[[str, torch.dtype], Sequence[Part]]
    library_ways: Callable[[Device], Sequence[Way]] = lambda device: ()


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
        parts=partial(_conv_parts, layer),
        library_ways=partial(folded.layer_ways, layer=layer),
    )


def _conv_parts(layer: Layer, mode: str, dtype: torch.dtype) -> list[Part]:
    if mode == INFERENCE:
        return costs.inference(layer, dtype)
    traced = training_passes.of_layer(layer, dtype)
    return training_passes.parts(traced, None if mode == STEP else FORWARD)


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
        return z.add_(tensors["residual"]) if norm.residual else z  # as torchvision does

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
        partial(_bn_parts, norm),
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


def max_pool_op(pool: Pool) -> Op:
    window = (pool.kernel, pool.stride, pool.padding)

    def parts(mode: str, dtype: torch.dtype) -> list[Part]:
        passes = 2 if mode == STEP else 1
        return [costs.max_pool(pool, dtype, winners=mode != INFERENCE)] * passes

    return _pool_op(
        f"max_pool2d {pool}",
        pool,
        lambda x: ops.max_pool2d(x, *window),
        lambda x: F.max_pool2d(x, *window),
        parts,
    )


def stem_op(stem: Stem) -> Op:
    """conv_bn_relu_max_pool2d."""
    layer, pool = stem.layer, stem.pool
    window = PoolWindow(pool.kernel, pool.stride, pool.padding)
    linear = replace(layer, relu=False)

    def ours(own: Given, training: bool) -> Callable[[], Tensor]:
        x, unit = own["x"], _unit(layer.conv, own, training)
        return lambda: run_pooled_unit(x, unit, window)

    def plain(tensors: Mapping[str, Tensor], training: bool) -> Tensor:
        return F.max_pool2d(eager.layer(tensors, layer, training), *window)

    def parts(mode: str, dtype: torch.dtype) -> list[Part]:
        if mode == INFERENCE:
            return [costs.stem(stem, dtype)]
        pools = [costs.max_pool(pool, dtype)] * (2 if mode == STEP else 1)
        return [*_conv_parts(layer, mode, dtype), *pools]

    return Op(
        f"conv_bn_relu_max_pool2d {stem}",
        stem,
        ours,
        plain,
        lambda tensors, training: _lead(eager.layer(tensors, linear, training), window),
        [name for name in _LEAVES[:-1] if name != "x" or layer.input_gradient],
        partial(computation.convolution_inputs, layer),
        parts,
    )


def _lead(y: Tensor, window: PoolWindow) -> Tensor:
    """[N, K, P, Q] -> by how much the maximum of each window of a pool leads, before zero and the second largest."""
    kernel, stride, padding = window
    padded = F.pad(y, (padding,) * 4, value=-torch.inf)
    windows = padded.unfold(2, kernel, stride).unfold(3, kernel, stride).flatten(4)
    first, second = windows.topk(2).values.unbind(-1)
    lead = torch.minimum(first.abs(), first - second)
    return lead.contiguous(memory_format=torch.channels_last)


def average_pool_op(pool: Pool) -> Op:
    def parts(mode: str, dtype: torch.dtype) -> list[Part]:
        return [costs.average_pool(pool, dtype)] * (2 if mode == STEP else 1)

    return _pool_op(
        f"global_avg_pool {pool}",
        pool,
        ops.global_avg_pool,
        lambda x: F.adaptive_avg_pool2d(x, 1),
        parts,
    )


def _pool_op(
    name: str,
    pool: Pool,
    ours: Callable[[Tensor], Tensor],
    plain: Callable[[Tensor], Tensor],
    parts: Callable[[str, torch.dtype], Sequence[Part]],
) -> Op:
    return Op(
        name,
        pool,
        lambda own, training: lambda: ours(own["x"]),
        lambda tensors, training: plain(tensors["x"]),
        None,
        ["x"],
        lambda random: Given(x=random.normal(pool.shape)),
        parts,
    )


def _bn_parts(norm: Elementwise, mode: str, dtype: torch.dtype) -> list[Part]:
    if mode == INFERENCE:
        tensors = 3 if norm.residual else 2
        return [costs.elementwise(norm.shape, dtype, tensors=tensors, vectors=2)]
    statistics = costs.elementwise(norm.shape, dtype, tensors=1, statistics=True)
    forward = [statistics, costs.bn_apply(norm, dtype)]
    return forward + (costs.bn_backward(norm, dtype) if mode == STEP else [])


def _plain_convolutions(network: Network, residual: bool) -> list[Layer]:
    return [
        layer
        for layer in network.convolutions
        if layer.batch_norm and layer.residual == residual and not (layer.reduces or layer.expands)
    ]


def _norms(network: Network, residual: bool) -> list[Elementwise]:
    return [norm for norm in network.batch_norms if norm.relu and norm.residual == residual]


# (the op, the parts of a network that it serves)
OPS: Sequence[tuple[Callable[[Any], Op], Callable[[Network], Sequence[Any]]]] = (
    (conv_op, partial(_plain_convolutions, residual=False)),
    (conv_op, partial(_plain_convolutions, residual=True)),
    (conv_op, Network.reducing),
    (conv_op, partial(Network.expanding, projection=False)),
    (conv_op, partial(Network.expanding, projection=True)),
    (bn_op, partial(_norms, residual=False)),
    (bn_op, partial(_norms, residual=True)),
    (add_op, attrgetter("additions")),
    (stem_op, attrgetter("stems")),
    (max_pool_op, attrgetter("max_pools")),
    (average_pool_op, attrgetter("average_pools")),
)
