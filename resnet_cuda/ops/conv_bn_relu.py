"""relu(bn(conv(x)) + residual) as one differentiable call.

The unit of the residual blocks of He et al. 2015 (arXiv 1512.03385, sec. 3.2-3.4): a convolution
without bias, batch norm (Ioffe and Szegedy 2015, arXiv 1502.03167) right after it, the shortcut's
addition, ReLU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from resnet_cuda import _backend
from resnet_cuda.ops import _autocast, _validate
from resnet_cuda.ops._branch import (
    BranchSpec,
    BranchTensors,
    ConvSpec,
    ConvTensors,
    Identity,
    ZeroPad,
    requires_grad,
    run_branch,
)
from resnet_cuda.ops._folding import FoldedConv
from resnet_cuda.ops._interface import (
    Backend,
    BatchNormSpec,
    BatchNormTensors,
    ConvGeometry,
    Pair,
)
from resnet_cuda.ops._layout import is_channels_last, match_format
from resnet_cuda.ops._running import restored_on_error
from resnet_cuda.ops._synchronised import breaks_graph, group_of, run_eagerly


class ConvBnCall(NamedTuple):
    """Everything of a conv + batch norm call that is not a tensor."""

    geometry: ConvGeometry
    norm: BatchNormSpec
    relu: bool
    # Which kernels run the convolution: "conv", the bottleneck's "reduce" and "expand", or, at inference
    # on backends that fuse a max-pool, "max_pool", which also pools 3x3 windows with stride 2.
    launch: str = "conv"
    # How the residual is read where it does not have the output's shape.
    pad: ZeroPad | None = None


def conv_bn_relu(
    x: Tensor,
    weight: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    residual: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = True,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """relu(bn(conv(x, weight)) + residual), differentiable twice; relu=False leaves the ReLU out.

    Args:
        x: activations [N, C, H, W]; float64, float32, bfloat16 or float16. The output is in
            channels_last memory if x or weight is (torch's rule for convolutions), else
            NCHW-contiguous. N may be 0: the output is empty, gradients are zero and the running
            statistics stay.
        weight: filters [K, C / groups, R, S] in x's dtype (under `torch.autocast` both are cast).
        gamma, beta: batch norm's scale and shift [K] in x's dtype or, for bfloat16 and float16,
            float32; None means 1 and 0.
        running_mean, running_var: running statistics [K]; may be None when training.
        residual: added before the ReLU, [N, K, P, Q] in x's dtype, not broadcast.
        stride, padding, dilation: an int or (vertical, horizontal), in pixels.
        groups: the channels are split into this many independent convolutions.
        training: use the batch's statistics (biased variance) and move the running ones by
            `momentum` towards them (unbiased variance, in place); otherwise use the running statistics.
        momentum: weight of the batch's statistics in the running ones.
        eps: added to the variance.
        process_group: a `torch.distributed.ProcessGroup`: batch statistics are those of all its ranks
            (their batches may differ in size, and be empty; all must make the call, and its backward).

    Returns:
        [N, K, P, Q] with P = (H + 2 padding - dilation (R - 1) - 1) // stride + 1, in x's dtype.

    Raises:
        TypeError: a dtype or an argument's type is not accepted.
        ValueError: shapes, geometry or devices do not fit, or training with a single value per channel.
    """
    return apply_conv_bn(
        x,
        weight,
        BatchNormTensors(gamma, beta, running_mean, running_var),
        residual,
        ConvBnCall(
            _validate.geometry(stride, padding, dilation, groups),
            BatchNormSpec(training, momentum, eps, group_of(process_group, training)),
            relu,
        ),
    )


def apply_conv_bn(
    x: Tensor,
    weight: Tensor,
    bn: BatchNormTensors,
    residual: Tensor | None,
    call: ConvBnCall,
    *,
    folded: FoldedConv | None = None,
    donate_residual: bool = False,
    widened_from: torch.dtype | None = None,
) -> Tensor:
    """The op behind conv_bn_relu and the bottleneck's ends.

    CPU inference: `folded` caches the folded weights, a donated residual may be overwritten, and
    `widened_from` is the dtype of a network whose activations run in a wider one here (x, residual
    and the result are wide).
    """
    if breaks_graph(x, call.norm.process_group):
        return run_eagerly(apply_conv_bn, x, weight, bn, residual, call)
    _validate.activation(x, "x")
    backend = _backend.resolve(x)
    geometry, norm = call.geometry, call.norm
    dtype = widened_from or _autocast.autocast_dtype(x)
    if dtype is None:
        dtype = x.dtype
        if isinstance(weight, Tensor):
            _validate.weight_dtype(weight, dtype)
    elif widened_from is None:
        x = _autocast.cast(x, dtype)
        residual = None if residual is None else _autocast.cast(residual, dtype)
    shape = _validate.convolution(x, weight, geometry)
    _validate.batch_norm(x, dtype, bn, shape, *norm)
    if residual is not None:
        if call.pad is None:
            _validate.residual(x, residual, shape)
        else:
            _validate.same_shape(call.pad.shape(residual.shape), shape)
    channels_last = is_channels_last(x) or is_channels_last(weight)
    grad = torch.is_grad_enabled() and requires_grad(x, weight, bn.gamma, bn.beta, residual)

    compiling = torch.compiler.is_compiling()
    if folded is not None and not (grad or norm.training or compiling or x.shape[0] == 0):
        z = backend.folded_inference(
            *(x, weight, bn, residual, geometry, norm.eps, call.relu),
            *(folded, donate_residual, call.pad),
        )
        if z is not None:
            return match_format(z, channels_last)
    if weight.dtype != x.dtype:
        weight = weight.to(x.dtype)
    if not norm.training:
        z = _computed(backend, x, weight, bn, residual, call, grad)
        return match_format(z, channels_last)
    with restored_on_error((bn, True)):
        z = _computed(backend, x, weight, bn, residual, call, grad)
        return match_format(z, channels_last)


def _computed(
    backend: Backend,
    x: Tensor,
    weight: Tensor,
    bn: BatchNormTensors,
    residual: Tensor | None,
    call: ConvBnCall,
    grad: bool,
) -> Tensor:
    """The checked call, in whatever memory format its backend likes."""
    geometry, norm = call.geometry, call.norm
    is_empty = x.shape[0] == 0 and norm.process_group is None
    is_composite = backend.is_composite or (
        torch.compiler.is_compiling() and backend.gate_is_output
    )
    if (is_empty or is_composite) and residual is not None and call.pad is not None:
        residual = call.pad(residual)
    if is_empty:
        return _empty_batch(x, weight, bn, residual, geometry)
    if is_composite:
        from resnet_cuda import reference

        return reference.conv_bn_relu(
            x,
            weight,
            bn.gamma,
            bn.beta,
            bn.running_mean,
            bn.running_var,
            residual=residual,
            **geometry._asdict(),
            **norm._asdict(),
            relu=call.relu,
        )
    x = backend.prepare(x)
    residual = None if residual is None else backend.prepare(residual)
    if grad or norm.training:
        if call.pad is None and backend.uses_torch_autograd(norm.process_group):
            return backend.conv_bn_composed(x, weight, bn, residual, geometry, norm, call.relu)
        branch = BranchSpec(
            (ConvSpec(geometry, norm, call.relu),),
            None if residual is None else call.pad or Identity(),
            call.relu,
        )
        return run_branch(backend, branch, BranchTensors(x, residual, [ConvTensors(weight, *bn)]))
    return backend.conv_bn_inference(x, weight, bn, residual, *call)


def _empty_batch(
    x: Tensor,
    weight: Tensor,
    bn: BatchNormTensors,
    residual: Tensor | None,
    g: ConvGeometry,
) -> Tensor:
    """An empty output that still hands zero gradients to every input; statistics are not touched."""
    z = torch.conv2d(x, weight, None, g.stride, g.padding, g.dilation, g.groups)
    for vector in (bn.gamma, bn.beta):
        if vector is not None:
            z = z + vector.to(z.dtype).view(1, -1, 1, 1)
    return z if residual is None else z + residual
