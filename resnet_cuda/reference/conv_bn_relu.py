"""relu(bn(conv(x)) + residual) in plain torch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from resnet_cuda.reference.bn_relu import bn_relu

Pair = tuple[int, int]


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
    """x [N, C, H, W], weight [K, C / groups, R, S], vectors [K], residual [N, K, P, Q] -> [N, K, P, Q]."""
    y = F.conv2d(x, weight, None, stride, padding, dilation, groups)
    return bn_relu(
        y,
        gamma,
        beta,
        running_mean,
        running_var,
        residual=residual,
        training=training,
        momentum=momentum,
        eps=eps,
        relu=relu,
        process_group=process_group,
    )
