"""The layers in plain ATen calls, as torch's own modules make them: the peer, and the oracle in float64."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_cuda.bench.computation import EPS, MOMENTUM
from resnet_cuda.bench.layers import Layer
from resnet_cuda.testing.problems import ConvProblem


def layer(given: Mapping[str, Tensor], what: Layer, training: bool = False) -> Tensor:
    """relu?(bn(conv(x)) + shortcut?); training moves the running statistics of `given`."""
    z = batch_norm(convolve(given["x"], given["weight"], what.conv), given, training)
    if what.projection:
        y = convolve(given["residual"], given["projection_weight"], what.projection)
        z.add_(batch_norm(y, given, training, "projection_"))  # in place, as torchvision does
    elif what.residual:
        z.add_(given["residual"])
    return z.relu_() if what.relu else z


def convolve(x: Tensor, weight: Tensor, conv: ConvProblem) -> Tensor:
    return F.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)


def batch_norm(
    y: Tensor, given: Mapping[str, Tensor], training: bool = False, prefix: str = ""
) -> Tensor:
    gamma, beta, mean, var = (
        given[prefix + name] for name in ("gamma", "beta", "running_mean", "running_var")
    )
    return F.batch_norm(y, mean, var, gamma, beta, training, MOMENTUM, EPS)


def batch_statistics(y: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, invstd) [C] in the accumulator's dtype: on a GPU by what torch's SyncBatchNorm calls."""
    if y.is_cuda and y.dtype != torch.float64:
        mean, invstd = torch.batch_norm_stats(y, EPS)
        return mean, invstd
    wide = y if y.dtype == torch.float64 else y.float()
    var, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
    return mean, torch.rsqrt(var + EPS)
