"""The mean over all pixels: the pooling before the classifier (He et al. 2015, table 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resnet_cuda import _backend
from resnet_cuda.ops import _second_order, _validate
from resnet_cuda.ops._function import apply_function
from resnet_cuda.ops._interface import Backend


def global_avg_pool(x: Tensor) -> Tensor:
    """The mean of every channel's pixels, differentiable twice.

    Args:
        x: [N, C, H, W]; float64, float32, bfloat16 or float16. N may be 0.

    Returns:
        [N, C, 1, 1] in x's dtype.

    Raises:
        TypeError, ValueError: x is not as above.
    """
    _validate.activation(x, "x")
    n, c, h, w = x.shape
    if c == 0 or h == 0 or w == 0:
        _validate.spatial(x)
    backend = _backend.resolve(x)
    if backend.pools_with_torch or n == 0:
        return torch.nn.functional.adaptive_avg_pool2d(x, 1)
    x = backend.prepare(x)
    if torch.is_grad_enabled() and x.requires_grad:
        return apply_function(_GlobalAvgPool, x, backend)
    return backend.global_avg_pool_forward(x)


class _GlobalAvgPool(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, backend: Backend) -> Tensor:
        return backend.global_avg_pool_forward(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.backend = inputs
        ctx.input_size = list(x.shape)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        if not _second_order.is_wanted(dy):
            return ctx.backend.global_avg_pool_backward(dy, ctx.input_size), None
        pixels = ctx.input_size[2] * ctx.input_size[3]
        return (dy / pixels).expand(ctx.input_size), None
