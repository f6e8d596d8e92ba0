"""max_pool2d(relu(bn(conv(x)))) in plain torch."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from resnet_cuda.reference.conv_bn_relu import conv_bn_relu
from resnet_cuda.reference.max_pool2d import max_pool2d


def conv_bn_relu_max_pool2d(
    x: Tensor,
    weight: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    pool_kernel_size: int = 3,
    pool_stride: int = 2,
    pool_padding: int = 1,
    **options: Any,
) -> Tensor:
    """x [N, C, H, W], weight [K, C / groups, R, S], vectors [K] -> pooled [N, K, P, Q]; options: `conv_bn_relu`'s."""
    z = conv_bn_relu(x, weight, gamma, beta, running_mean, running_var, **options)
    return max_pool2d(z, pool_kernel_size, pool_stride, pool_padding)
