"""The sum that ends a residual branch, in one launch: terms in memory, and terms that its kernel convolves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from resnet_cuda.ops._branch import BranchSpec, ConvTensors, is_pixelwise
from resnet_cuda.ops._interface import ConvGeometry, accumulator_dtype
from resnet_cuda.ops._kernel_passes import Operand
from resnet_cuda.ops._layout import as_channels_last

_ops = torch.ops.resnet_cuda
Affine = tuple[Tensor, Tensor]


def _affine(scale: Tensor | None, bias: Tensor | None, like: Tensor, channels: int) -> Affine:
    """(scale, bias) [channels], 1 and 0 where there are none."""
    acc = accumulator_dtype(like.dtype)
    if scale is None:
        scale = torch.ones(channels, dtype=acc, device=like.device)
    return scale, torch.zeros_like(scale) if bias is None else bias


class Stored(NamedTuple):
    """A term of the branch's sum that is in memory: tensor scale + bias; of option A every `stride`-th
    pixel of a tensor that may have fewer channels."""

    tensor: Tensor | None
    scale: Tensor | None = None
    bias: Tensor | None = None
    stride: int = 1


class Pending(NamedTuple):
    """A term that has yet to be computed: conv(read) scale + bias."""

    read: Operand
    geometry: ConvGeometry
    weight: Tensor
    scale: Tensor | None = None
    bias: Tensor | None = None

    def affine(self) -> Affine:
        """(scale, bias) [K], 1 and 0 where there are none."""
        return _affine(self.scale, self.bias, self.weight, self.weight.shape[0])


def add(terms: Sequence[Stored | Pending], relu: bool, bits: bool) -> tuple[Tensor, Tensor]:
    """relu?(the terms' sum) and its bits, in one launch. Reads what is stored, and what the pending
    ones read; writes z and its bits."""
    stored = [term for term in terms if isinstance(term, Stored)]
    pending = [term for term in terms if isinstance(term, Pending)]
    if len(pending) == 2:
        first, second = pending
        z, _, mask = _ops._bottleneck_expand.default(
            *(first.read.tensor, as_channels_last(first.weight), *first.affine()),
            *(second.read.tensor, as_channels_last(second.weight), *second.affine()),
            *(second.geometry.stride[0], relu, False),
            mask=bits,
            x_scale=first.read.scale,
            x_bias=first.read.bias,
            x_floor=first.read.floor,
            projection_x_scale=second.read.scale,
            projection_x_bias=second.read.bias,
            projection_x_floor=second.read.floor,
        )
        return z, mask
    biases = [term.bias for term in terms if term.bias is not None]
    bias = sum(biases[1:], biases[0]) if biases else None
    if not pending:
        y, *others = stored
        other = others[0] if others else Stored(None)
        assert y.tensor is not None
        affine = _affine(y.scale, bias, y.tensor, y.tensor.shape[1])
        return _ops._bn_apply.default(
            *(y.tensor, *affine, other.tensor, relu, bits),
            residual_scale=other.scale,
            residual_stride=other.stride,
        )
    first = pending[0]
    other = stored[0] if stored else Stored(None)
    x, x_scale, x_bias, x_floor = first.read
    scale = first.scale if bias is None else first.affine()[0]
    z, _, mask = _ops._conv_fprop.default(
        *(x, as_channels_last(first.weight), x_scale, x_bias, scale, bias),
        *(other.tensor, relu, *first.geometry, False),
        x_floor=x_floor,
        residual_scale=other.scale,
        mask=bits,
        residual_stride=other.stride,
    )
    return z, mask


def is_one_product(branch: BranchSpec, convolutions: Sequence[ConvTensors]) -> bool:
    """Whether the last unit and the projection, both without batch norm, are one product over the
    channels of both."""
    return all(
        spec.norm is None
        and is_pixelwise(spec, t)
        and (spec is branch.shortcut or spec.geometry.stride == (1, 1))
        for spec, t in zip(branch.convolutions[-2:], convolutions[-2:], strict=True)
    )
