"""Running statistics under torch.compile, where an autograd function must not write to its inputs:
they move outside of it."""

from __future__ import annotations

import torch
from torch import Tensor

from resnet_cuda.ops._interface import BatchNormSpec, BatchNormTensors


def defer_running_update(
    bn: BatchNormTensors, norm: BatchNormSpec
) -> tuple[BatchNormTensors, bool]:
    """The tensors to call with, and whether the caller has to move the running statistics."""
    if norm.training and bn.running_mean is not None and torch.compiler.is_compiling():
        return bn._replace(running_mean=None, running_var=None), True
    return bn, False


def update_running(
    bn: BatchNormTensors, norm: BatchNormSpec, statistics: tuple[Tensor, Tensor], count: int
) -> None:
    """Moves the running statistics towards the batch's (mean, invstd), each of `count` values; the
    variance is made unbiased."""
    assert bn.running_mean is not None and bn.running_var is not None
    mean, invstd = statistics
    with torch.no_grad():
        var = (invstd.square().reciprocal() - norm.eps) * (count / (count - 1))
        bn.running_mean.lerp_(mean.to(bn.running_mean.dtype), norm.momentum)
        bn.running_var.lerp_(var.to(bn.running_var.dtype), norm.momentum)
