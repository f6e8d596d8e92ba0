"""The two 1x1 ends of a bottleneck block (He et al. 2015, fig. 5) as launches of their own, without im2col, and one
block's end with the next one's beginning as one launch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from resnet_cuda import _backend
from resnet_cuda.ops import _validate
from resnet_cuda.ops._branch import requires_grad
from resnet_cuda.ops._interface import BatchNormSpec, BatchNormTensors, ConvGeometry, Pair
from resnet_cuda.ops._layout import is_channels_last, match_format
from resnet_cuda.ops._synchronised import group_of
from resnet_cuda.ops.conv_bn_relu import ConvBnCall, apply_conv_bn
from resnet_cuda.ops.conv_unit import ConvUnit, run_unit


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
    """relu(bn(conv1x1(x))): the convolution that narrows a bottleneck.

    Args:
        x: [N, Cin, H, W]; float64, float32, bfloat16 or float16.
        weight: [C, Cin, 1, 1] in x's dtype.
        gamma, beta, running_mean, running_var: [C], as in `conv_bn_relu`.
        stride: in pixels, the same both ways.
        training, momentum, eps, process_group: as in `conv_bn_relu`.

    Returns:
        [N, C, P, Q] with P = (H - 1) // stride + 1, in x's dtype.

    Raises:
        TypeError, ValueError: as `conv_bn_relu`, and for a kernel other than 1x1 or unequal strides.
    """
    _validate.pointwise_weight(weight)
    geometry = _validate.geometry(stride, 0, 1, 1)
    if geometry.stride[0] != geometry.stride[1]:
        raise ValueError(f"stride is {stride!r}; accepted: the same stride both ways")
    norm = BatchNormSpec(training, momentum, eps, group_of(process_group, training))
    return apply_conv_bn(
        x,
        weight,
        BatchNormTensors(gamma, beta, running_mean, running_var),
        None,
        ConvBnCall(geometry, norm, True, "reduce"),
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
    """relu(bn(conv1x1(x)) + shortcut): the convolution that widens a bottleneck and ends the block.

    Args:
        x: [N, C, P, Q]; float64, float32, bfloat16 or float16.
        weight: [K, C, 1, 1] in x's dtype.
        gamma, beta, running_mean, running_var: [K], as in `conv_bn_relu`.
        residual: the block's input: [N, K, P, Q], or with a projection [N, Cin, H, W].
        projection: the shortcut's convolution and batch norm (its own training, momentum, eps and
            process_group; its ReLU flag is ignored), or None: the shortcut is `residual` itself.
        training, momentum, eps, process_group: as in `conv_bn_relu`.

    Returns:
        [N, K, P, Q] in x's dtype.

    Raises:
        TypeError, ValueError: as `conv_bn_relu`, and for a kernel other than 1x1.
    """
    _validate.pointwise_weight(weight)
    _validate.activation(x, "x")
    bn = BatchNormTensors(gamma, beta, running_mean, running_var)
    norm = BatchNormSpec(training, momentum, eps, group_of(process_group, training))
    call = ConvBnCall(ConvGeometry(), norm, True, "expand")
    if projection is None:
        return apply_conv_bn(x, weight, bn, residual, call)
    z = _fused_projection(x, weight, bn, residual, projection, call)
    if z is not None:
        return z
    _validate.activation(residual, "residual")
    shortcut = apply_conv_bn(
        residual, projection.weight, projection.bn(), None, projection.call(relu=False)
    )
    return apply_conv_bn(x, weight, bn, shortcut, call, donate_residual=True)


def bottleneck_expand_reduce(
    x: Tensor, expand: ConvUnit, residual: Tensor, reduce: ConvUnit
) -> tuple[Tensor, Tensor]:
    """(y, z): y = relu(bn(conv1x1(x)) + residual) ends a block, z = relu(bn(conv1x1(y))) begins the next one.

    At inference on our kernels this is one pass: for bfloat16 and float16 on compute capability 9.0 one launch that
    does not read y back, where C and K are multiples of 64, C is at most 256 and L 64, 128 or 256; else two.
    Elsewhere it is two calls.

    Args:
        x: [N, C, P, Q]; float64, float32, bfloat16 or float16.
        expand: the convolution that ends the block, [K, C, 1, 1], and its batch norm (its ReLU flag is ignored: the
            ReLU follows the addition).
        residual: [N, K, P, Q].
        reduce: the convolution that begins the next block, [L, K, 1, 1], and its batch norm (its ReLU flag is
            ignored: there is one).

    Returns:
        y [N, K, P, Q] and z [N, L, P, Q] in x's dtype.

    Raises:
        TypeError, ValueError: as `conv_bn_relu`, and for a kernel other than 1x1.
    """
    for unit in (expand, reduce):
        _validate.pointwise_weight(unit.weight)
    if not may_share_launch(x, expand, residual, reduce):
        y = run_unit(x, expand, residual, True, launch="expand")
        return y, run_unit(y, reduce, None, True, launch="reduce")
    read = x
    for unit in (expand, reduce):
        call = unit.call(relu=True)
        shape = _validate.convolution(read, unit.weight, call.geometry)
        _validate.weight_dtype(unit.weight, x.dtype)
        _validate.batch_norm(read, x.dtype, unit.bn(), shape, *call.norm)
        if unit is expand:
            _validate.residual(x, residual, shape)
            read = residual  # of y's shape
    backend = _backend.resolve(x)
    y, z = backend.expand_reduce_inference(
        backend.prepare(x), expand, backend.prepare(residual), reduce
    )
    channels_last = is_channels_last(x) or is_channels_last(expand.weight)
    y = match_format(y, channels_last)
    return y, match_format(z, is_channels_last(y) or is_channels_last(reduce.weight))


def may_share_launch(x: Tensor, expand: ConvUnit, residual: Tensor, reduce: ConvUnit) -> bool:
    """Whether the backend has one pass for both convolutions, and nothing is differentiated or trained."""
    _validate.activation(x, "x")
    units = (expand, reduce)
    return (
        _backend.resolve(x).fuses_next_reduce
        and x.shape[0] != 0
        and not torch.is_autocast_enabled(x.device.type)
        and all(u.is_pointwise and u.stride in (1, (1, 1)) for u in units)
        and all(u.batch_norm and not u.training and not u.dropout for u in units)
        and not (
            torch.is_grad_enabled()
            and requires_grad(x, residual, *(t for u in units for t in (u.weight, u.gamma, u.beta)))
        )
    )


def _fused_projection(
    x: Tensor,
    weight: Tensor,
    bn: BatchNormTensors,
    residual: Tensor,
    projection: ConvUnit,
    call: ConvBnCall,
) -> Tensor | None:
    """Both convolutions in one inference launch where the backend has one; None where it does not apply."""
    backend = _backend.resolve(x)
    p = projection
    if (
        not backend.fuses_projection
        or call.norm.training
        or p.training
        or x.shape[0] == 0
        or torch.is_autocast_enabled(x.device.type)
        or not p.is_pointwise
        or (
            torch.is_grad_enabled()
            and requires_grad(x, weight, bn.gamma, bn.beta, residual, p.weight, p.gamma, p.beta)
        )
    ):
        return None
    shape = _validate.convolution(x, weight, call.geometry)
    _validate.weight_dtype(weight, x.dtype)
    _validate.batch_norm(x, x.dtype, bn, shape, *call.norm)
    _validate.activation(residual, "residual")
    projection_call = p.call(relu=False)
    shortcut_shape = _validate.convolution(residual, p.weight, projection_call.geometry)
    _validate.weight_dtype(p.weight, residual.dtype)
    _validate.batch_norm(residual, residual.dtype, p.bn(), shortcut_shape, *projection_call.norm)
    if shortcut_shape != shape or residual.dtype != x.dtype or residual.device != x.device:
        return None  # the unfused path raises the error
    z = backend.expand_projection_inference(
        backend.prepare(x), weight, bn, backend.prepare(residual), p, call.norm.eps
    )
    return match_format(z, is_channels_last(x) or is_channels_last(weight))
