"""The tolerance rule: how far from the truth a low-precision result may be, judged by how far
PyTorch's own is.

A result in float32, bfloat16 or float16 may be at most twice as far from a float64 reference as
PyTorch's own result in the same dtype on the same inputs; gradients are judged by relative L2 norm
and cosine as well. Where PyTorch happens to be exact, a floor of one unit in the last place of the
largest value applies, two in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_FACTOR = 2.0  # how many times PyTorch's own error is allowed
_DIRECTIONS = 2  # of finite differences, per input and of the output

# Units in the last place of the largest reference value: roundings that PyTorch may have been spared. A
# float32 result is a sum of rounded terms; a 16-bit one is rounded once, from a float32 sum.
FLOOR_ULPS = {torch.bfloat16: 1.0, torch.float16: 1.0, torch.float32: 2.0, torch.float64: 2.0}


def assert_close_to_fp64(
    actual: Tensor,
    op: Callable[..., Tensor],
    inputs: Sequence[Any],
    *,
    grad_output: Tensor | None = None,
    actual_grads: Sequence[Tensor | None] | None = None,
    name: str = "output",
) -> None:
    """Asserts the tolerance rule for one result and, if given, its gradients.

    Args:
        actual: the result under test.
        op: the same function in plain torch, called as op(*inputs): in float64 for the truth, as
            it is for PyTorch's own error.
        inputs: the op's arguments; tensors are cloned, so that an op may update its buffers.
        grad_output: the gradient that was given to `actual`'s backward; needed with actual_grads.
        actual_grads: one entry per argument of `inputs`, None where there is nothing to compare.
        name: how messages call the result.

    Raises:
        AssertionError: too far; the message says by how much.
        ValueError: grad_output is missing.
    """
    want_grads = actual_grads is not None
    if want_grads and grad_output is None:
        raise ValueError("grad_output is None; accepted: a Tensor, because actual_grads is given")
    exact, exact_grads = _evaluate(op, inputs, grad_output, torch.float64, want_grads)
    torchs, torchs_grads = _evaluate(op, inputs, grad_output, None, want_grads)
    check_rule(actual, torchs, exact, name=name)
    for i, grad in enumerate(actual_grads or ()):
        if grad is not None:
            check_gradient_rule(
                grad, torchs_grads[i], exact_grads[i], name=f"gradient of input {i}"
            )


def check_rule(actual: Tensor, torchs: Tensor, exact: Tensor, *, name: str = "output") -> None:
    """Asserts max |actual - exact| <= 2 max |torchs - exact|, or a floor; infinities and NaNs
    must agree."""
    assert actual.shape == exact.shape, (
        f"{name} has shape {list(actual.shape)}, not {list(exact.shape)}"
    )
    assert actual.dtype == torchs.dtype, f"{name} has dtype {actual.dtype}, torch's {torchs.dtype}"
    if actual.numel() == 0:
        return
    ours, theirs, exact = (
        actual.detach().double(),
        torchs.detach().double(),
        exact.detach().double(),
    )
    finite = torch.isfinite(theirs)
    assert torch.equal(torch.isfinite(ours), finite), (
        f"{name} is finite in {int(torch.isfinite(ours).sum())} places, torch's in {int(finite.sum())}"
    )
    assert torch.equal(torch.isnan(ours), torch.isnan(theirs)), f"{name} has its NaNs elsewhere"
    ours, theirs, exact = ours[finite], theirs[finite], exact[finite]
    if ours.numel() == 0:
        return
    worst = (ours - exact).abs().max()
    allowed = torch.maximum(_FACTOR * (theirs - exact).abs().max(), _floor(actual, exact))
    assert worst <= allowed, (
        f"{name} ({actual.dtype}) is off by {worst:.3e} where {allowed:.3e} is allowed ({_FACTOR} x torch's "
        f"{(theirs - exact).abs().max():.3e}); largest value {exact.abs().max():.3e}"
    )


def check_gradient_rule(actual: Tensor, torchs: Tensor, exact: Tensor, *, name: str) -> None:
    """`check_rule`, and the same for the relative L2 norm of the error and for 1 - cosine."""
    check_rule(actual, torchs, exact, name=name)
    ours, theirs, truth = (t.detach().double().flatten() for t in (actual, torchs, exact))
    norm = truth.norm()
    if actual.numel() == 0 or not torch.isfinite(theirs).all() or norm == 0:
        return
    ulp = truth.new_tensor(FLOOR_ULPS[actual.dtype] * torch.finfo(actual.dtype).eps)
    relative, allowed = (
        (ours - truth).norm() / norm,
        torch.maximum(_FACTOR * (theirs - truth).norm() / norm, ulp),
    )
    assert relative <= allowed, (
        f"{name} ({actual.dtype}) has a relative L2 error of {relative:.3e} where {allowed:.3e} is allowed"
    )
    angle, allowed_angle = _one_minus_cosine(ours, truth), _one_minus_cosine(theirs, truth)
    allowed_angle = torch.maximum(_FACTOR**2 * allowed_angle, ulp**2)
    assert angle <= allowed_angle + 1e-15, (
        f"{name} ({actual.dtype}) points elsewhere: 1 - cosine {angle:.3e} where {allowed_angle:.3e} is allowed"
    )


def away_from_gate(dz: Tensor, preactivation: Tensor) -> Tensor:
    """`dz` with zeros where the exact `preactivation` of a ReLU is so small that rounding decides
    whether the gate is open.

    Each flipped gate moves gradients by whole elements of dz: on few elements, who flips fewer is
    luck and not accuracy.
    """
    if dz.numel() == 0:
        return dz
    exact = preactivation.detach().abs()
    margin = 16 * torch.finfo(dz.dtype).eps * exact.max()
    return torch.where(exact > margin, dz, torch.zeros_like(dz))


def _one_minus_cosine(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos(a, b) as |a/|a| - b/|b||^2 / 2, which does not cancel."""
    if a.norm() == 0:
        return a.new_tensor(1.0)
    return (a / a.norm() - b / b.norm()).square().sum() / 2


