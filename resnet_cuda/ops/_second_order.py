"""The backward of conv + batch norm + ReLU as a differentiable torch composite, for second derivatives.

The raw convolution output is recomputed from the inputs so that the statistics depend on them; the
ReLU gate is a constant (its derivative is zero almost everywhere). Per-channel arithmetic in the
accumulator's dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor

from resnet_cuda.ops._interface import (
    BatchNormSpec,
    ConvGeometry,
    Gradients,
    Needs,
    accumulator_dtype,
)

_CHANNEL = (0, 2, 3)


def _per_channel(vector: Tensor) -> Tensor:
    return vector.view(1, -1, 1, 1)


def gated(dz: Tensor, gate: Tensor | None) -> Tensor:
    """dz where the ReLU let its input through, else 0 (a NaN gradient stops at a closed gate, as
    in torch)."""
    return dz if gate is None else torch.where(gate, dz, torch.zeros_like(dz))


def batch_norm_backward(
    g: Tensor,
    y: Tensor,
    gamma: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    norm: BatchNormSpec,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dy, dgamma, dbeta) of batch norm over y; with batch statistics, mean and invstd are
    recomputed from y."""
    acc = accumulator_dtype(y.dtype)
    y, g = y.to(acc), g.to(acc)
    if norm.training:
        var, mean = torch.var_mean(y, _CHANNEL, correction=0)
        invstd = torch.rsqrt(var + norm.eps)
    y_hat = (y - _per_channel(mean)) * _per_channel(invstd)
    dbeta = g.sum(_CHANNEL)
    dgamma = (g * y_hat).sum(_CHANNEL)
    scale = invstd if gamma is None else invstd * gamma.to(acc)
    dy = g
    if norm.training:
        count = y.numel() // y.shape[1]
        dy = g - _per_channel(dbeta / count) - y_hat * _per_channel(dgamma / count)
    return dy * _per_channel(scale), dgamma, dbeta


def bn_backward(
    dz: Tensor,
    y: Tensor,
    gamma: Tensor | None,
    gate: Tensor | None,
    statistics: tuple[Tensor, Tensor],
    norm: BatchNormSpec,
    needs: Needs,
) -> Gradients:
    with torch.autocast(y.device.type, enabled=False):
        g = gated(dz, gate)
        dy, dgamma, dbeta = batch_norm_backward(g, y, gamma, *statistics, norm)
        return Gradients(
            x=dy.to(y.dtype) if needs.x else None,
            gamma=dgamma if needs.gamma else None,
            beta=dbeta if needs.beta else None,
            residual=g if needs.residual else None,
        )


def conv_bn_backward(
    dz: Tensor,
    x: Tensor,
    weight: Tensor,
    gamma: Tensor | None,
    gate: Tensor | None,
    statistics: tuple[Tensor, Tensor],
    geometry: ConvGeometry,
    norm: BatchNormSpec,
    needs: Needs,
) -> Gradients:
    g = geometry
    with torch.autocast(x.device.type, enabled=False):
        y = torch.conv2d(x, weight, None, g.stride, g.padding, g.dilation, g.groups)
        inner = needs._replace(x=needs.x or needs.weight)
        gradients = bn_backward(dz, y, gamma, gate, statistics, norm, inner)
        dx = dweight = None
        if gradients.x is not None:
            dx, dweight, _ = torch.ops.aten.convolution_backward.default(
                gradients.x,
                x,
                weight,
                None,
                g.stride,
                g.padding,
                g.dilation,
                False,
                (0, 0),
                g.groups,
                (needs.x, needs.weight, False),
            )
        return gradients._replace(x=dx, weight=dweight)
