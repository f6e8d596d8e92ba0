"""max_pool2d(relu(bn(conv(x)))): a network's stem as one call (He et al. 2015, table 1: conv1 and the
pool behind it)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from resnet_cuda import _backend, _selection
from resnet_cuda.ops import _validate
from resnet_cuda.ops._branch import requires_grad
from resnet_cuda.ops._interface import Pair
from resnet_cuda.ops._running import restored_on_error
from resnet_cuda.ops._unit_call import run_unit, run_unit_plainly
from resnet_cuda.ops.conv_unit import ConvUnit
from resnet_cuda.ops.max_pool2d import PoolWindow, pool_in_torch, pool_window, run_pool

FUSED_WINDOW = PoolWindow(3, 2, 1)  # that kernels pool with


def conv_bn_relu_max_pool2d(
    x: Tensor,
    weight: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    pool_kernel_size: int = 3,
    pool_stride: int = 2,
    pool_padding: int = 1,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """max_pool2d(conv_bn_relu(x, ...), ...), the same to the last bit, and differentiable twice.

    On a GPU at inference, a 3 x 3 pool with stride 2 and padding 1 behind a bfloat16 or float16
    convolution of few channels runs in the convolution's kernel, which never stores what it pools.
    Everything else is `conv_bn_relu`, then `max_pool2d`.

    Args:
        x, weight, gamma, beta, running_mean, running_var: as in `conv_bn_relu`.
        stride, padding, dilation, groups: the convolution's.
        pool_kernel_size, pool_stride, pool_padding: the pool's, as in `max_pool2d`.
        training, momentum, eps, process_group: the batch norm's.

    Returns:
        [N, K, ceil(P / 2), ceil(Q / 2)] for the standard pool over the convolution's [N, K, P, Q], in
        x's dtype.

    Raises:
        TypeError, ValueError: as `conv_bn_relu` and `max_pool2d`.
    """
    unit = ConvUnit(
        weight,
        gamma,
        beta,
        running_mean,
        running_var,
        stride,
        padding,
        dilation,
        groups,
        training,
        momentum,
        eps,
        process_group=process_group,
    )
    return run_pooled_unit(x, unit, pool_window(pool_kernel_size, pool_stride, pool_padding))


def run_pooled_unit(x: Tensor, unit: ConvUnit, window: PoolWindow) -> Tensor:
    """max_pool2d(relu(bn(conv(x)))) of a unit; its ReLU flag is ignored."""
    plain = _backend.undisturbed(x)
    if plain is not None:
        with restored_on_error(unit):
            return pool_in_torch(
                run_unit_plainly(plain, x, unit, None, True, restores=False), window
            )
    _validate.activation(x, "x")
    if _backend.resolve(x).fuses_max_pool and _selection.has_tensor_cores(x.device):
        grad = torch.is_grad_enabled() and requires_grad(x, unit.weight, unit.gamma, unit.beta)
        if window == FUSED_WINDOW and not (grad or unit.training or x.shape[0] == 0):
            return run_unit(x, unit, None, True, launch="max_pool")
    with restored_on_error(unit):
        return run_pool(run_unit(x, unit, None, True, launch="conv", restores=False), window)
