"""relu(bn(x) + residual) in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
) -> Tensor:
    """x [N, C, H, W], vectors [C] -> [N, C, H, W]."""
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    gamma, beta, mean, var = (
        None if vector is None else vector.to(acc)
        for vector in (gamma, beta, running_mean, running_var)
    )
    z = F.batch_norm(x, mean, var, gamma, beta, training, momentum, eps)
    if training and running_mean is not None and running_var is not None:
        for given, updated in ((running_mean, mean), (running_var, var)):
            if updated is not None and given.dtype != acc:
                given.copy_(updated)
    if residual is not None:
        z = z + residual
    return F.relu(z) if relu else z
