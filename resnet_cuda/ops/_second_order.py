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

from resnet_cuda import _backend
from resnet_cuda.ops import _synchronised
from resnet_cuda.ops._interface import (
    BatchNormSpec,
    BatchNormTensors,
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
        BranchTensors,
        ConvSpec,
        ConvTensors,
        Statistics,
    )

_CHANNEL = (0, 2, 3)


def _per_channel(vector: Tensor) -> Tensor:
    return vector.view(1, -1, 1, 1)


def is_wanted(dz: Tensor) -> bool:
    """Whether a backward pass that is given dz is differentiated or transformed, and so has to be composed here."""
    return torch.is_grad_enabled() or _backend.is_transformed(dz)


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
    # Summed in float64, as torch's own batch norm does on the CPU.
    dbeta = g.sum(_CHANNEL, dtype=torch.float64)
    dgamma = (g * y_hat).sum(_CHANNEL, dtype=torch.float64)
    scale = invstd if gamma is None else invstd * gamma.to(acc)
    dy = g
    if norm.training:
        rows = y.numel() // y.shape[1]
        sums, rows_of_all = _synchronised.over_batch(norm.process_group, rows, dbeta, dgamma)
        count = _synchronised.divisor(rows_of_all)
        of_beta, of_gamma = (_per_channel((total / count).to(acc)) for total in sums)
        dy = g - of_beta - y_hat * of_gamma
    return dy * _per_channel(scale), dgamma.to(acc), dbeta.to(acc)


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
    tensors: BranchTensors,
    statistics: Sequence[Statistics | None],
    needs: BranchNeeds,
) -> BranchGradients:
    """The gradients of a residual branch; `statistics` count where they were constants."""
    from resnet_cuda.ops._branch import BranchGradients, ConvGradients, ConvSpec, ZeroPad

    with torch.autocast(tensors.x.device.type, enabled=False):
        units = len(branch.units)
        convolutions = list(
            zip(branch.convolutions, tensors.convolutions, statistics[:-1], strict=True)
        )
        # Compute every output again; which ReLUs are open is a constant.
        entered, entry_gate = tensors.x, None
        if tensors.entry is not None:
            normal = _normalise(tensors.x, tensors.entry, statistics[-1], branch.entry)
            entry_gate = _open(normal)
            entered = gated(normal, entry_gate)
        start = tensors.start
        shortcut: Tensor | None = None
        if isinstance(branch.shortcut, ConvSpec):
            start = entered if tensors.source is None else start
            spec, t, numbers = convolutions[-1]
            projected = _convolve(start, t, spec.geometry)
            shortcut = _normalise(projected, t.bn, numbers, spec.norm)
        elif branch.shortcut is not None:
            shortcut = branch.shortcut(start) if isinstance(branch.shortcut, ZeroPad) else start
        a, inputs, outputs, gates = entered, [], [], []
        for i, (spec, t, numbers) in enumerate(convolutions[:units]):
            inputs.append(a)
            outputs.append(_convolve(a, t, spec.geometry))
            a = _normalise(outputs[-1], t.bn, numbers, spec.norm)
            term = shortcut if i == units - 1 else t.noise
            gate = _open(a if term is None else a + term)
            if i == units - 1 and term is not None:
                a = a + term
            gates.append(gate if (branch.relu if i == units - 1 else spec.relu) else None)
            a = gated(a, gates[-1])
        # Walk back through the units, then through the shortcut.
        found = [ConvGradients()] * len(tensors.convolutions)
        g: Tensor | None = dz
        du = gated(dz, gates[-1])
        for i in reversed(range(units)):
            spec, t, numbers = convolutions[i]
            wants = Needs(needs.below(i), *needs.convolutions[i], residual=False)
            if g is None or not any(wants):
                g = None
                break
            gradients = _conv_bn_backward(
                gated(g, gates[i]), inputs[i], outputs[i], t, numbers, spec, wants
            )
            found[i] = ConvGradients(gradients.weight, gradients.gamma, gradients.beta)
            g = gradients.x
        own = tensors.source is not None
        projects = isinstance(branch.shortcut, ConvSpec)
        wants_start = needs.source if own else needs.below(0) if projects else needs.x
        dsource: Tensor | None = du
        if isinstance(branch.shortcut, ConvSpec):
            spec, t, numbers = convolutions[-1]
            wants = Needs(wants_start, *needs.convolutions[-1], residual=False)
            gradients = _conv_bn_backward(du, start, projected, t, numbers, spec, wants)
            found[-1] = ConvGradients(gradients.weight, gradients.gamma, gradients.beta)
            dsource = gradients.x
        elif isinstance(branch.shortcut, ZeroPad):
            dsource = _spread(du, start, branch.shortcut.stride)
        if branch.shortcut is None or not wants_start:
            dsource = None
        if not own and projects and g is not None and dsource is not None:
            g, dsource = g + dsource, None
        # Then through the batch norm that enters.
        of_entry = ConvGradients()
        if branch.entry is not None and tensors.entry is not None and g is not None:
            wants = Needs(needs.x, *needs.entry, residual=False)
            numbers = statistics[-1]
            assert numbers is not None
            gradients = bn_backward(
                g, tensors.x, tensors.entry.gamma, entry_gate, numbers, branch.entry, wants
            )
            g, of_entry = gradients.x, ConvGradients(None, gradients.gamma, gradients.beta)
        dx = g if needs.x else None
        if not own and dx is not None and dsource is not None:
            dx = dx + dsource
        return BranchGradients(dx, dsource if own else None, found, of_entry)


def _open(preactivation: Tensor) -> Tensor:
    return ~(preactivation.detach() <= 0)


def _spread(g: Tensor, like: Tensor, stride: int) -> Tensor:
    """`_branch.spread` out of place, which torch.vmap can follow."""
    n, c, h, w = like.shape
    rows = torch.ops.aten.slice_backward(g[:, :c], (n, c, g.shape[2], w), 3, 0, w, stride)
    return torch.ops.aten.slice_backward(rows, (n, c, h, w), 2, 0, h, stride)


def _convolve(x: Tensor, t: ConvTensors, g: ConvGeometry) -> Tensor:
    return torch.conv2d(x, t.weight, None, g.stride, g.padding, g.dilation, g.groups)


def _normalise(
    y: Tensor, bn: BatchNormTensors, numbers: Statistics | None, norm: BatchNormSpec | None
) -> Tensor:
    """bn(y) with the batch's statistics, or in eval mode with (mean, invstd); y where there is no
    batch norm."""
    if norm is None or numbers is None:
        return y
    acc = accumulator_dtype(y.dtype)
    wide = y.to(acc)
    mean, invstd = batch_statistics(y, norm) if norm.training else numbers
    z = (wide - _per_channel(mean)) * _per_channel(invstd)
    if bn.gamma is not None:
        z = z * _per_channel(bn.gamma.to(acc))
    if bn.beta is not None:
        z = z + _per_channel(bn.beta.to(acc))
    return z.to(y.dtype)


def _conv_bn_backward(
    g: Tensor,
    x: Tensor,
    y: Tensor,
    t: ConvTensors,
    numbers: Statistics | None,
    spec: ConvSpec,
    needs: Needs,
) -> Gradients:
    """The gradients of bn(y), y = conv(x), from that of its output."""
    geometry = spec.geometry
    gradients = Gradients(x=g)
    if spec.norm is not None and numbers is not None:
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
