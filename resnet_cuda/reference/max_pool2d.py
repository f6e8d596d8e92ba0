"""Max pooling in plain torch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def max_pool2d(x: Tensor, kernel_size: int = 3, stride: int = 2, padding: int = 1) -> Tensor:
    """x [N, C, H, W] -> [N, C, P, Q]."""
    return F.max_pool2d(x, kernel_size, stride, padding)
