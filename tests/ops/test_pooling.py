"""max_pool2d and global_avg_pool on every backend."""

from __future__ import annotations

import pytest
import torch

from resnet_cuda import ops
from resnet_cuda.testing import gradcheck_op

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [(3, 2, 1), (2, 2, 0), (3, 1, 1), (5, 3, 2), (1, 1, 0)])
def test_max_pool_equals_torchs_to_the_last_bit(
    backend: str, device: str, dtype: torch.dtype, window: tuple[int, int, int]
) -> None:
    x = torch.randn(2, 5, 9, 8, device=device).to(dtype).requires_grad_()
    y = ops.max_pool2d(x, *window)
    dy = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, dy)
    expected = torch.nn.functional.max_pool2d(x.double(), *window)
    (expected_dx,) = torch.autograd.grad(expected, x, dy.double())
    assert torch.equal(y.double(), expected)
    torch.testing.assert_close(dx, expected_dx, rtol=2e-2, atol=2e-2)


def test_max_pool_takes_the_first_of_equal_values_and_any_nan(backend: str, device: str) -> None:
    x = torch.zeros(1, 1, 4, 4, device=device)
    x[0, 0, 3, 3] = float("nan")
    x.requires_grad_()
    y = ops.max_pool2d(x, 2, 2, 0)
    assert y.isnan().flatten().tolist() == [False, False, False, True]
    y.backward(torch.ones_like(y))
    expected = torch.zeros(4, 4)
    expected[0, 0] = expected[0, 2] = expected[2, 0] = expected[3, 3] = 1.0
    assert torch.equal(x.grad[0, 0].cpu(), expected)


def test_max_pool_derivatives(backend: str, device: str) -> None:
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, device=device, requires_grad=True)
    gradcheck_op(ops.max_pool2d, (x,))


@pytest.mark.parametrize("window", [(0, 1, 0), (3, 0, 1), (3, 2, 2), (16, 1, 0), (3, 2, -1)])
def test_max_pool_refuses_bad_windows(
    backend: str, device: str, window: tuple[int, int, int]
) -> None:
    with pytest.raises(ValueError, match="accepted"):
        ops.max_pool2d(torch.randn(1, 1, 20, 20, device=device), *window)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_global_average(backend: str, device: str, dtype: torch.dtype) -> None:
    x = torch.randn(3, 5, 7, 6, device=device).to(dtype)
    y = ops.global_avg_pool(x)
    assert y.shape == (3, 5, 1, 1) and y.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        y.double(), x.double().mean((2, 3), keepdim=True), rtol=tolerance, atol=tolerance
    )


def test_global_average_derivatives(backend: str, device: str) -> None:
    x = torch.randn(2, 3, 3, 2, dtype=torch.float64, device=device, requires_grad=True)
    gradcheck_op(ops.global_avg_pool, (x,))


def test_empty_batches(backend: str, device: str) -> None:
    x = torch.randn(0, 3, 8, 8, device=device, requires_grad=True)
    assert ops.max_pool2d(x).shape == (0, 3, 4, 4)
    assert ops.global_avg_pool(x).shape == (0, 3, 1, 1)
    ops.max_pool2d(x).sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
