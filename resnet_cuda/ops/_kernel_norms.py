"""Batch norm's per-channel numbers on our kernels: (mean, invstd, scale, bias) [K] in the accumulator's dtype."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from resnet_cuda.ops import _synchronised
from resnet_cuda.ops._interface import (
    BatchNormSpec,
    BatchNormTensors,
    accumulator_dtype,
    cast_vector,
)

Numbers = tuple[Tensor, Tensor, Tensor, Tensor]


def values_per_channel(y: Tensor) -> int:
    return y.shape[0] * y.shape[2] * y.shape[3]


def cast_vectors(bn: BatchNormTensors, acc: torch.dtype) -> BatchNormTensors:
    """As the kernels take them; those that are already are the caller's own."""
    return BatchNormTensors(*(cast_vector(vector, acc) for vector in bn))


def keep_running(bn: BatchNormTensors, moved: BatchNormTensors) -> None:
    """Copies running statistics that a kernel has moved back to the caller's, where they are others."""
    for given, updated in (
        (bn.running_mean, moved.running_mean),
        (bn.running_var, moved.running_var),
    ):
        if given is not None and updated is not None and updated is not given:
            given.copy_(updated)


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
    if norm.process_group is not None:
        return _of_all_ranks(partials, y, bn, norm, norm.process_group)
    vectors = cast_vectors(bn, accumulator_dtype(y.dtype))
    numbers: Numbers = torch.ops.resnet_cuda._bn_finalize.default(
        partials, values_per_channel(y), *vectors, norm.momentum, norm.eps
    )
    keep_running(bn, vectors)
    return numbers


def _of_all_ranks(
    partials: Tensor, y: Tensor, bn: BatchNormTensors, norm: BatchNormSpec, group: ProcessGroup
) -> Numbers:
    rows, acc = values_per_channel(y), accumulator_dtype(y.dtype)
    none = (None,) * 4
    mean, invstd, *_ = torch.ops.resnet_cuda._bn_finalize.default(partials, rows, *none, 0.0, 0.0)
    squares = rows / invstd.double().square()  # eps is 0
    batch = _synchronised.of_all_ranks(rows, mean, squares, group)
    batch.move(bn, norm.momentum)
    given = bn._replace(running_mean=batch.mean, running_var=batch.var)
    mean, invstd, scale, bias = of_running_statistics(given, norm.eps, torch.float64)
    return mean.to(acc), invstd.to(acc), scale.to(acc), bias.to(acc)


def backward_of_batch(
    partials: Tensor,
    y: Tensor,
    gamma: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    norm: BatchNormSpec,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dgamma, dbeta, coefficients [4, K]): those make y's gradient of the one behind the ReLU."""
    rows = values_per_channel(y)
    dgamma, dbeta, coefficients = torch.ops.resnet_cuda._bn_backward_finalize.default(
        partials, rows, cast_vector(gamma, mean.dtype), mean, invstd, norm.training
    )
    if norm.process_group is not None:
        # The same coefficients, from the sums over all ranks.
        (every_dgamma, every_dbeta), count = _synchronised.over_batch(
            norm.process_group, rows, dgamma, dbeta
        )
        wide = invstd.double()
        scale = wide if gamma is None else wide * gamma.double()
        share = -scale / _synchronised.divisor(count)
        coefficients = torch.stack(
            (scale, share * wide * every_dgamma, share * every_dbeta, mean.double())
        ).to(mean.dtype)
    return dgamma, dbeta, coefficients
