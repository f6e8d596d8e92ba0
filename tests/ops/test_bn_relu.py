"""bn_relu: values, gradients and running statistics on every backend."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from resnet_cuda import ops, reference
from resnet_cuda.testing import assert_close_to_fp64, away_from_gate, gradcheck_op


def vectors(channels: int, device: str, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    gamma = torch.randn(channels, device=device, dtype=dtype)
    gamma[0] = 0.0
    beta = torch.randn(channels, device=device, dtype=dtype)
    mean = torch.randn(channels, device=device, dtype=dtype)
    var = torch.rand(channels, device=device, dtype=dtype) + 0.5
    return [gamma, beta, mean, var]


@pytest.mark.parametrize(("training", "relu", "add"), [*itertools.product((False, True), repeat=3)])
def test_gradients_and_second_derivatives_for_every_flag(
    backend: str, device: str, training: bool, relu: bool, add: bool
) -> None:
    x = torch.randn(2, 3, 4, 3, dtype=torch.float64, device=device, requires_grad=True)
    residual = torch.randn_like(x, requires_grad=True)
    gamma, beta, mean, var = vectors(3, device)

    def op(
        x: Tensor, gamma: Tensor, beta: Tensor, residual: Tensor, module: object = ops
    ) -> Tensor:
        return module.bn_relu(  # type: ignore[attr-defined]
            x,
            gamma,
            beta,
            mean.clone(),
            var.clone(),
            residual=residual if add else None,
            training=training,
            relu=relu,
        )

    inputs = (x, gamma.requires_grad_(), beta.requires_grad_(), residual)
    torch.testing.assert_close(op(*inputs), op(*inputs, module=reference))
    gradcheck_op(op, inputs, fast=backend != "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_keeps_the_tolerance_rule(
    backend: str, device: str, dtype: torch.dtype, training: bool
) -> None:
    x = (torch.randn(4, 5, 9, 7, device=device) * 2 + 1).to(dtype).requires_grad_()
    gamma, beta, mean, var = vectors(5, device, torch.float32)
    gamma.requires_grad_()
    beta.requires_grad_()

    def op(x: Tensor, *given: Tensor, module: object = reference, relu: bool = True) -> Tensor:
        return module.bn_relu(x, *given, training=training, relu=relu)  # type: ignore[attr-defined]

    z = op(x, gamma, beta, mean.clone(), var.clone(), module=ops)
    exact = op(*(t.detach().double() for t in (x, gamma, beta, mean, var)), relu=False)
    dz = away_from_gate(torch.randn_like(z), exact)
    z.backward(dz)
    assert_close_to_fp64(
        z,
        op,
        (x, gamma, beta, mean, var),
        grad_output=dz,
        actual_grads=(x.grad, gamma.grad, beta.grad, None, None),
    )


def test_running_statistics_equal_torchs(backend: str, device: str) -> None:
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64, device=device)
    ours, theirs = vectors(4, device), None
    theirs = [vector.clone() for vector in ours]
    ops.bn_relu(x, *ours, training=True, momentum=0.2)
    torch.nn.functional.batch_norm(x, theirs[2], theirs[3], training=True, momentum=0.2)
    torch.testing.assert_close(ours[2], theirs[2])
    torch.testing.assert_close(ours[3], theirs[3])
