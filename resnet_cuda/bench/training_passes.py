"""The passes of training steps that the executor of branches makes, as parts of a floor.

All tensors are without values, so that this costs nothing at any size. Between two kernels torch handles vectors and
matrices of a weight's size, for batch norm in closed form say; that is in no floor.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from resnet_cuda import fuse
from resnet_cuda.bench.ceilings import Part
from resnet_cuda.bench.layers import Layer
from resnet_cuda.nn._recording import BranchCall
from resnet_cuda.ops import ConvUnit
from resnet_cuda.testing.problems import ConvProblem
from resnet_cuda.trace import TORCH, Trace, calls_of, trace


def of_module(
    plain: nn.Module, shape: Sequence[int], dtype: torch.dtype, input_gradient: bool
) -> list[Trace]:
    """Of each fused call that the module makes for an input of `shape`; input_gradient: whether that wants one."""
    module = fuse(copy.deepcopy(plain).to("meta", dtype), inplace=True).train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        module.to_empty(device="cpu")
        x = torch.empty(tuple(shape), dtype=dtype, memory_format=torch.channels_last)
        calls = calls_of(module, x)
    return [trace(call, input_gradient=input_gradient or call.x is not x) for call in calls]


def of_layer(layer: Layer, dtype: torch.dtype) -> Trace:
    """Of the public op that serves one layer of a network."""

    def activation(*sizes: int) -> Tensor:
        return torch.empty(sizes, dtype=dtype, device="meta")

    def unit(conv: ConvProblem, relu: bool) -> ConvUnit:
        return ConvUnit(
            activation(conv.K, conv.C // conv.groups, conv.R, conv.S),
            activation(conv.K),
            activation(conv.K),
            None,
            None,
            stride=(conv.stride, conv.stride),
            padding=(conv.padding, conv.padding),
            dilation=(conv.dilation, conv.dilation),
            groups=conv.groups,
            training=True,
            relu=relu,
        )

    conv, projection = layer.conv, layer.projection
    residual = None
    if projection:
        residual = activation(projection.N, projection.C, projection.H, projection.W)
    elif layer.residual:
        residual = activation(*layer.output)
    call = BranchCall(
        activation(conv.N, conv.C, conv.H, conv.W),
        [unit(conv, layer.relu)],
        unit(projection, False) if projection else None,
        residual,
    )
    return trace(call, input_gradient=layer.input_gradient)


def parts(traced: Trace, phase: str | None = None) -> list[Part]:
    """Of every pass (of one phase), each as a perfect kernel."""
    return [
        (one.flops, one.bytes.total)
        for one in traced.passes
        if one.name != TORCH and phase in (None, one.phase)
    ]
