"""Autocast around every fused module and op, in both 16-bit dtypes, with parameters in float32; gradient scaling."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from resnet_cuda import unfuse
from resnet_cuda.nn import BNReLU, ConvBNReLU
from resnet_cuda.ops import _autocast
from resnet_cuda.testing import check_gradient_rule, check_rule
from tests.citizen.calls import CASES, MODULES, inputs, module, problem
from tests.networks import decide, randomise

DTYPES = [torch.bfloat16, torch.float16]


class Step(NamedTuple):
    output: Tensor
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


def decided(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Images that open no ReLU and close none behind `decide`: a shortcut adds little."""
    return tuple(0.1 * x.detach().abs() for x in given)


def autocast_step(made: nn.Module, given: tuple[Tensor, ...], dtype: torch.dtype | None) -> Step:
    """One pass of a copy, under autocast where a dtype is given; the backward outside of it."""
    made = copy.deepcopy(made)
    leaves = [x.detach().clone().requires_grad_() for x in given]
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        z = made(*leaves)
    z.backward((torch.arange(z.numel()).view_as(z) % 7 - 2.5).to(z.dtype))
    gradients = {f"input {i}": x.grad for i, x in enumerate(leaves)}
    gradients |= {name: p.grad for name, p in made.named_parameters()}
    return Step(z.detach(), gradients, dict(made.named_buffers()))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_a_module_has_plain_torchs_dtypes_and_keeps_the_tolerance_rule(
    backend: str, name: str, dtype: torch.dtype, training: bool
) -> None:
    fused = module(name, torch.float32).train(training)
    decide(fused)
    given = decided(inputs(name, torch.float32))
    ours = autocast_step(fused, given, dtype)
    theirs = autocast_step(unfuse(fused), given, dtype)
    exact = autocast_step(unfuse(fused).double(), tuple(x.double() for x in given), None)
    check_rule(ours.output, theirs.output, exact.output)
    for key, gradient in ours.gradients.items():
        assert gradient.dtype == torch.float32, f"gradient of {key} is {gradient.dtype}"
        triple = gradient, theirs.gradients[key], exact.gradients[key]
        check_gradient_rule(*triple, name=f"gradient of {key}")
    for key, buffer in ours.buffers.items():
        assert buffer.dtype == theirs.buffers[key].dtype
        if buffer.is_floating_point():
            check_rule(buffer, theirs.buffers[key], exact.buffers[key], name=key)


WIDE = ("add_relu", "bn_relu", "global_avg_pool", "max_pool2d", "residual_branch, option A")


UNITS: dict[str, Callable[[bool], nn.Module]] = {
    "conv": lambda relu: ConvBNReLU(8, 8, 3, relu=relu),
    "bn": lambda relu: BNReLU(8, relu=relu),
}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("relu", [False, True], ids=["sum", "relu"])
@pytest.mark.parametrize("dtypes", [(True, False), (False, True), (False, False)], ids=str)
@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_adds_a_residual_of_another_dtype_as_plain_torch_does(
    backend: str, unit: str, dtypes: tuple[bool, bool], relu: bool, training: bool
) -> None:
    """dtypes: whether x and the residual are bfloat16, as behind a convolution."""
    fused = randomise(UNITS[unit](relu)).train(training)
    x, residual = (
        image.detach().to(torch.bfloat16 if short else torch.float32)
        for image, short in zip(inputs("AddReLU"), dtypes, strict=True)
    )
    outputs = []
    for made in (fused, unfuse(fused)):
        with torch.autocast("cpu", torch.bfloat16):
            outputs.append(made(x, residual))
    exact = unfuse(fused).double()(x.double(), residual.double())
    check_rule(*outputs, exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "training"), CASES)
