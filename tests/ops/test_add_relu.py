"""add_relu: values, gradients and memory formats on every backend."""

from __future__ import annotations

import pytest
import torch

from resnet_cuda import ops
from resnet_cuda.testing import gradcheck_op


def test_gradients_and_second_derivatives(backend: str, device: str) -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, device=device, requires_grad=True)
    residual = torch.randn_like(x, requires_grad=True)
    gradcheck_op(ops.add_relu, (x, residual))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_equals_torch_to_the_last_bit(backend: str, device: str, dtype: torch.dtype) -> None:
    x = torch.randn(3, 5, 4, 7, device=device).to(dtype)
    residual = torch.randn_like(x)
    x[0, 0, 0, 0] = float("nan")
    z = ops.add_relu(x, residual)
    torch.testing.assert_close(z, torch.relu(x + residual), rtol=0, atol=0, equal_nan=True)


def test_the_gate_lets_nan_through_and_stops_zero(backend: str, device: str) -> None:
    x = (
        torch.tensor([float("nan"), 0.0, -1.0, 2.0], device=device)
        .view(1, 1, 2, 2)
        .requires_grad_()
    )
    residual = torch.zeros_like(x)
    ops.add_relu(x, residual).backward(torch.ones(1, 1, 2, 2, device=device))
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [1.0, 0.0, 0.0, 1.0]


def test_expanded_gradient_of_a_sum(backend: str, device: str) -> None:
    x = torch.randn(2, 3, 4, 4, device=device, requires_grad=True)
    residual = torch.randn(2, 3, 4, 4, device=device, requires_grad=True)
    ops.add_relu(x, residual).sum().backward()
    expected = (x + residual > 0).float()
    assert torch.equal(x.grad, expected) and torch.equal(residual.grad, expected)


def test_does_not_write_to_its_inputs(backend: str, device: str) -> None:
    x, residual = torch.randn(2, 3, 4, 4, device=device), torch.randn(2, 3, 4, 4, device=device)
    before = x.clone(), residual.clone()
    ops.add_relu(x, residual)
    assert torch.equal(x, before[0]) and torch.equal(residual, before[1])


@pytest.mark.parametrize("channels_last", [False, True])
def test_output_keeps_the_inputs_format(backend: str, device: str, channels_last: bool) -> None:
    fmt = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, 3, 4, 4, device=device).contiguous(memory_format=fmt)
    z = ops.add_relu(x, torch.randn(2, 3, 4, 4, device=device))
    assert z.is_contiguous(memory_format=fmt)
