"""Autocast: activations and weights are cast as for torch's convolutions, batch norm's vectors
stay float32."""

from __future__ import annotations

import pytest
import torch

from resnet_cuda import ops, reference
from resnet_cuda.testing.problems import ConvProblem, make_inputs

PROBLEM = ConvProblem(2, 4, 6, 6, 8, 3, 3, padding=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_dtypes_under_autocast(
    backend: str, device: str, dtype: torch.dtype, training: bool
) -> None:
    results = []
    for module in (ops, reference):
        inputs = make_inputs(PROBLEM, torch.float32, device=device, requires_grad=True)
        with torch.autocast(device, dtype=dtype):
            z = module.conv_bn_relu(
                inputs.x,
                inputs.weight,
                inputs.gamma,
                inputs.beta,
                inputs.running_mean,
                inputs.running_var,
                residual=inputs.residual.to(dtype),
                padding=1,
                training=training,
            )
        assert z.dtype == dtype
        z.float().square().sum().backward()
        results.append((z.float(), *(leaf.grad for leaf in inputs.leaves()), inputs.running_mean))
        for leaf in inputs.leaves():
            assert leaf.grad is not None and leaf.grad.dtype == torch.float32
    for ours, theirs in zip(*results, strict=True):
        scale = float(theirs.detach().abs().max())
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05 * scale)


def test_a_float32_residual_is_cast(backend: str, device: str) -> None:
    inputs = make_inputs(PROBLEM, torch.float32, device=device)
    vectors = inputs.gamma, inputs.beta, inputs.running_mean, inputs.running_var
    with torch.autocast(device, dtype=torch.bfloat16):
        z = ops.conv_bn_relu(inputs.x, inputs.weight, *vectors, residual=inputs.residual, padding=1)
    assert z.dtype == torch.bfloat16


def test_float64_is_left_alone(backend: str, device: str) -> None:
    inputs = make_inputs(PROBLEM, torch.float64, device=device, requires_grad=True)
    vectors = inputs.gamma, inputs.beta, inputs.running_mean, inputs.running_var
    with torch.autocast(device, dtype=torch.bfloat16):
        z = ops.conv_bn_relu(inputs.x, inputs.weight, *vectors, padding=1, training=True)
    assert z.dtype == torch.float64


def test_add_relu_widens(backend: str, device: str) -> None:
    x = torch.randn(1, 2, 3, 3, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert ops.add_relu(x.bfloat16(), x).dtype == torch.float32


def test_second_derivatives_outside_autocast_of_a_graph_made_inside(
    backend: str, device: str
) -> None:
    inputs = make_inputs(PROBLEM, torch.float32, device=device, requires_grad=True)
    vectors = inputs.gamma, inputs.beta, inputs.running_mean, inputs.running_var
    with torch.autocast(device, dtype=torch.bfloat16):
        z = ops.conv_bn_relu(inputs.x, inputs.weight, *vectors, padding=1, training=True)
        (dx,) = torch.autograd.grad(z.float().square().sum(), inputs.x, create_graph=True)
    dx.square().sum().backward()
    assert inputs.weight.grad is not None and torch.isfinite(inputs.weight.grad).all()


@pytest.mark.parametrize("folded", [False, True])
def test_inference_under_autocast(folded: bool) -> None:
    inputs = make_inputs(PROBLEM, torch.float32)
    unit = ops.ConvUnit(
        inputs.weight,
        inputs.gamma,
        inputs.beta,
        inputs.running_mean,
        inputs.running_var,
        padding=(1, 1),
        folded=ops.FoldedConv() if folded else None,
    )
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        z = ops.residual_branch(inputs.x, [unit], None)
        again = ops.conv_unit(inputs.x, unit)
    assert z.dtype == again.dtype == torch.bfloat16
    expected = reference.residual_branch(inputs.x, [unit], None)
    torch.testing.assert_close(z.float(), expected, rtol=0.03, atol=0.03)
    torch.testing.assert_close(again.float(), expected, rtol=0.03, atol=0.03)
