"""relu(bn(y) + residual) as one differentiable call: batch norm (Ioffe and Szegedy 2015, arXiv
1502.03167), addition, ReLU."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from resnet_cuda import _backend
from resnet_cuda.ops import _autocast, _second_order, _validate
from resnet_cuda.ops._branch import in_dtype_of, requires_grad
from resnet_cuda.ops._checked import CheckedNorm, checked_norm
from resnet_cuda.ops._function import apply_function
from resnet_cuda.ops._interface import Backend, BatchNormSpec, BatchNormTensors, Needs
from resnet_cuda.ops._layout import in_format, match_format
from resnet_cuda.ops._running import (
    moves_outside,
    restored_on_error,
    running,
    take_over,
    with_copies,
)
from resnet_cuda.ops._synchronised import breaks_graph, run_eagerly
from resnet_cuda.ops.conv_unit import NormUnit


class _BnCall(NamedTuple):
    norm: BatchNormSpec
    relu: bool


def bn_relu(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    residual: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = True,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """relu(bn(x) + residual), differentiable twice; relu=False leaves the ReLU out.

    Args:
        x: [N, C, H, W]; float64, float32, bfloat16 or float16. N may be 0.
        gamma, beta, running_mean, running_var: [C], as in `conv_bn_relu`.
        residual: added before the ReLU, of x's shape and dtype (under `torch.autocast` the sum has the wider
            dtype of the two).
        training, momentum, eps, process_group: as in `conv_bn_relu`.

    Returns:
        A tensor of x's shape, dtype and memory format.

    Raises:
        TypeError: a dtype or an argument's type is not accepted.
        ValueError: shapes or devices do not fit, or training with a single value per channel.
    """
    unit = NormUnit(gamma, beta, running_mean, running_var, training, momentum, eps, process_group)
    return run_norm(x, unit, residual, relu)


def run_norm(
    x: Tensor, unit: NormUnit, residual: Tensor | None, relu: bool, *, restores: bool = True
) -> Tensor:
    """The op on a description; restores: False where the caller restores running statistics if this fails."""
    plain = _backend.undisturbed(x)
    if plain is not None:
        known = checked_norm(x, unit, residual)
        if known.as_it_is and (unit.training or _infers(x, unit, residual)):
            with restored_on_error(unit, restores=restores):
                z = plain.norm_as_it_is(x, unit, residual, relu)
                return in_format(z, known.channels_last)
    if unit.process_group is not None and breaks_graph(x, unit.group()):
        return run_eagerly(run_norm, x, unit, residual, relu, restores=restores)
    _validate.activation(x, "x")
    if _autocast.autocast_dtype(x) is not None and isinstance(residual, Tensor):
        if residual.dtype != x.dtype:
            _validate.same_shape(residual.shape, x.shape)
            z = run_norm(x, unit, None, False) + residual
            return torch.relu(z) if relu else z
    backend = _backend.resolve(x)
    known = checked_norm(x, unit, residual)
    with restored_on_error(unit, restores=restores):
        return _computed(backend, x, unit, residual, relu, known)


def _infers(x: Tensor, unit: NormUnit, residual: Tensor | None) -> bool:
    """Whether nothing is differentiated or trained."""
    return not unit.training and not (
        torch.is_grad_enabled() and requires_grad(x, unit.gamma, unit.beta, residual)
    )


def _computed(
    backend: Backend,
    x: Tensor,
    unit: NormUnit,
    residual: Tensor | None,
    relu: bool,
    known: CheckedNorm,
) -> Tensor:
    """The checked call."""
    grad = torch.is_grad_enabled() and requires_grad(x, unit.gamma, unit.beta, residual)
    z = _by_passes(backend, x, unit.bn(), residual, _BnCall(unit.spec(), relu), grad)
    return match_format(z, known.channels_last)


def _by_passes(
    backend: Backend,
    x: Tensor,
    bn: BatchNormTensors,
    residual: Tensor | None,
    call: _BnCall,
    grad: bool,
) -> Tensor:
    """The call in whatever memory format its backend likes."""
    norm, relu = call
    if x.shape[0] == 0 and norm.process_group is None:
        return _empty_batch(x, bn, residual)
    if backend.is_composite or (torch.compiler.is_compiling() and backend.gate_is_output):
        from resnet_cuda import reference

        return reference.bn_relu(x, *bn, residual=residual, **norm._asdict(), relu=relu)
    x = backend.prepare(x)
    residual = None if residual is None else backend.prepare(residual)
    if (grad or norm.training) and backend.uses_torch_autograd(norm.process_group):
        return backend.bn_composed(x, bn, residual, norm, relu)
    if grad:
        z, *rest = apply_function(_BnRelu, x, *bn, residual, backend, call)
        if moves_outside():
            moving = running([(bn, norm)])
            take_over(moving, rest[len(rest) - len(moving) :])
        return z
    if norm.training:
        return backend.bn_forward(x, bn, residual, norm, relu)[0]
    return backend.bn_inference(x, bn, residual, norm.eps, relu)


def _empty_batch(x: Tensor, bn: BatchNormTensors, residual: Tensor | None) -> Tensor:
    z = x.clone()
    for vector in (bn.gamma, bn.beta):
        if vector is not None:
            z = z + vector.to(z.dtype).view(1, -1, 1, 1)
    return z if residual is None else z + residual


class _BnRelu(torch.autograd.Function):
    @staticmethod
    def forward(
        y: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        residual: Tensor | None,
        backend: Backend,
        call: _BnCall,
    ) -> tuple[Tensor, ...]:
        bn = BatchNormTensors(gamma, beta, running_mean, running_var)
        moved: list[Tensor] = []
        if moves_outside():
            bn = with_copies(bn, call.norm)
            moved = running([(bn, call.norm)])
        z, saved = backend.bn_forward(y, bn, residual, call.norm, call.relu)
        return (z, *saved, *moved)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        y, gamma, beta, mean, var, _, backend, call = inputs
        z, *saved = output
        ctx.mark_non_differentiable(*saved)
        ctx.set_materialize_grads(False)
        if moves_outside():
            moved = len(running([(BatchNormTensors(gamma, beta, mean, var), call.norm)]))
            saved = saved[: len(saved) - moved]
        gate_source = z if call.relu and backend.gate_is_output else None
        ctx.save_for_backward(y, gamma, beta, gate_source, *saved)
        ctx.backend, ctx.call = backend, call

    @staticmethod
    def backward(ctx: Any, dz: Tensor | None, *_: Any) -> tuple[Any, ...]:
        if dz is None:
            return (None,) * 8
        y, gamma, beta, z, *saved = ctx.saved_tensors
        backend, (norm, relu) = ctx.backend, ctx.call
        needed = ctx.needs_input_grad
        needs = Needs(needed[0], False, needed[1], needed[2], needed[5])
        if _second_order.is_wanted(dz):
            gate = backend.gate(z, y, saved) if relu else None
            gradients = _second_order.bn_backward(
                dz, y, gamma, gate, backend.statistics(saved, norm), norm, needs
            )
        else:
            gradients = backend.bn_backward(dz, y, gamma, z, saved, norm, relu, needs)
        dgamma, dbeta = in_dtype_of(gamma, gradients.gamma), in_dtype_of(beta, gradients.beta)
        return gradients.x, dgamma, dbeta, None, None, gradients.residual, None, None
