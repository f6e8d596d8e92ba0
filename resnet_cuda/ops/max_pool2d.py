"""Max pooling over square windows: the stem's 3x3, stride 2 (He et al. 2015, table 1)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from resnet_cuda import _backend
from resnet_cuda.ops import _second_order, _validate
from resnet_cuda.ops._function import apply_function
from resnet_cuda.ops._interface import Backend
from resnet_cuda.ops._layout import is_channels_last, match_format


class PoolWindow(NamedTuple):
    """A square window of a pool, in pixels."""

    kernel: int
    stride: int
    padding: int


def max_pool2d(x: Tensor, kernel_size: int = 3, stride: int = 2, padding: int = 1) -> Tensor:
    """The maximum of every kernel_size x kernel_size window of x, differentiable twice; a NaN in a
    window wins.

    Args:
        x: [N, C, H, W]; float64, float32, bfloat16 or float16. N may be 0.
        kernel_size: 1 to 15 pixels.
        stride: step in pixels.
        padding: pixels around the image that never win; at most half the kernel.

    Returns:
        [N, C, P, Q] with P = (H + 2 padding - kernel_size) // stride + 1, in x's dtype and memory format.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    return run_pool(x, pool_window(kernel_size, stride, padding))


def run_pool(x: Tensor, window: PoolWindow) -> Tensor:
    """The op with a checked window."""
    _validate.activation(x, "x")
    _check_fit(x, window)
    backend = _backend.undisturbed(x) or _backend.resolve(x)
    if backend.pools_with_torch or x.shape[0] == 0:
        return torch.max_pool2d(x, *window)
    channels_last = is_channels_last(x)
    x = backend.prepare(x)
    if torch.is_grad_enabled() and x.requires_grad:
        y = apply_function(_MaxPool2d, x, backend, window)[0]
    else:
        y = backend.max_pool_forward(x, *window, argmax=False)[0]
    return match_format(y, channels_last)


def pool_in_torch(x: Tensor, window: PoolWindow) -> Tensor:
    """The op in torch's own, of what an op has made."""
    _check_fit(x, window)
    return torch.max_pool2d(x, *window)


def _check_fit(x: Tensor, window: PoolWindow) -> None:
    _, c, h, w = x.shape
    if c == 0 or h == 0 or w == 0:
        _validate.spatial(x)
    kernel, _, padding = window
    if h + 2 * padding < kernel or w + 2 * padding < kernel:
        raise ValueError(
            f"x has {h} x {w} pixels and kernel_size is {kernel} with padding {padding}; "
            "accepted: an image at least as large as the window"
        )


def pool_window(kernel_size: int, stride: int, padding: int) -> PoolWindow:
    """The checked window of `max_pool2d`."""
    if type(kernel_size) is type(stride) is type(padding) is int:  # the usual case, quickly
        if 0 < kernel_size <= 15 and stride > 0 and 0 <= 2 * padding <= kernel_size:
            return PoolWindow(kernel_size, stride, padding)
    for name, value, least in (
        ("kernel_size", kernel_size, 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
    ):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}; accepted: an int")
        if value < least:
            raise ValueError(f"{name} is {value}; accepted: integers of at least {least}")
    if kernel_size > 15:
        raise ValueError(f"kernel_size is {kernel_size}; accepted: 1 to 15")
    if 2 * padding > kernel_size:
        raise ValueError(
            f"padding is {padding}; accepted: at most half of kernel_size, {kernel_size}"
        )
    return PoolWindow(kernel_size, stride, padding)


def flat_indices(argmax: Tensor, width: int, window: PoolWindow) -> Tensor:
    """argmax [N, C, P, Q] (r * kernel + s of the winner) -> the winner's h * width + w in the
    image, int64."""
    rows = torch.arange(argmax.shape[2], device=argmax.device).view(-1, 1)
    columns = torch.arange(argmax.shape[3], device=argmax.device)
    argmax = argmax.long()
    h = rows * window.stride - window.padding + argmax // window.kernel
    w = columns * window.stride - window.padding + argmax % window.kernel
    return h * width + w


class _MaxPool2d(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, backend: Backend, window: PoolWindow) -> tuple[Tensor, Tensor]:
        return backend.max_pool_forward(x, *window, argmax=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.backend, ctx.window = inputs
        ctx.input_size = list(x.shape)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Any, ...]:
        if dy is None:
            return None, None, None
        (argmax,) = ctx.saved_tensors
        if not _second_order.is_wanted(dy):
            return (
                ctx.backend.max_pool_backward(dy, argmax, ctx.input_size, *ctx.window),
                None,
                None,
            )
        n, c, h, w = ctx.input_size
        indices = flat_indices(argmax, w, ctx.window).flatten(2)
        dx = dy.new_zeros(n, c, h * w).scatter_add(2, indices, dy.reshape(indices.shape))
        return dx.view(n, c, h, w), None, None
