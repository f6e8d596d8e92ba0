"""relu(x + residual) as one differentiable call: the end of a residual block (He et al. 2015, sec. 3.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resnet_cuda import _backend
from resnet_cuda.ops import _autocast, _second_order
from resnet_cuda.ops._branch import requires_grad
from resnet_cuda.ops._checked import check_sum, checked_sum
from resnet_cuda.ops._function import apply_function
from resnet_cuda.ops._interface import Backend
from resnet_cuda.ops._layout import in_format


def add_relu(x: Tensor, residual: Tensor) -> Tensor:
    """relu(x + residual), differentiable twice.

    Args:
        x: [N, C, H, W]; float64, float32, bfloat16 or float16. N may be 0.
        residual: of x's shape and dtype, not broadcast (under `torch.autocast` the wider dtype of
            the two is used).

    Returns:
        A tensor of x's shape, dtype and memory format.

    Raises:
        TypeError: a dtype or an argument's type is not accepted.
        ValueError: shapes or devices do not fit.
    """
    plain = _backend.undisturbed(x)
    if plain is not None:
        known = checked_sum(x, residual)
        z = plain.add_relu_inference(x, residual)
        return z if known.alike else in_format(z, known.channels_last)
    if _autocast.autocast_dtype(x) is not None and isinstance(residual, Tensor):
        dtype = torch.promote_types(x.dtype, residual.dtype)
        x, residual = x.to(dtype), residual.to(dtype)
    check = check_sum if torch.compiler.is_compiling() else checked_sum
    channels_last = check(x, residual).channels_last
    backend = _backend.resolve(x)
    if (
        x.numel() == 0
        or backend.is_composite
        or (torch.compiler.is_compiling() and backend.gate_is_output)
    ):
        from resnet_cuda import reference

        return reference.add_relu(x, residual)
    x, residual = backend.prepare(x), backend.prepare(residual)
    if torch.is_grad_enabled() and requires_grad(x, residual) and not backend.uses_torch_autograd():
        z = apply_function(_AddRelu, x, residual, backend)[0]
    else:
        z = backend.add_relu_inference(x, residual)
    return in_format(z, channels_last)


class _AddRelu(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, residual: Tensor, backend: Backend) -> tuple[Tensor, ...]:
        z, saved = backend.add_relu_forward(x, residual)
        return (z, *saved)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.backend = inputs[2]
        z, *saved = output
        ctx.mark_non_differentiable(*saved)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(z if ctx.backend.gate_is_output else None, *saved)
        ctx.shape = z.shape

    @staticmethod
    def backward(ctx: Any, dz: Tensor | None, *_: Any) -> tuple[Any, ...]:
        if dz is None:
            return None, None, None
        z, *saved = ctx.saved_tensors
        if _second_order.is_wanted(dz):
            g = _second_order.gated(dz, ctx.backend.add_relu_gate(z, saved, ctx.shape))
        else:
            g = ctx.backend.add_relu_backward(dz, z, saved)
        needs_x, needs_residual, _backend_needs = ctx.needs_input_grad
        return g if needs_x else None, g if needs_residual else None, None
