"""relu(bn(x) + residual) in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup


def bn_relu(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    residual: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = True,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """x [N, C, H, W], vectors [C] -> [N, C, H, W]."""
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    if training and process_group is not None:
        bn = (gamma, beta, running_mean, running_var)
        z = _over_all_ranks(x.to(acc), *bn, momentum, eps, process_group).to(x.dtype)
        return _end(z, residual, relu)
    # Contiguous: torch's backward over channels_last memory takes vectors of other strides for contiguous ones.
    gamma, beta, mean, var = (
        None if vector is None else vector.to(acc).contiguous()
        for vector in (gamma, beta, running_mean, running_var)
    )
    z = F.batch_norm(x, mean, var, gamma, beta, training, momentum, eps)
    if training and running_mean is not None and running_var is not None:
        for given, updated in ((running_mean, mean), (running_var, var)):
            if updated is not None and (given.dtype != acc or not given.is_contiguous()):
                given.copy_(updated)
    return _end(z, residual, relu)


def _end(z: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    if residual is not None:
        z = z + residual
    return F.relu(z) if relu else z


def _over_all_ranks(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    group: ProcessGroup,
) -> Tensor:
    from resnet_cuda.ops import _synchronised
    from resnet_cuda.ops._interface import BatchNormTensors

    batch = _synchronised.differentiable(x, group)
    with torch.no_grad():
        batch.move(BatchNormTensors(gamma, beta, running_mean, running_var), momentum)
    z = (x - _per_channel(batch.mean, x)) * _per_channel(torch.rsqrt(batch.var + eps), x)
    if gamma is not None:
        z = z * _per_channel(gamma, x)
    return z if beta is None else z + _per_channel(beta, x)


def _per_channel(vector: Tensor, x: Tensor) -> Tensor:
    return vector.to(x.dtype).view(1, -1, 1, 1)
