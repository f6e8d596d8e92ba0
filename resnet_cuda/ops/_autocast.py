"""Autocast by hand: the ops cast activations and weights as torch's autocast does for convolutions."""

from __future__ import annotations

import torch
from torch import Tensor


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that autocast gives a convolution of `x` here, or None. As in torch, float64 is
    left alone."""
    if not torch._C._is_any_autocast_enabled() or not isinstance(x, Tensor):
        return None
    device_type = x.device.type
    if not torch.is_autocast_enabled(device_type) or not _castable(x):
        return None
    return torch.get_autocast_dtype(device_type)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` in `dtype` where autocast would cast it; differentiable."""
    return tensor.to(dtype) if isinstance(tensor, Tensor) and _castable(tensor) else tensor


def _castable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float64
