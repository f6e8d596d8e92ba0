"""The passes of a residual branch, one launch each (and a small one per channel): what each reads and writes.

An activation is never a tensor of its own between two convolutions: it is an `Operand`, a raw output
y with what turns it into the activation while it is loaded.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from resnet_cuda import _selection
from resnet_cuda.ops import _kernel_norms
from resnet_cuda.ops._branch import ConvGradients, ConvNeeds, ConvSpec, ConvTensors
from resnet_cuda.ops._interface import BatchNormSpec, BatchNormTensors, accumulator_dtype
from resnet_cuda.ops._layout import as_channels_last
from resnet_cuda.ops._saved_gate import SavedGate

_ops = torch.ops.resnet_cuda
PIECE = 8  # channels that the kernels copy at once, and whose bits are one byte
OPEN = SavedGate()  # lets everything pass


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


class Behind(NamedTuple):
    """The gradient behind a ReLU: g where the gate lets it pass; and, where they are known already,
    the sums that batch norm's backward needs of it."""

    g: Tensor
    gate: SavedGate = OPEN
    partials: Tensor | None = None


class AddedGradient(NamedTuple):
    """What dgrad's epilogue, or the batch norm that enters, adds: a tensor where its mask's bits are set,
    at every `stride`-th pixel."""

    tensor: Tensor
    mask: Tensor | None = None
    stride: int = 1


