"""The executor of residual branches on our kernels: a branch's forward and backward as short lists
of passes, each with what it reads and writes.

No normalised or activated tensor is stored inside a branch. A convolution stores its raw output y
and, per channel, sums from which batch norm's statistics follow; whoever reads y normalises and
activates it on its way in. Back again, every dgrad adds, gates and sums in its epilogue what the
batch norm before it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from resnet_cuda.ops import _kernel_norms
from resnet_cuda.ops._branch import (
    BranchGradients,
    BranchNeeds,
    BranchSpec,
    ConvGradients,
    ConvNeeds,
    ConvSpec,
    ConvTensors,
    Identity,
    ZeroPad,
)
from resnet_cuda.ops._interface import accumulator_dtype, cast_vector
from resnet_cuda.ops._layout import as_channels_last
from resnet_cuda.ops._saved_gate import SavedGate

_ops = torch.ops.resnet_cuda
_PIECE = 8  # 16-bit channels that the kernels copy at once


class Convolved(NamedTuple):
    """A convolution's raw output and its batch norm, not yet applied: bn(y) = y scale + bias."""

    y: Tensor
    mean: Tensor
    invstd: Tensor
    scale: Tensor
    bias: Tensor


class Operand(NamedTuple):
    """What a convolution reads: a tensor as it is, or relu(y scale + bias) of one."""

    tensor: Tensor
    scale: Tensor | None = None
    bias: Tensor | None = None


class OutputGradient(NamedTuple):
    """The gradient of a raw output y: `g` itself, or what the coefficients make of (g, y) on load."""

    g: Tensor
    y: Tensor | None = None
    coefficients: Tensor | None = None
    gate_scale: Tensor | None = None
    gate_bias: Tensor | None = None

    def on_load(self) -> dict[str, Tensor | None]:
        return {name: value for name, value in zip(self._fields[1:], self[1:], strict=True)}


