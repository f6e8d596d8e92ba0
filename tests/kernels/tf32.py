"""TF32 in plain torch: what operands become on their way into the tensor cores."""

from __future__ import annotations

import torch
from torch import Tensor

_DROPPED_BITS = 13  # of a float's 23 bits of mantissa


def as_tf32(x: Tensor) -> Tensor:
    """float32 rounded to 10 bits of mantissa, ties away from zero, as cvt.rna.tf32 does it."""
    assert x.dtype == torch.float32
    # Adding half a unit to the magnitude carries into the exponent where it has to.
    half, mask = 1 << (_DROPPED_BITS - 1), -(1 << _DROPPED_BITS)
    rounded = ((x.view(torch.int32) + half) & mask).view(torch.float32)
    return torch.where(x.isnan(), x, rounded)
