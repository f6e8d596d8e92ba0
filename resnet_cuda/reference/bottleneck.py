"""The two 1x1 ends of a bottleneck block in plain torch, one after the other, and the block between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from resnet_cuda.reference.conv_bn_relu import Pair, conv_bn_relu

if TYPE_CHECKING:
    from resnet_cuda.ops import ConvUnit


def bottleneck_reduce(
    x: Tensor,
    weight: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    stride: int | Pair = 1,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """x [N, Cin, H, W], weight [C, Cin, 1, 1], vectors [C] -> [N, C, P, Q]."""
    return conv_bn_relu(
        x,
        weight,
        gamma,
        beta,
        running_mean,
        running_var,
        stride=stride,
        training=training,
        momentum=momentum,
        eps=eps,
        process_group=process_group,
    )


def bottleneck_expand(
    x: Tensor,
    weight: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    residual: Tensor,
    *,
    projection: ConvUnit | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """x [N, C, P, Q], weight [K, C, 1, 1], vectors [K], residual [N, K, P, Q] or the projection's
    input -> [N, K, P, Q]."""
    if projection is not None:
        residual = conv_unit(residual, projection, relu=False)
    return conv_bn_relu(
        x,
        weight,
        gamma,
        beta,
        running_mean,
        running_var,
        residual=residual,
        training=training,
        momentum=momentum,
        eps=eps,
        process_group=process_group,
    )


def bottleneck_expand_reduce(
    x: Tensor, expand: ConvUnit, residual: Tensor, reduce: ConvUnit
) -> tuple[Tensor, Tensor]:
    """x [N, C, P, Q], residual [N, K, P, Q], filters [K, C, 1, 1] and [L, K, 1, 1] -> y [N, K, P, Q] and
    z [N, L, P, Q]."""
    y = conv_unit(x, expand, residual, relu=True)
    return y, conv_unit(y, reduce, relu=True)


def bottleneck_block(x: Tensor, reduce: ConvUnit, convolve: ConvUnit, expand: ConvUnit) -> Tensor:
    """x [N, C, H, W], filters [K, C, 1, 1], [K, K, 3, 3] and [C, K, 1, 1] -> [N, C, H, W]."""
    inner = conv_unit(conv_unit(x, reduce, relu=True), convolve, relu=True)
    return conv_unit(inner, expand, x, relu=True)


def conv_unit(
    x: Tensor, unit: ConvUnit, residual: Tensor | None = None, *, relu: bool | None = None
) -> Tensor:
    """relu?(bn(conv(x)) + residual) of one unit; `relu` overrides the unit's own flag."""
    relu = unit.relu if relu is None else relu
    if not unit.batch_norm:
        geometry = (unit.stride, unit.padding, unit.dilation, unit.groups)
        y = torch.conv2d(x, unit.weight, None, *geometry)
        y = y if residual is None else y + residual
        return torch.relu(y) if relu else y
    return conv_bn_relu(
        x,
        unit.weight,
        unit.gamma,
        unit.beta,
        unit.running_mean,
        unit.running_var,
        residual=residual,
        stride=unit.stride,
        padding=unit.padding,
        dilation=unit.dilation,
        groups=unit.groups,
        training=unit.training,
        momentum=unit.momentum,
        eps=unit.eps,
        process_group=unit.process_group,
        relu=relu,
    )