def forward(
    branch: BranchSpec, x: Tensor, source: Tensor | None, tensors: Sequence[ConvTensors]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """z, and what `backward` wants to have: every `Convolved`, and the bits of z's ReLU where there
    is a shortcut."""
    convolved: list[Convolved] = []
    # Convolve. Reads the output before, normalised on load; writes y and its statistics.
    operand = Operand(x)
    for spec, t in zip(branch.units, tensors, strict=False):
        convolved.append(_convolve(operand, spec, t))
        operand = Operand(convolved[-1].y, convolved[-1].scale, convolved[-1].bias)
    last = convolved[-1]
    start = x if source is None else source
    # Make the shortcut. A projection reads the branch's input and writes two tensors.
    residual: Tensor | None = None
    if isinstance(branch.shortcut, ConvSpec):
        convolved.append(_convolve(Operand(start), branch.shortcut, tensors[-1]))
        y, _, _, scale, bias = convolved[-1]
        residual = _ops._bn_apply.default(y, scale, bias, None, False, False)[0]
    elif isinstance(branch.shortcut, ZeroPad):
        residual = as_channels_last(branch.shortcut(start))
    elif isinstance(branch.shortcut, Identity):
        residual = start
    # Normalise, add, activate. Reads y and the shortcut; writes z and a bit per element.
    keeps_bits = branch.relu and residual is not None
    z, mask = _ops._bn_apply.default(
        last.y, last.scale, last.bias, residual, branch.relu, keeps_bits
    )
    saved = [tensor for c in convolved for tensor in c]
    return z, (*saved, mask) if keeps_bits else tuple(saved)


def statistics(branch: BranchSpec, saved: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(mean, invstd) [K] of every batch norm."""
    return [(c.mean, c.invstd) for c in _unpack(branch, saved)]


def backward(
    branch: BranchSpec,
    dz: Tensor,
    x: Tensor,
    source: Tensor | None,
    tensors: Sequence[ConvTensors],
    saved: Sequence[Tensor],
    needs: BranchNeeds,
) -> BranchGradients:
    """The gradients that are needed, from what `forward` saved."""
    convolved = _unpack(branch, saved)
    gradients = [ConvGradients()] * len(tensors)
    units = len(branch.units)
    start = x if source is None else source
    wants_source = branch.shortcut is not None and (needs.x if source is None else needs.source)
    wants_du = wants_source or any(any(n) for n in needs.convolutions[units:])

    def reaches(i: int) -> bool:
        """Whether a gradient is wanted below unit i: of what it reads, or further down."""
        return needs.x or any(any(n) for n in needs.convolutions[:i])

    def wants_dy(i: int) -> bool:
        return needs.convolutions[i].weight or reaches(i)

    # Sum behind z's ReLU. Reads dz, its bits and the last y; writes sums.
    end = units - 1
    last = convolved[end]
    dz = as_channels_last(dz)
    gate = _gate_of(branch, last, saved)
    partials = None
    if _wants_sums(branch.units[end], needs.convolutions[end], wants_dy(end)):
        partials = _ops._bn_backward_reduce.default(dz, last.y, last.mean, *gate)
    coefficients, gradients[end] = _finalize(
        partials, last, branch.units[end], tensors[end], needs.convolutions[end]
    )
    # Take dz through the ReLU and the last batch norm. Reads dz, its bits and y; writes dy and du.
    du = dz
    dy: OutputGradient | None = None
    if wants_dy(end):
        if gate.mask is None and _is_loaded_once(branch.units[end], tensors[end].weight):
            dy = OutputGradient(dz, last.y, coefficients, gate.scale, gate.bias)
        else:
            stores_du = gate.mask is not None and wants_du
            g, stored = _ops._bn_backward_apply.default(dz, last.y, *gate, coefficients, stores_du)
            dy, du = OutputGradient(g), stored if stores_du else dz
    elif wants_du and gate.mask is not None:
        du = _ops._add_relu_backward.default(dz, gate.mask)
    # Take du through the shortcut.
    dsource: Tensor | None = None
    if wants_du:
        dsource, of_projection = _shortcut_backward(
            branch, du, start, tensors, convolved, needs, wants_source
        )
        gradients[units:] = of_projection

    dx: Tensor | None = None
    while dy is not None:
        spec, weight = branch.units[end], tensors[end].weight
        before = convolved[end - 1] if end > 0 else None
        if needs.convolutions[end].weight:
            # Reads dy and what the unit read, normalised on load; writes dW.
            read = Operand(x) if before is None else _normalised(before)
            gradients[end] = gradients[end]._replace(weight=_wgrad(dy, read, spec, weight))
        if not reaches(end):
            break
        if before is None:
            # Reads dy and the shortcut's gradient; writes dx.
            dx = _dgrad(dy, spec, weight, x.shape, addend=dsource if source is None else None)[0]
            break
        # Reads dy and the y before; writes its gradient behind the ReLU, and sums.
        end -= 1
        needed = needs.convolutions[end]
        g, partials = _dgrad(
            dy,
            spec,
            weight,
            before.y.shape,
            before=before,
            sums=_wants_sums(branch.units[end], needed, wants_dy(end)),
        )
        coefficients, gradients[end] = _finalize(
            partials, before, branch.units[end], tensors[end], needed
        )
        dy = None
        if wants_dy(end):
            dy = OutputGradient(g, before.y, coefficients)
            if not _is_loaded_once(branch.units[end], tensors[end].weight):
                # Reads the gradient and y; writes dy.
                dy = _stored(dy)
    return BranchGradients(dx, None if source is None else dsource, gradients)


def _shortcut_backward(
    branch: BranchSpec,
    du: Tensor,
    source: Tensor,
    tensors: Sequence[ConvTensors],
    convolved: Sequence[Convolved],
    needs: BranchNeeds,
    wants_source: bool,
) -> tuple[Tensor | None, list[ConvGradients]]:
    """The gradient of the shortcut's input, and those of a projection's parameters."""
    spec = branch.shortcut
    if isinstance(spec, ZeroPad):
        kept = du[:, : source.shape[1]]
        spread = torch.zeros_like(source)
        spread[:, :, :: spec.stride, :: spec.stride] = kept
        return spread, []
    if not isinstance(spec, ConvSpec):
        return du, []
    t, c, needed = tensors[-1], convolved[-1], needs.convolutions[-1]
    wants_dy = needed.weight or wants_source
    # Reads du and the projection's y; writes sums.
    partials = None
    if _wants_sums(spec, needed, wants_dy):
        partials = _ops._bn_backward_reduce.default(du, c.y, c.mean, None, None, None)
    coefficients, gradients = _finalize(partials, c, spec, t, needed)
    dsource = None
    if wants_dy:
        dy = OutputGradient(du, c.y, coefficients)
        if not _is_loaded_once(spec, t.weight):
            dy = _stored(dy)
        # Read dy, and the input or the filters; write dW and the input's gradient.
        if needed.weight:
            gradients = gradients._replace(weight=_wgrad(dy, Operand(source), spec, t.weight))
        if wants_source:
            dsource = _dgrad(dy, spec, t.weight, source.shape)[0]
    return dsource, [gradients]


def _unpack(branch: BranchSpec, saved: Sequence[Tensor]) -> list[Convolved]:
    count = len(Convolved._fields)
    return [Convolved(*saved[i * count : (i + 1) * count]) for i in range(len(branch.convolutions))]


def _gate_of(branch: BranchSpec, last: Convolved, saved: Sequence[Tensor]) -> SavedGate:
    if not branch.relu:
        return SavedGate()
    return (
        SavedGate(None, last.scale, last.bias) if branch.shortcut is None else SavedGate(saved[-1])
    )


def _normalised(c: Convolved) -> Operand:
    return Operand(c.y, c.scale, c.bias)


def _convolve(read: Operand, spec: ConvSpec, t: ConvTensors) -> Convolved:
    """The convolution and its batch norm's numbers; the running ones move in training."""
    g, norm = spec.geometry, spec.norm
    y, partials = _ops._conv_fprop.default(
        *(read.tensor, as_channels_last(t.weight), read.scale, read.bias),
        *(None, None, None, False),
        *g,
        norm.training,
    )
    if norm.training:
        return Convolved(y, *_kernel_norms.of_batch(partials, y, t.bn, norm))
    acc = accumulator_dtype(y.dtype)
    return Convolved(y, *_kernel_norms.of_running_statistics(t.bn, norm.eps, acc))


def _is_loaded_once(spec: ConvSpec, weight: Tensor) -> bool:
    """Whether dgrad and wgrad shall read (g, y) instead of a stored gradient of y: four tensors
    then pass through memory and not five.

    Only where the kernels load each element about once: 1x1 filters without groups, on tensor
    cores in whole pieces of channels.
    """
    filters, channels, *window = weight.shape
    return (
        weight.dtype.itemsize == 2
        and window == [1, 1]
        and spec.geometry.groups == 1
        and filters % _PIECE == 0
        and channels % _PIECE == 0
    )


def _wants_sums(spec: ConvSpec, needed: ConvNeeds, wants_dy: bool) -> bool:
    """Whether the gradient behind a ReLU has to be summed: for gamma and beta, and because the
    batch's statistics depend on y."""
    return needed.gamma or needed.beta or (wants_dy and spec.norm.training)


def _finalize(
    partials: Tensor | None, c: Convolved, spec: ConvSpec, t: ConvTensors, needed: ConvNeeds
) -> tuple[Tensor, ConvGradients]:
    """The coefficients [4, K] that make y's gradient of the one behind the ReLU, and the vectors' gradients."""
    if partials is None:
        scale = c.invstd if t.gamma is None else t.gamma.to(c.mean.dtype) * c.invstd
        zero = torch.zeros_like(scale)
        return torch.stack((scale, zero, zero, zero)), ConvGradients()
    gamma = cast_vector(t.gamma, c.mean.dtype)
    dgamma, dbeta, coefficients = _ops._bn_backward_finalize.default(
        partials, _kernel_norms.values_per_channel(c.y), gamma, c.mean, c.invstd, spec.norm.training
    )
    return coefficients, ConvGradients(
        None, dgamma if needed.gamma else None, dbeta if needed.beta else None
    )


def _stored(dy: OutputGradient) -> OutputGradient:
    """Reads the gradient behind the ReLU and y; writes y's."""
    return OutputGradient(
        _ops._bn_backward_apply.default(
            dy.g, dy.y, None, dy.gate_scale, dy.gate_bias, dy.coefficients, False
        )[0]
    )


def _wgrad(dy: OutputGradient, read: Operand, spec: ConvSpec, weight: Tensor) -> Tensor:
    return _ops._conv_wgrad.default(
        *(dy.g, read.tensor, weight.shape, read.scale, read.bias), *spec.geometry, **dy.on_load()
    )


def _dgrad(
    dy: OutputGradient,
    spec: ConvSpec,
    weight: Tensor,
    shape: Sequence[int],
    *,
    addend: Tensor | None = None,
    before: Convolved | None = None,
    sums: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The gradient of what the unit read, `addend` added; before: the one behind the ReLU over that
    output, and its sums."""
    act = (None, None, None) if before is None else (before.y, before.scale, before.bias)
    mean = before.mean if before is not None and sums else None
    g, partials = _ops._conv_dgrad.default(
        *(dy.g, as_channels_last(weight), shape, addend, *act, mean),
        *spec.geometry,
        **dy.on_load(),
    )
    return g, partials if sums else None
