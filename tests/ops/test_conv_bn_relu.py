"""conv_bn_relu: values, gradients, second derivatives and running statistics on every backend."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from resnet_cuda import ops, reference
from resnet_cuda.testing import assert_close_to_fp64, away_from_gate, gradcheck_op
from resnet_cuda.testing.problems import (
    ConvBnInputs,
    ConvProblem,
    adversarial_problems,
    make_inputs,
    resnet_layers,
)

PROBLEMS = adversarial_problems()
SMALL = ConvProblem(2, 4, 5, 4, 6, 3, 3, stride=2, padding=1, groups=2)
EVERY_KERNEL_AND_STRIDE = [
    ConvProblem(2, 3, 6, 5, 3, k, k, stride=s, padding=k // 2)
    for k in (1, 3, 5, 7)
    for s in (1, 2, 3)
]


def single_value(problem: ConvProblem) -> bool:
    return problem.N * problem.P * problem.Q == 1


def call(module: object, inputs: ConvBnInputs, problem: ConvProblem, **options: object) -> Tensor:
    residual = inputs.residual if options.pop("add", False) else None
    return module.conv_bn_relu(  # type: ignore[attr-defined]
        inputs.x,
        inputs.weight,
        inputs.gamma,
        inputs.beta,
        inputs.running_mean,
        inputs.running_var,
        residual=residual,
        **problem.geometry(),
        **options,
    )


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_equals_the_reference_on_adversarial_shapes(
    backend: str, device: str, problem: ConvProblem, training: bool
) -> None:
    if training and single_value(problem):
        problem = replace(problem, N=2)  # a single value per channel has no batch statistics
    ours = make_inputs(problem, torch.float64, device=device, requires_grad=True)
    theirs = make_inputs(problem, torch.float64, device=device, requires_grad=True)
    add = problem.N != 2
    z = call(ops, ours, problem, training=training, add=add)
    expected = call(reference, theirs, problem, training=training, add=add)
    torch.testing.assert_close(z, expected, rtol=1e-9, atol=1e-9)
    dz = torch.randn_like(expected)
    z.backward(dz)
    expected.backward(dz)
    for name, a, b in zip(
        ("x", "weight", "gamma", "beta", "residual"), ours.leaves(), theirs.leaves(), strict=True
    ):
        assert (a.grad is None) == (b.grad is None), f"gradient of {name} is missing or too many"
        if b.grad is not None:
            torch.testing.assert_close(
                a.grad, b.grad, rtol=1e-8, atol=1e-8, msg=lambda m, n=name: f"d{n}: {m}"
            )
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


@pytest.mark.parametrize(
    ("training", "relu", "add", "affine"), [*itertools.product((False, True), repeat=4)]
)
def test_gradients_and_second_derivatives_for_every_flag(
    backend: str, device: str, training: bool, relu: bool, add: bool, affine: bool
) -> None:
    inputs = make_inputs(SMALL, torch.float64, device=device, requires_grad=True)

    def op(x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, residual: Tensor) -> Tensor:
        return ops.conv_bn_relu(
            x,
            weight,
            gamma if affine else None,
            beta if affine else None,
            inputs.running_mean.clone(),
            inputs.running_var.clone(),
            residual=residual if add else None,
            training=training,
            relu=relu,
            **SMALL.geometry(),
        )

    gradcheck_op(op, inputs.leaves(), fast=backend != "cpu")


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("problem", "relu", "add"),
    [
        (problem, index % 2 == 0, index % 3 > 0)
        for index, problem in enumerate(EVERY_KERNEL_AND_STRIDE + PROBLEMS)
    ],
    ids=lambda value: str(value) if isinstance(value, ConvProblem) else str(int(value)),
)
def test_gradcheck_over_the_whole_geometry(
    backend: str, device: str, problem: ConvProblem, relu: bool, add: bool, training: bool
) -> None:
    if training and single_value(problem):
        problem = replace(problem, N=2)  # a single value per channel has no batch statistics
    inputs = make_inputs(problem, torch.float64, device=device, requires_grad=True)

    def op(x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, residual: Tensor) -> Tensor:
        given = ConvBnInputs(
            x,
            weight,
            gamma,
            beta,
            inputs.running_mean.clone(),
            inputs.running_var.clone(),
            residual,
        )
        return call(ops, given, problem, training=training, relu=relu, add=add)

    gradcheck_op(op, inputs.leaves(), second_order=False, fast=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
# At a batch with 64 values per channel: one channel of 16 values whose variance happens to be small decides about the
# largest error of a whole gradient, and which of two roundings is the lucky one there is chance.
@pytest.mark.parametrize(
    "problem",
    [replace(p, N=max(1, 64 // (p.P * p.Q))) for p in resnet_layers(50, batch=1, size=64)],
    ids=str,
)
def test_resnet50_layers_keep_the_tolerance_rule(
    backend: str, device: str, problem: ConvProblem, dtype: torch.dtype
) -> None:
    inputs = make_inputs(problem, dtype, device=device, requires_grad=True)

    def op(
        x: Tensor,
        weight: Tensor,
        gamma: Tensor,
        beta: Tensor,
        residual: Tensor,
        module: object = reference,
        relu: bool = True,
    ) -> Tensor:
        return module.conv_bn_relu(  # type: ignore[attr-defined]
            x,
            weight,
            gamma,
            beta,
            None,
            None,
            residual=residual,
            training=True,
            relu=relu,
            **problem.geometry(),
        )

    z = op(*inputs.leaves(), module=ops)
    exact = op(*(leaf.detach().double() for leaf in inputs.leaves()), relu=False)
    dz = away_from_gate(torch.randn_like(z), exact)
    z.backward(dz)
    assert_close_to_fp64(
        z,
        op,
        inputs.leaves(),
        grad_output=dz,
        actual_grads=[leaf.grad for leaf in inputs.leaves()],
        name=str(problem),
    )


def test_running_statistics_follow_torch_over_three_steps(backend: str, device: str) -> None:
    ours = make_inputs(SMALL, torch.float64, device=device)
    bn = torch.nn.BatchNorm2d(SMALL.K, momentum=0.3).double().to(device)
    bn.running_mean.copy_(ours.running_mean)  # type: ignore[union-attr]
    bn.running_var.copy_(ours.running_var)  # type: ignore[union-attr]
    for step in range(3):
        x = make_inputs(SMALL, torch.float64, device=device, seed=step).x
        ours.x = x
        call(ops, ours, SMALL, training=True, momentum=0.3)
        g = SMALL
        bn(torch.conv2d(x, ours.weight, None, g.stride, g.padding, g.dilation, g.groups))
    torch.testing.assert_close(ours.running_mean, bn.running_mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.running_var, bn.running_var, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_running_statistics_and_parameters_are_updated(
    backend: str, device: str, dtype: torch.dtype
) -> None:
    inputs = make_inputs(SMALL, dtype, device=device)
    for name in ("gamma", "beta", "running_mean", "running_var"):
        setattr(
            inputs, name, getattr(inputs, name).to(dtype).requires_grad_(name in ("gamma", "beta"))
        )
    before = inputs.running_mean.clone()
    call(ops, inputs, SMALL, training=True).sum().backward()
    assert inputs.gamma.grad is not None and inputs.gamma.grad.dtype == dtype
    assert inputs.running_mean.dtype == dtype
    assert not torch.equal(inputs.running_mean, before), "the running mean did not move"


def test_training_without_running_statistics(backend: str, device: str) -> None:
    inputs = make_inputs(SMALL, torch.float64, device=device)
    expected = call(reference, inputs, SMALL, training=True)
    inputs.running_mean = inputs.running_var = None  # type: ignore[assignment]
    torch.testing.assert_close(call(ops, inputs, SMALL, training=True), expected)


@pytest.mark.parametrize("only", range(5))
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_each_gradient_alone(backend: str, device: str, training: bool, only: int) -> None:
    grads = []
    for module in (ops, reference):
        inputs = make_inputs(SMALL, torch.float64, device=device)
        leaf = inputs.leaves()[only].requires_grad_()
        call(module, inputs, SMALL, training=training, add=True).square().sum().backward()
        assert sum(tensor.grad is not None for tensor in inputs.leaves()) == 1
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_nan_and_infinity_propagate_as_in_torch(backend: str, device: str, training: bool) -> None:
    results = []
    for module in (ops, reference):
        inputs = make_inputs(SMALL, torch.float32, device=device, requires_grad=True)
        with torch.no_grad():
            inputs.x[0, 0, 0, 0] = float("nan")
            inputs.residual[1, 0, 0, 0] = float("inf")
            inputs.residual[1, 1, 0, 0] = float("nan")
        z = call(module, inputs, SMALL, training=training, add=True)
        z.backward(torch.ones_like(z))
        results.append((z, inputs.residual.grad))
    (z, dresidual), (expected, expected_dresidual) = results
    assert torch.equal(z.isnan(), expected.isnan()), "relu(NaN) must be NaN"
    assert torch.equal(z.isinf(), expected.isinf())
    assert torch.equal(dresidual, expected_dresidual), (
        "the gate is not (z <= 0): it lets NaN through"
    )


def test_functional_grad_transforms(backend: str, device: str) -> None:
    inputs = make_inputs(SMALL, torch.float64, device=device)

    def loss(x: Tensor, module: object = ops) -> Tensor:
        given = ConvBnInputs(**{**vars(inputs), "x": x})
        return call(module, given, SMALL, training=True, add=True).square().sum()

    torch.testing.assert_close(
        torch.func.grad(loss)(inputs.x), torch.func.grad(lambda x: loss(x, reference))(inputs.x)
    )


def test_is_deterministic(backend: str, device: str) -> None:
    problem = ConvProblem(4, 16, 12, 12, 24, 3, 3, padding=1)
    runs = []
    for _ in range(2):
        inputs = make_inputs(problem, torch.float32, device=device, requires_grad=True)
        call(ops, inputs, problem, training=True).sum().backward()
        runs.append([leaf.grad for leaf in inputs.leaves()[:4]])
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)