def test_an_op_gives_the_dtype_of_plain_torch(
    backend: str, name: str, training: bool, dtype: torch.dtype
) -> None:
    """Convolutions are cast; what has none stays in float32, and so does a sum that adds x itself. Gradients are in
    the leaves' dtype."""
    call, leaves = problem(name, dtype=torch.float32, training=training)
    with torch.autocast("cpu", dtype):
        z = call(*leaves)
        with torch.no_grad():
            inferred = call(*leaves)
    assert z.dtype == inferred.dtype == (torch.float32 if name in WIDE else dtype)
    gradients = torch.autograd.grad(z.float().square().sum(), leaves)
    for i, gradient in enumerate(gradients):
        assert gradient.dtype == torch.float32, f"gradient of leaf {i} is {gradient.dtype}"
        assert torch.isfinite(gradient).all(), f"gradient of leaf {i}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_a_gpu_its_own_autocast_chooses(dtype: torch.dtype) -> None:
    """Asked of tensors that say they are on one; what is cast to the dtype from there on is the same code as above."""
    with FakeTensorMode():
        x = torch.empty(1, 8, 4, 4, device="cuda")
        wide, on_cpu = x.double(), torch.empty(1, 8, 4, 4)
        torch.set_autocast_dtype("cuda", dtype)
        torch.set_autocast_enabled("cuda", True)
        try:
            assert _autocast.autocast_dtype(x) == dtype
            assert _autocast.cast(x, dtype).dtype == dtype
            assert _autocast.autocast_dtype(wide) is None, "autocast leaves float64 alone"
            assert _autocast.autocast_dtype(on_cpu) is None, "the GPU's autocast is not the CPU's"
        finally:
            torch.set_autocast_enabled("cuda", False)
            torch.set_autocast_dtype("cuda", torch.float16)
        assert _autocast.autocast_dtype(x) is None


WITH_CONVOLUTIONS = [name for name in MODULES if name not in ("AddReLU", "BNReLU")]


def small_loss(z: Tensor) -> Tensor:
    """So small that float16 does not know its gradients."""
    weights = torch.arange(z.numel(), dtype=torch.float64).view_as(z) % 7 - 2.5
    return (z.double() * weights).sum() * 1e-9


@pytest.mark.parametrize("name", WITH_CONVOLUTIONS)
def test_a_gradient_scaler_keeps_small_gradients(backend: str, name: str) -> None:
    made = module(name, torch.float32).train()
    decide(made)

    def filters(scale: float) -> list[Tensor]:
        """Their gradients, with a scaler that begins with so much."""
        trained = copy.deepcopy(made)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        with torch.autocast("cpu", torch.float16):
            z = trained(*decided(inputs(name, torch.float32)))
        scaler.scale(small_loss(z)).backward()
        scaler.unscale_(torch.optim.SGD(trained.parameters()))
        return [p.grad for p in trained.parameters() if p.dim() == 4]

    plain = unfuse(made).double()
    small_loss(plain(*decided(inputs(name)))).backward()
    exact = [p.grad for p in plain.parameters() if p.dim() == 4]

    def worst(found: list[Tensor]) -> float:
        return max(float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))

    assert worst(filters(2.0**30)) < 0.02, "with a scaler"
    assert worst(filters(1.0)) > 0.1, "without a scaler nothing is lost: the test shows nothing"


def test_a_gradient_scaler_skips_a_step_with_infinities_and_goes_on(backend: str) -> None:
    made = module("Bottleneck", torch.float32).train()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    (x,) = inputs("Bottleneck", torch.float32)
    scales, moved = [], []
    for _ in range(30):
        before = made.conv1.weight.detach().clone()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = made(x.detach()).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        moved.append(not torch.equal(made.conv1.weight, before))
    first = moved.index(True)
    assert first > 0, "no step was skipped"
    assert scales[:first] == [2.0 ** (39 - i) for i in range(first)], "the scale was not halved"
    assert all(moved[first:]), "a later step was skipped"
    assert all(torch.isfinite(p).all() for p in made.parameters())
