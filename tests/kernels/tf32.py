"""TF32: how it is allowed, and in plain torch what operands become on their way into the tensor cores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from resnet_cuda.testing import emulated

_DROPPED_BITS = 13  # of a float's 23 bits of mantissa


@contextmanager
def tf32_allowed(device: str, **gpu: object) -> Iterator[None]:
    """Where the kernels run that multiply tensors on `device`; gpu: what `emulated` is to play otherwise."""
    if device == "cuda":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.backends.cudnn, "allow_tf32", True)
            yield
    else:
        with emulated(allow_tf32=True, **gpu):
            yield


def as_tf32(x: Tensor) -> Tensor:
    """float32 rounded to 10 bits of mantissa, ties away from zero, as cvt.rna.tf32 does it."""
    assert x.dtype == torch.float32
    # Adding half a unit to the magnitude carries into the exponent where it has to.
    half, mask = 1 << (_DROPPED_BITS - 1), -(1 << _DROPPED_BITS)
    rounded = ((x.view(torch.int32) + half) & mask).view(torch.float32)
    return torch.where(x.isnan(), x, rounded)
