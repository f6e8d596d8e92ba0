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
_OPEN = SavedGate()  # lets everything pass


class Convolved(NamedTuple):
    """A convolution's raw output and its batch norm, not yet applied: bn(y) = y scale + bias."""

    y: Tensor
    mean: Tensor
    invstd: Tensor
    scale: Tensor
    bias: Tensor


class Operand(NamedTuple):
    """What a convolution reads: a tensor as it is, or max(y scale + bias, floor) of one (floor None:
    0, the ReLU)."""

    tensor: Tensor
    scale: Tensor | None = None
    bias: Tensor | None = None
    floor: Tensor | None = None


class AddedGradient(NamedTuple):
    """What dgrad's epilogue adds: a tensor where its mask's bits are set, at every `stride`-th pixel."""

    tensor: Tensor
    mask: Tensor | None = None
    stride: int = 1


class OutputGradient(NamedTuple):
    """The gradient of a raw output y: `g` itself, or what the coefficients make of (g, y) on load."""

    g: Tensor
    y: Tensor | None = None
    coefficients: Tensor | None = None
    gate_mask: Tensor | None = None
    gate_scale: Tensor | None = None
    gate_bias: Tensor | None = None

    def on_load(self) -> dict[str, Tensor | None]:
        return {
            "y": self.y,
            "coefficients": self.coefficients,
            "gate_scale": self.gate_scale,
            "gate_bias": self.gate_bias,
        }