def _floor(actual: Tensor, exact: Tensor) -> Tensor:
    info = torch.finfo(actual.dtype)
    return FLOOR_ULPS[actual.dtype] * info.eps * exact.abs().max() + info.tiny


def _evaluate(
    op: Callable[..., Tensor],
    inputs: Sequence[Any],
    grad_output: Tensor | None,
    dtype: torch.dtype | None,
    want_grads: bool,
) -> tuple[Tensor, list[Any]]:
    """op(*inputs) and the inputs' gradients, all floating tensors in `dtype` (None: as they are)."""
    arguments = []
    for given in inputs:
        if isinstance(given, Tensor) and given.is_floating_point():
            needs_grad = given.requires_grad
            given = given.detach().to(dtype or given.dtype, copy=True)
            given.requires_grad_(want_grads and needs_grad)
        arguments.append(given)
    with torch.set_grad_enabled(want_grads):
        output = op(*arguments)
    if not want_grads:
        return output, []
    assert grad_output is not None
    output.backward(grad_output.to(output.dtype))
    return output, [getattr(argument, "grad", None) for argument in arguments]


def gradcheck_op(
    op: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    *,
    second_order: bool = True,
    fast: bool = False,
) -> None:
    """Finite differences in float64 against `op`'s gradients and, with second_order, against their gradients.

    Deterministic: two backward passes must agree to the last bit. `fast` compares along random
    directions instead of element by element, as the second derivatives always do.

    Raises:
        AssertionError, torch.autograd.gradcheck.GradcheckError: the gradients are wrong.
    """
    for i, tensor in enumerate(inputs):
        assert tensor.dtype == torch.float64, f"input {i} is not float64"
    moved, amounts = _along_directions(op, inputs)
    first = (moved, amounts) if fast else (op, inputs)
    assert torch.autograd.gradcheck(*first, nondet_tol=0.0)
    if second_order:
        assert torch.autograd.gradgradcheck(moved, amounts, nondet_tol=1e-12)


def _along_directions(
    op: Callable[..., Tensor], inputs: Sequence[Tensor]
) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """`op` as a function of how far each input is moved along random directions, read along random
    directions of its output; and the amounts, zero.

    Not gradcheck's `fast_mode`: its directions have positive entries alone, and what a batch norm gives
    hardly changes along those, so that it overlooks gradients that are wrong by a few hundredths.
    """
    ways = [[torch.randn_like(t) for _ in range(_DIRECTIONS)] for t in inputs]
    amounts = [t.new_zeros(_DIRECTIONS, requires_grad=t.requires_grad) for t in inputs]
    with torch.no_grad():
        z = op(*inputs)
        reads = [torch.randn_like(z) for _ in range(_DIRECTIONS)]

    def moved(*amounts: Tensor) -> Tensor:
        z = op(
            *(
                sum((a * way for a, way in zip(amount, along, strict=True)), start=t)
                for t, along, amount in zip(inputs, ways, amounts, strict=True)
            )
        )
        return torch.stack([(z * read).sum() for read in reads])

    return moved, amounts
