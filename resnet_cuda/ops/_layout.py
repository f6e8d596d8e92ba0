"""Memory formats, as torch chooses them."""

from __future__ import annotations

import torch
from torch import Tensor

from resnet_cuda import _backend


def is_channels_last(x: Tensor) -> bool:
    """Whether torch's `suggest_memory_format` says channels_last: by the strides' order, ambiguous
    shapes count as NCHW."""
    n, c, h, w = x.shape
    of_n, of_c, of_h, of_w = x.stride()
    # From the innermost dimension outwards: none may begin before the one inside of it ends.
    least = of_c * c if c > 1 else of_c
    if of_c == 0 or c == 0 or w == 0 or of_w < least:
        return False
    least = of_w * w if w > 1 else of_w
    if h == 0 or of_h < least:
        return False
    least = of_h * h if h > 1 else of_h
    return n != 0 and of_n >= least and least != of_c


def as_channels_last(x: Tensor) -> Tensor:
    """`x` dense in channels_last memory; itself where it already is."""
    return x.contiguous(memory_format=torch.channels_last)


def match_strides(gradient: Tensor, parameter: Tensor) -> Tensor:
    """`gradient` with the strides of `parameter` where the same memory may have both, as for 1x1 filters.

    There the two memory formats differ in strides that nobody uses, which autograd keeps as they are and
    DistributedDataParallel warns about. Where elements would have to move, autograd moves them itself.
    """
    strides = parameter.stride()
    pairs = zip(gradient.shape, gradient.stride(), strides, strict=True)
    if gradient.stride() == strides or any(size > 1 and a != b for size, a, b in pairs):
        return gradient
    return gradient.as_strided(parameter.shape, strides)


def match_format(z: Tensor, channels_last: bool) -> Tensor:
    """`z` in the format that the caller's input had; itself where it already is. `torch.vmap` knows no formats."""
    return z if _backend.is_transformed() else in_format(z, channels_last)


def in_format(z: Tensor, channels_last: bool) -> Tensor:
    """The same where no transform follows, as none does a backend's own passes."""
    return z.contiguous(memory_format=torch.channels_last) if channels_last else z.contiguous()
