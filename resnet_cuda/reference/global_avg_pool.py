"""The mean over all pixels in plain torch."""

from __future__ import annotations

from torch import Tensor


def global_avg_pool(x: Tensor) -> Tensor:
    """x [N, C, H, W] -> [N, C, 1, 1]."""
    return x.mean((2, 3), keepdim=True)
