"""Memory formats, as torch chooses them."""

from __future__ import annotations

import torch
from torch import Tensor


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


def match_format(z: Tensor, channels_last: bool) -> Tensor:
    """`z` in the format that the caller's input had; itself where it already is."""
    return z.contiguous(memory_format=torch.channels_last) if channels_last else z.contiguous()
