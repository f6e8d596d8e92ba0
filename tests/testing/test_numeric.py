"""The tolerance rule itself: it must pass what is right and catch what is wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from resnet_cuda.testing import (
    assert_close_to_fp64,
    away_from_gate,
    check_gradient_rule,
    check_rule,
    gradcheck_op,
)


def product(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_torchs_own_result_passes(dtype: torch.dtype) -> None:
    a = torch.randn(16, 32).to(dtype).requires_grad_()
    b = torch.randn(32, 8).to(dtype).requires_grad_()
    z = product(a, b)
    dz = torch.randn_like(z)
    z.backward(dz)
    assert_close_to_fp64(z, product, (a, b), grad_output=dz, actual_grads=(a.grad, b.grad))


def test_an_error_of_a_few_roundings_is_caught() -> None:
    a, b = torch.randn(16, 32).bfloat16(), torch.randn(32, 8).bfloat16()
    z = product(a, b)
    z[3, 5] += 8 * torch.finfo(torch.bfloat16).eps * z.abs().max()
    with pytest.raises(AssertionError, match=r"output \(torch.bfloat16\) is off by"):
        assert_close_to_fp64(z, product, (a, b))


def test_a_wrong_gradient_is_caught() -> None:
    a = torch.randn(4, 5, requires_grad=True)
    b = torch.randn(5, 3)
    dz = torch.randn(4, 3)
    wrong = dz @ b.T * 1.001
    with pytest.raises(AssertionError, match="gradient of input 0"):
        assert_close_to_fp64(
            product(a, b), product, (a, b), grad_output=dz, actual_grads=(wrong, None)
        )


def test_a_small_error_everywhere_is_caught_by_the_norm() -> None:
    exact = torch.ones(1000, dtype=torch.float64)
    torchs = torch.ones(1000)
    torchs[0] = 1 + 1e-3  # torch is off in one place, so the maximum alone allows much
    ours = torch.full((1000,), 1 + 1e-3)
    check_rule(ours, torchs, exact)
    with pytest.raises(AssertionError, match="relative L2 error"):
        check_gradient_rule(ours, torchs, exact, name="dx")


def test_another_direction_is_caught_by_the_cosine() -> None:
    exact = torch.zeros(100, dtype=torch.float64)
    exact[:50] = 1.0
    torchs = exact.float() * 1.01
    ours = exact.float() + 0.01 * torch.randn(
        100, generator=torch.Generator().manual_seed(0)
    ).clamp(-1, 1)
    with pytest.raises(AssertionError, match="points elsewhere"):
        check_gradient_rule(ours, torchs, exact, name="dx")


def test_nan_and_shape_and_dtype_are_compared() -> None:
    exact, torchs = torch.ones(3, dtype=torch.float64), torch.ones(3)
    with pytest.raises(AssertionError, match="finite in 2 places"):
        check_rule(torch.tensor([1.0, float("nan"), 1.0]), torchs, exact)
    with pytest.raises(AssertionError, match="shape"):
        check_rule(torch.ones(4), torchs, exact)
    with pytest.raises(AssertionError, match="dtype"):
        check_rule(torch.ones(3).half(), torchs, exact)


def test_buffers_are_not_modified() -> None:
    buffer = torch.zeros(3)

    def op(x: Tensor, buffer: Tensor) -> Tensor:
        buffer += 1
        return x + buffer

    x = torch.zeros(3)
    assert_close_to_fp64(torch.ones(3), op, (x, buffer))
    assert (buffer == 0).all()


def test_a_missing_grad_output_is_refused() -> None:
    with pytest.raises(ValueError, match="grad_output is None"):
        assert_close_to_fp64(
            torch.ones(1), torch.relu, (torch.ones(1),), actual_grads=(torch.ones(1),)
        )


def test_away_from_gate_removes_only_the_undecided() -> None:
    dz = torch.ones(4, dtype=torch.bfloat16)
    kept = away_from_gate(dz, torch.tensor([1.0, 1e-4, -1e-4, -1.0], dtype=torch.float64))
    assert kept.tolist() == [1.0, 0.0, 0.0, 1.0]


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2.01 * x * dy


def test_gradcheck_op_catches_a_wrong_gradient() -> None:
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    gradcheck_op(torch.square, (x,))
    with pytest.raises(GradcheckError):
        gradcheck_op(WrongGradient.apply, (x,))
    with pytest.raises(AssertionError, match="input 0 is not float64"):
        gradcheck_op(torch.square, (x.float(),))


class SlightlyWrongNorm(torch.autograd.Function):
    """Each row without its mean and of unit length; the gradient is a hundredth too large."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return normalised(x)

    @staticmethod
    def backward(ctx, dz: Tensor) -> Tensor:
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            return 1.01 * torch.autograd.grad(normalised(x), x, dz)[0]


def normalised(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x - x.mean(1, keepdim=True))


def test_the_fast_gradcheck_catches_a_wrong_gradient_behind_a_norm() -> None:
    x = torch.randn(4, 64, dtype=torch.float64, requires_grad=True)
    gradcheck_op(normalised, (x,), fast=True)
    with pytest.raises(GradcheckError):
        gradcheck_op(SlightlyWrongNorm.apply, (x,), second_order=False, fast=True)
