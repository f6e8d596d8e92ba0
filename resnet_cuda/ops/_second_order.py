"""The backward of residual branches and of batch norm + ReLU as differentiable torch composites, for
second derivatives.

The raw convolution output is recomputed from the inputs so that the statistics depend on them; the
ReLU gate is a constant (its derivative is zero almost everywhere). Per-channel arithmetic in the
accumulator's dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from resnet_cuda.ops import _synchronised
from resnet_cuda.ops._interface import (
    BatchNormSpec,
    ConvGeometry,
    Gradients,
    Needs,
    accumulator_dtype,
)

if TYPE_CHECKING:
    from resnet_cuda.ops._branch import (
        BranchGradients,
        BranchNeeds,
        BranchSpec,
        ConvSpec,
        ConvTensors,
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
    """(dy, dgamma, dbeta) of batch norm over y with these statistics, which in training are y's."""
    acc = accumulator_dtype(y.dtype)
    y, g = y.to(acc), g.to(acc)
    y_hat = (y - _per_channel(mean)) * _per_channel(invstd)
    dbeta = g.sum(_CHANNEL)
    dgamma = (g * y_hat).sum(_CHANNEL)
    scale = invstd if gamma is None else invstd * gamma.to(acc)
    dy = g
    if norm.training:
        rows = y.numel() // y.shape[1]
        sums, rows_of_all = _synchronised.over_batch(norm.process_group, rows, dbeta, dgamma)
        count = _synchronised.divisor(rows_of_all)
        of_beta, of_gamma = (_per_channel((total / count).to(acc)) for total in sums)
        dy = g - of_beta - y_hat * of_gamma
    return dy * _per_channel(scale), dgamma, dbeta


def batch_statistics(y: Tensor, norm: BatchNormSpec) -> tuple[Tensor, Tensor]:
    """(mean, invstd) [K] of y, differentiable in it."""
    acc = accumulator_dtype(y.dtype)
    if norm.process_group is None:
        var, mean = torch.var_mean(y.to(acc), _CHANNEL, correction=0)
        return mean, torch.rsqrt(var + norm.eps)
    batch = _synchronised.differentiable(y, norm.process_group)
    return batch.mean.to(acc), torch.rsqrt(batch.var + norm.eps).to(acc)


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
        if norm.training:
            statistics = batch_statistics(y, norm)
        dy, dgamma, dbeta = batch_norm_backward(g, y, gamma, *statistics, norm)
        return Gradients(
            x=dy.to(y.dtype) if needs.x else None,
            gamma=dgamma if needs.gamma else None,
            beta=dbeta if needs.beta else None,
            residual=g if needs.residual else None,
        )


def branch_backward(
    branch: BranchSpec,
    dz: Tensor,
    x: Tensor,
    source: Tensor | None,
    tensors: Sequence[ConvTensors],
    statistics: Sequence[tuple[Tensor, Tensor]],
    needs: BranchNeeds,
) -> BranchGradients:
    """The gradients of a residual branch; `statistics` count where they were constants."""
    from resnet_cuda.ops._branch import BranchGradients, ConvGradients, ConvSpec, ZeroPad, spread

    with torch.autocast(x.device.type, enabled=False):
        units = len(branch.units)
        convolutions = list(zip(branch.convolutions, tensors, statistics, strict=True))
        start = x if source is None else source
        shortcut: Tensor | None = None
        if isinstance(branch.shortcut, ConvSpec):
            spec, t, numbers = convolutions[-1]
            projected = _convolve(start, t, spec.geometry)
            shortcut = _normalise(projected, t, numbers, spec)
        elif branch.shortcut is not None:
            shortcut = branch.shortcut(start) if isinstance(branch.shortcut, ZeroPad) else start
        # Compute every unit's output again; which ReLUs are open is a constant.
        a, inputs, outputs, gates = x, [], [], []
        for i, (spec, t, numbers) in enumerate(convolutions[:units]):
            inputs.append(a)
            outputs.append(_convolve(a, t, spec.geometry))
            a = _normalise(outputs[-1], t, numbers, spec)
            if i == units - 1 and shortcut is not None:
                a = a + shortcut
            gates.append(_open(a) if (branch.relu if i == units - 1 else spec.relu) else None)
            a = gated(a, gates[-1])
        # Walk back through the units, then through the shortcut.
        found = [ConvGradients()] * len(tensors)
        g, du = dz, gated(dz, gates[-1])
        for i in reversed(range(units)):
            spec, t, numbers = convolutions[i]
            reaches = needs.x or any(any(n) for n in needs.convolutions[:i])
            wants = Needs(reaches, *needs.convolutions[i], residual=False)
            if not any(wants):
                break
            gradients = _conv_bn_backward(
                gated(g, gates[i]), inputs[i], outputs[i], t, numbers, spec, wants
            )
            found[i] = ConvGradients(gradients.weight, gradients.gamma, gradients.beta)
            if gradients.x is None:
                break
            g = gradients.x
        dx = g if needs.x else None
        wants_source = branch.shortcut is not None and (needs.x if source is None else needs.source)
        dsource: Tensor | None = du
        if isinstance(branch.shortcut, ConvSpec):
            spec, t, numbers = convolutions[-1]
            wants = Needs(wants_source, *needs.convolutions[-1], residual=False)
            gradients = _conv_bn_backward(du, start, projected, t, numbers, spec, wants)
            found[-1] = ConvGradients(gradients.weight, gradients.gamma, gradients.beta)
            dsource = gradients.x
        elif isinstance(branch.shortcut, ZeroPad):
            dsource = spread(du, start, branch.shortcut.stride)
        if not wants_source:
            dsource = None
        if source is None and dx is not None and dsource is not None:
            dx = dx + dsource
        return BranchGradients(dx, None if source is None else dsource, found)


def _open(preactivation: Tensor) -> Tensor:
    return ~(preactivation.detach() <= 0)


def _convolve(x: Tensor, t: ConvTensors, g: ConvGeometry) -> Tensor:
    return torch.conv2d(x, t.weight, None, g.stride, g.padding, g.dilation, g.groups)


def _normalise(y: Tensor, t: ConvTensors, numbers: tuple[Tensor, Tensor], spec: ConvSpec) -> Tensor:
    """bn(y) with the batch's statistics, or in eval mode with (mean, invstd)."""
    acc = accumulator_dtype(y.dtype)
    wide = y.to(acc)
    mean, invstd = batch_statistics(y, spec.norm) if spec.norm.training else numbers
    z = (wide - _per_channel(mean)) * _per_channel(invstd)
    if t.gamma is not None:
        z = z * _per_channel(t.gamma.to(acc))
    if t.beta is not None:
        z = z + _per_channel(t.beta.to(acc))
    return z.to(y.dtype)


def _conv_bn_backward(
    g: Tensor,
    x: Tensor,
    y: Tensor,
    t: ConvTensors,
    numbers: tuple[Tensor, Tensor],
    spec: ConvSpec,
    needs: Needs,
) -> Gradients:
    """The gradients of bn(y), y = conv(x), from that of its output."""
    geometry = spec.geometry
    inner = needs._replace(x=needs.x or needs.weight)
    gradients = bn_backward(g, y, t.gamma, None, numbers, spec.norm, inner)
    dx = dweight = None
    if gradients.x is not None:
        dx, dweight, _ = torch.ops.aten.convolution_backward.default(
            gradients.x,
            x,
            t.weight,
            None,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            False,
            (0, 0),
            geometry.groups,
            (needs.x, needs.weight, False),
        )
    return gradients._replace(x=dx, weight=dweight)
