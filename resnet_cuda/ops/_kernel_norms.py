"""Batch norm's per-channel numbers on our kernels: (mean, invstd, scale, bias) [K] in the accumulator's dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from resnet_cuda.ops._interface import (
    BatchNormSpec,
    BatchNormTensors,
    accumulator_dtype,
    cast_vector,
)

Numbers = tuple[Tensor, Tensor, Tensor, Tensor]


def values_per_channel(y: Tensor) -> int:
    return y.shape[0] * y.shape[2] * y.shape[3]


def of_running_statistics(bn: BatchNormTensors, eps: float, acc: torch.dtype) -> Numbers:
    """No views of the buffers."""
    assert bn.running_mean is not None and bn.running_var is not None
    mean = bn.running_mean.to(acc, copy=True)
    invstd = torch.rsqrt(bn.running_var.to(acc) + eps)
    scale = invstd.clone() if bn.gamma is None else bn.gamma.to(acc) * invstd
    bias = (
        -mean * scale if bn.beta is None else torch.addcmul(bn.beta.to(acc), mean, scale, value=-1)
    )
    return mean, invstd, scale, bias


def of_batch(partials: Tensor, y: Tensor, bn: BatchNormTensors, norm: BatchNormSpec) -> Numbers:
    """From the partial statistics of y; moves the running ones."""
    acc = accumulator_dtype(y.dtype)
    gamma, beta, running_mean, running_var = (cast_vector(vector, acc) for vector in bn)
    numbers: Numbers = torch.ops.resnet_cuda._bn_finalize.default(
        partials,
        values_per_channel(y),
        gamma,
        beta,
        running_mean,
        running_var,
        norm.momentum,
        norm.eps,
    )
    for given, updated in ((bn.running_mean, running_mean), (bn.running_var, running_var)):
        if given is not None and updated is not None and updated is not given:
            given.copy_(updated)
    return numbers