class Input(NamedTuple):
    """What a convolution read, and what its dgrad's epilogue does: it gates with the batch norm
    `before` it and sums for that, or adds another branch's gradient."""

    operand: Operand
    before: Convolved | None = None
    relu: bool = True
    sums: bool = False
    added: AddedGradient | None = None
    passed: SavedGate = OPEN  # another gate, which stays in front of the gradient

    def gate(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """(scale, bias, mean) of the ReLU before; the mean only where sums are wanted."""
        if self.before is None:
            return None, None, None
        _, mean, _, scale, bias = self.before
        if not self.relu:  # 0 y + 1 lets everything pass
            scale, bias = torch.zeros_like(scale), torch.ones_like(bias)
        return scale, bias, mean if self.sums else None


def normalised(c: Convolved, relu: bool) -> Operand:
    """relu?(bn(y)), on load."""
    floor = None if relu else torch.full_like(c.bias, -torch.inf)
    return Operand(c.y, c.scale, c.bias, floor)


def convolve(read: Operand, spec: ConvSpec, t: ConvTensors) -> Convolved:
    """Reads the operand and the filters; writes y and partial statistics. The running ones move in
    training."""
    assert spec.norm is not None
    y, partials = convolve_raw(read, spec, t, spec.norm.training)
    return Convolved(y, *_numbers(y, partials, t.bn, spec.norm))


def convolve_raw(
    read: Operand, spec: ConvSpec, t: ConvTensors, statistics: bool = False
) -> tuple[Tensor, Tensor]:
    """Reads the operand and the filters; writes y, and partial statistics if they are wanted."""
    y, partials, _ = _ops._conv_fprop.default(
        *(read.tensor, as_channels_last(t.weight), read.scale, read.bias),
        *(None, None, None, False),
        *spec.geometry,
        statistics,
        x_floor=read.floor,
    )
    return y, partials


def enter(x: Tensor, bn: BatchNormTensors, norm: BatchNormSpec) -> Convolved:
    """The batch norm over x as if a convolution had written it. Reads x, where its statistics count."""
    partials = _ops._bn_statistics.default(x) if norm.training else None
    return Convolved(x, *_numbers(x, partials, bn, norm))


def _numbers(
    y: Tensor, partials: Tensor | None, bn: BatchNormTensors, norm: BatchNormSpec
) -> _kernel_norms.Numbers:
    if norm.training:
        assert partials is not None
        return _kernel_norms.of_batch(partials, y, bn, norm)
    return _kernel_norms.of_running_statistics(bn, norm.eps, accumulator_dtype(y.dtype))


def dropped(c: Convolved, noise: Tensor) -> tuple[Tensor, Tensor]:
    """relu(bn(y) + noise) and its bits: a tensor of its own, for no convolution drops elements on
    load. Reads y and the noise; writes both."""
    h, mask = _ops._bn_apply.default(c.y, c.scale, c.bias, noise, True, True)
    return h, mask


def enter_backward(
    behind: Behind,
    c: Convolved,
    norm: BatchNormSpec,
    gamma: Tensor | None,
    needed: ConvNeeds,
    added: AddedGradient | None,
    wants_input: bool,
) -> tuple[ConvGradients, Tensor | None]:
    """The gradients of a batch norm that enters a branch, and of what it read: the shortcut's is
    added there. Reads g, x and what is added; writes the gradient."""
    coefficients, gradients = _finalize(behind, c, norm, gamma, needed, wants_input)
    if not wants_input:
        return gradients, None
    addend, stride = None, 1
    if added is not None:
        addend, stride = gated(Behind(added.tensor, SavedGate(added.mask))), added.stride
    dx, _ = _ops._bn_backward_apply.default(
        *(behind.g, c.y, *behind.gate, coefficients, False), addend=addend, addend_stride=stride
    )
    return gradients, dx


def convolve_backward(
    behind: Behind,
    c: Convolved | None,
    spec: ConvSpec,
    t: ConvTensors,
    needed: ConvNeeds,
    read: Input,
    wants_input: bool,
) -> tuple[ConvGradients, Behind | None]:
    """The gradients of bn(conv(read)), or (c None) of conv(read), and of what was read, behind the
    ReLU before it."""
    wants_dy = needed.weight or wants_input
    gradients, on_load = ConvGradients(), {}
    if c is None:
        dy = gated(behind)
    else:
        assert spec.norm is not None
        coefficients, gradients = _finalize(behind, c, spec.norm, t.gamma, needed, wants_dy)
        dy = behind.g
        if wants_dy and _is_loaded_once(spec, t.weight, behind.gate):
            on_load = {
                "y": c.y,
                "coefficients": coefficients,
                "gate_scale": behind.gate.scale,
                "gate_bias": behind.gate.bias,
            }
        elif wants_dy:
            # Reads g, its gate and y; writes dy.
            dy = _ops._bn_backward_apply.default(behind.g, c.y, *behind.gate, coefficients, False)[
                0
            ]
    if not wants_dy:
        return gradients, None
    if needed.weight:
        # Reads dy, or g and y, and the operand; writes dW.
        x, *affine, floor = read.operand
        dweight = _ops._conv_wgrad.default(
            *(dy, x, t.weight.shape, *affine), *spec.geometry, **on_load, x_floor=floor
        )
        gradients = gradients._replace(weight=dweight)
    if not wants_input:
        return gradients, None
    # Reads dy, or g and y, the filters, and the y before or what is added; writes the gradient, and
    # sums.
    added = read.added
    g, partials = _ops._conv_dgrad.default(
        *(dy, as_channels_last(t.weight), read.operand.tensor.shape, added and added.tensor),
        *(read.before and read.before.y, *read.gate()),
        *spec.geometry,
        **on_load,
        addend_mask=added and added.mask,
        addend_stride=added.stride if added else 1,
    )
    return gradients, Behind(g, read.passed, partials if read.sums else None)


def wants_sums(spec: ConvSpec, needed: ConvNeeds, wants_dy: bool) -> bool:
    """Whether the gradient behind a ReLU has to be summed: for gamma and beta, and because the
    batch's statistics depend on y."""
    return spec.norm is not None and needs_sums(spec.norm, needed, wants_dy)


def needs_sums(norm: BatchNormSpec, needed: ConvNeeds, wants_dy: bool) -> bool:
    return needed.gamma or needed.beta or (wants_dy and norm.training)


def gated(behind: Behind) -> Tensor:
    """The gradient behind a ReLU as a tensor of its own. Reads g and its bits; writes."""
    if behind.gate.mask is None:
        return behind.g
    gradient: Tensor = _ops._add_relu_backward.default(behind.g, behind.gate.mask)
    return gradient


def _is_loaded_once(spec: ConvSpec, weight: Tensor, gate: SavedGate) -> bool:
    """Whether dgrad and wgrad shall read (g, y) instead of a stored gradient of y: four tensors
    then pass through memory and not five.

    Only where the kernels load each element about once: 1x1 filters without groups, on tensor
    cores in whole pieces of channels.
    """
    filters, channels, *window = weight.shape
    return (
        gate.mask is None
        and _selection.has_tensor_cores(weight.device)
        and weight.dtype.itemsize == 2
        and window == [1, 1]
        and spec.geometry.groups == 1
        and filters % PIECE == 0
        and channels % PIECE == 0
    )


def _finalize(
    behind: Behind,
    c: Convolved,
    norm: BatchNormSpec,
    gamma: Tensor | None,
    needed: ConvNeeds,
    wants_dy: bool,
) -> tuple[Tensor, ConvGradients]:
    """The coefficients [4, K] that make y's gradient of the one behind the ReLU, and the vectors' gradients."""
    partials = behind.partials
    if partials is None and needs_sums(norm, needed, wants_dy):
        # Reads g, its gate and y; writes sums.
        partials = _ops._bn_backward_reduce.default(behind.g, c.y, c.mean, *behind.gate)
    if partials is None:
        scale = c.invstd if gamma is None else gamma.to(c.mean.dtype) * c.invstd
        zero = torch.zeros_like(scale)
        return torch.stack((scale, zero, zero, zero)), ConvGradients()
    dgamma, dbeta, coefficients = _kernel_norms.backward_of_batch(
        partials, c.y, gamma, c.mean, c.invstd, norm
    )
    return coefficients, ConvGradients(
        None, dgamma if needed.gamma else None, dbeta if needed.beta else None
    )