def forward(
    branch: BranchSpec, x: Tensor, source: Tensor | None, tensors: Sequence[ConvTensors]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """z, and what `backward` wants to have: every `Convolved`, and the bits of z's ReLU where there
    is a shortcut."""
    convolved: list[Convolved] = []
    start = x if source is None else source
    # Convolve. Reads the output before, normalised on load; writes y and its statistics.
    read = Operand(x)
    for spec, t in zip(branch.units, tensors, strict=False):
        convolved.append(_convolve(read, spec, t))
        read = _normalised(convolved[-1], spec.relu)
    y, _, _, scale, bias = convolved[-1]
    # Make the shortcut. A projection reads the branch's input; writes its y and its statistics.
    residual: Tensor | None = None
    residual_scale: Tensor | None = None
    if isinstance(branch.shortcut, ConvSpec):
        convolved.append(_convolve(Operand(start), branch.shortcut, tensors[-1]))
        residual, _, _, residual_scale, residual_bias = convolved[-1]
        bias = bias + residual_bias
    elif isinstance(branch.shortcut, ZeroPad):
        residual = as_channels_last(branch.shortcut(start))
    elif isinstance(branch.shortcut, Identity):
        residual = start
    # Normalise, add, activate. Reads y and the shortcut; writes z and a bit per element.
    keeps_bits = branch.relu and residual is not None
    z, mask = _ops._bn_apply.default(
        y, scale, bias, residual, branch.relu, keeps_bits, residual_scale=residual_scale
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
    # Take dz through the ReLU and the last batch norm. Reads dz, its bits and y; writes dy, unless
    # whoever needs it does so on load.
    dy: OutputGradient | None = None
    if wants_dy(end):
        dy = OutputGradient(dz, last.y, coefficients, *gate)
        dy = dy if _is_loaded_once(branch.units[end], tensors[end].weight, gate) else _stored(dy)
    # Take it through the ReLU and the shortcut.
    added: AddedGradient | None = None
    if wants_du:
        added, of_projection = _shortcut_backward(
            branch, dz, gate, start, tensors, convolved, needs, wants_source
        )
        gradients[units:] = of_projection

    dx: Tensor | None = None
    while dy is not None:
        spec, weight = branch.units[end], tensors[end].weight
        before = convolved[end - 1] if end > 0 else None
        if needs.convolutions[end].weight:
            # Reads dy and what the unit read, normalised on load; writes dW.
            read = Operand(x)
            if before is not None:
                read = _normalised(before, branch.units[end - 1].relu)
            gradients[end] = gradients[end]._replace(weight=_wgrad(dy, read, spec, weight))
        if not reaches(end):
            break
        if before is None:
            # Reads dy and the shortcut's gradient; writes dx.
            dx = _dgrad(dy, spec, weight, x.shape, added=added if source is None else None)[0]
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
            relu=branch.units[end].relu,
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
    dsource = None if source is None or added is None else _spread(added, source)
    return BranchGradients(dx, dsource, gradients)


def _shortcut_backward(
    branch: BranchSpec,
    dz: Tensor,
    gate: SavedGate,
    start: Tensor,
    tensors: Sequence[ConvTensors],
    convolved: Sequence[Convolved],
    needs: BranchNeeds,
    wants_start: bool,
) -> tuple[AddedGradient | None, list[ConvGradients]]:
    """The gradient of the shortcut's input, and those of a projection's parameters."""
    spec = branch.shortcut
    if not isinstance(spec, ConvSpec):
        stride = spec.stride if isinstance(spec, ZeroPad) else 1
        added = AddedGradient(dz, gate.mask, stride)
        if gate.mask is not None and (dz.shape[1] % 8 or start.shape[1] % 8):
            # A byte of bits belongs to 8 channels of one pixel only if these come in eights.
            added = AddedGradient(_ops._add_relu_backward.default(dz, gate.mask), None, stride)
        return added, []
    t, c, needed = tensors[-1], convolved[-1], needs.convolutions[-1]
    wants_dy = needed.weight or wants_start
    # Reads dz, its bits and the projection's y; writes sums.
    partials = None
    if _wants_sums(spec, needed, wants_dy):
        partials = _ops._bn_backward_reduce.default(dz, c.y, c.mean, *gate)
    coefficients, gradients = _finalize(partials, c, spec, t, needed)
    of_start: AddedGradient | None = None
    if wants_dy:
        dy = OutputGradient(dz, c.y, coefficients, *gate)
        if not _is_loaded_once(spec, t.weight, gate):
            # Reads dz, its bits and the projection's y; writes dy.
            dy = _stored(dy)
        # Read dy, and the input or the filters; write dW and the input's gradient.
        if needed.weight:
            gradients = gradients._replace(weight=_wgrad(dy, Operand(start), spec, t.weight))
        if wants_start:
            of_start = AddedGradient(_dgrad(dy, spec, t.weight, start.shape)[0])
    return of_start, [gradients]


def _spread(added: AddedGradient, start: Tensor) -> Tensor:
    """The added gradient as a tensor of its own, in the shape of what it is the gradient of."""
    g, mask, stride = added
    if mask is not None:
        g = _ops._add_relu_backward.default(g, mask)
    if g.shape == start.shape:
        return g
    spread = torch.zeros_like(start)
    spread[:, :, ::stride, ::stride] = g[:, : start.shape[1]]
    return spread


def _unpack(branch: BranchSpec, saved: Sequence[Tensor]) -> list[Convolved]:
    count = len(Convolved._fields)
    return [Convolved(*saved[i * count : (i + 1) * count]) for i in range(len(branch.convolutions))]


def _gate_of(branch: BranchSpec, last: Convolved, saved: Sequence[Tensor]) -> SavedGate:
    if not branch.relu:
        return SavedGate()
    return (
        SavedGate(None, last.scale, last.bias) if branch.shortcut is None else SavedGate(saved[-1])
    )


def _normalised(c: Convolved, relu: bool) -> Operand:
    floor = None if relu else torch.full_like(c.bias, -torch.inf)
    return Operand(c.y, c.scale, c.bias, floor)


def _convolve(read: Operand, spec: ConvSpec, t: ConvTensors) -> Convolved:
    """The convolution and its batch norm's numbers; the running ones move in training."""
    g, norm = spec.geometry, spec.norm
    y, partials, _ = _ops._conv_fprop.default(
        *(read.tensor, as_channels_last(t.weight), read.scale, read.bias),
        *(None, None, None, False),
        *g,
        norm.training,
        x_floor=read.floor,
    )
    if norm.training:
        return Convolved(y, *_kernel_norms.of_batch(partials, y, t.bn, norm))
    acc = accumulator_dtype(y.dtype)
    return Convolved(y, *_kernel_norms.of_running_statistics(t.bn, norm.eps, acc))


def _is_loaded_once(spec: ConvSpec, weight: Tensor, gate: SavedGate = _OPEN) -> bool:
    """Whether dgrad and wgrad shall read (g, y) instead of a stored gradient of y: four tensors
    then pass through memory and not five.

    Only where the kernels load each element about once: 1x1 filters without groups, on tensor
    cores in whole pieces of channels.
    """
    filters, channels, *window = weight.shape
    return (
        gate.mask is None
        and weight.dtype.itemsize == 2
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
    """y's gradient as a tensor."""
    return OutputGradient(
        _ops._bn_backward_apply.default(dy.g, dy.y, *dy[3:], dy.coefficients, False)[0]
    )


def _wgrad(dy: OutputGradient, read: Operand, spec: ConvSpec, weight: Tensor) -> Tensor:
    return _ops._conv_wgrad.default(
        *(dy.g, read.tensor, weight.shape, read.scale, read.bias),
        *spec.geometry,
        **dy.on_load(),
        x_floor=read.floor,
    )


def _dgrad(
    dy: OutputGradient,
    spec: ConvSpec,
    weight: Tensor,
    shape: Sequence[int],
    *,
    added: AddedGradient | None = None,
    before: Convolved | None = None,
    relu: bool = True,
    sums: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The gradient of what the unit read, and what is `added`; before: the one behind the ReLU over
    that output, and its sums."""
    act: list[Tensor | None] = [None, None, None]
    if before is not None:
        act = [before.y, before.scale, before.bias]
        if not relu:  # 0 y + 1 lets everything pass
            act[1:] = torch.zeros_like(before.scale), torch.ones_like(before.bias)
    g, partials = _ops._conv_dgrad.default(
        *(dy.g, as_channels_last(weight), shape, added and added.tensor, *act),
        before.mean if before is not None and sums else None,
        *spec.geometry,
        **dy.on_load(),
        addend_mask=added and added.mask,
        addend_stride=added.stride if added else 1,
    )
    return g, partials if sums else None
