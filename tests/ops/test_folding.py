"""Folded CPU inference: equal to the unfolded, and never stale."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from resnet_cuda import ops, reference
from resnet_cuda.ops import ConvUnit, FoldedConv, _onednn
from resnet_cuda.testing import check_rule
from resnet_cuda.testing.problems import ConvProblem, adversarial_problems, make_inputs

PROBLEM = ConvProblem(2, 16, 6, 6, 16, 3, 3, padding=1)


def conv_unit(dtype: torch.dtype = torch.float32, problem: ConvProblem = PROBLEM) -> ConvUnit:
    inputs = make_inputs(problem, dtype)
    p = problem
    return ConvUnit(
        nn.Parameter(inputs.weight),
        nn.Parameter(inputs.gamma),
        nn.Parameter(inputs.beta),
        inputs.running_mean,
        inputs.running_var,
        stride=(p.stride, p.stride),
        padding=(p.padding, p.padding),
        dilation=(p.dilation, p.dilation),
        groups=p.groups,
        folded=FoldedConv(),
    )


def run(unit: ConvUnit, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return ops.conv_unit(x, unit)


def exactly(unit: ConvUnit) -> ConvUnit:
    """The unit in float64."""
    names = ("weight", "gamma", "beta", "running_mean", "running_var")
    return replace(unit, **{name: getattr(unit, name).detach().double() for name in names})


def assert_fresh(unit: ConvUnit, x: torch.Tensor) -> None:
    with torch.no_grad():
        expected = reference.conv_unit(x, unit)
    torch.testing.assert_close(
        run(unit, x), expected, rtol=1e-3, atol=1e-3, msg=lambda m: f"stale folded weights: {m}"
    )


@pytest.mark.parametrize("problem", adversarial_problems()[:12], ids=str)
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("add", [False, True])
def test_keeps_the_tolerance_rule(problem: ConvProblem, dtype: torch.dtype, add: bool) -> None:
    unit = conv_unit(dtype, problem)
    inputs = make_inputs(problem, dtype)
    residual = inputs.residual if add else None
    exact = exactly(unit)
    with torch.no_grad():
        z = ops.conv_unit(inputs.x, unit, residual)
        torchs = reference.conv_unit(inputs.x, unit, residual)
        truth = reference.conv_unit(
            inputs.x.double(), exact, None if residual is None else residual.double()
        )
    if dtype == torch.float64:
        torch.testing.assert_close(z, truth, rtol=1e-12, atol=1e-12)
    else:
        check_rule(z, torchs, truth)
    assert not unit.folded.is_empty, "nothing was folded"


CHANGES: dict[str, Callable[[ConvUnit], None]] = {
    "weight in place": lambda u: u.weight.mul_(2),
    "weight through detach": lambda u: u.weight.detach().mul_(2),
    "weight through .data": lambda u: u.weight.data.mul_(2),
    "weight.data replaced": lambda u: setattr(u.weight, "data", torch.randn_like(u.weight)),
    "weight replaced": lambda u: setattr(u, "weight", nn.Parameter(u.weight * 3)),
    "weight viewed by another parameter": lambda u: (
        setattr(u, "weight", nn.Parameter(u.weight.data)),
        u.weight.mul_(2),
    ),
    "gamma through .data": lambda u: u.gamma.data.add_(1),
    "beta in place": lambda u: u.beta.add_(1),
    "beta removed": lambda u: setattr(u, "beta", None),
    "running_mean in place": lambda u: u.running_mean.add_(1),
    "one running_var through numpy": lambda u: u.running_var.numpy().__setitem__(3, 9.0),
    "running statistics by a training step": lambda u: (
        ops.conv_unit(torch.randn(2, 16, 6, 6), replace(u, training=True)),
    ),
    "eps": lambda u: setattr(u, "eps", 0.5),
    "stride": lambda u: setattr(u, "stride", (2, 2)),
    "optimizer step": lambda u: _optimizer_step(u),
    "load_state_dict": lambda u: _load(u),
}


def _optimizer_step(unit: ConvUnit) -> None:
    with torch.enable_grad():
        x = torch.randn(2, 16, 6, 6)
        ops.conv_unit(x, replace(unit, training=True)).square().sum().backward()
    torch.optim.SGD([unit.weight, unit.gamma, unit.beta], lr=0.1, momentum=0.9).step()


def _load(unit: ConvUnit) -> None:
    conv = nn.Conv2d(16, 16, 3, bias=False)
    conv.weight = unit.weight  # type: ignore[assignment]
    conv.load_state_dict({"weight": torch.randn(16, 16, 3, 3)})


@pytest.mark.parametrize("change", CHANGES)
def test_never_stale_after(change: str) -> None:
    unit = conv_unit()
    x = torch.randn(2, 16, 6, 6)
    first = run(unit, x)
    with torch.no_grad():
        CHANGES[change](unit)
    assert_fresh(unit, x)
    assert first.shape != run(unit, x).shape or not torch.equal(first, run(unit, x)), (
        "the change had no effect"
    )


def test_an_address_that_is_used_again_is_not_mistaken() -> None:
    unit = conv_unit()
    x = torch.randn(2, 16, 6, 6)
    for _ in range(20):  # freed and allocated again: the allocator hands out the same addresses
        run(unit, x)
        unit.weight.data = torch.zeros(1)
        unit.weight.data = torch.randn(16, 16, 3, 3)
        assert_fresh(unit, x)


def test_the_cache_is_used() -> None:
    unit = conv_unit()
    x = torch.randn(2, 16, 6, 6)
    run(unit, x)
    entry = unit.folded._entry
    assert entry is not None
    run(unit, x)
    assert unit.folded._entry is entry, "folded again although nothing changed"
    unit.folded.clear()
    assert unit.folded.is_empty
    assert_fresh(unit, x)


def test_many_input_shapes() -> None:
    unit = conv_unit()
    for size in (4, 5, 6, 7, 8, 9, 4, 5):
        assert_fresh(unit, torch.randn(1, 16, size, size))


def test_dtypes_take_turns() -> None:
    unit = conv_unit()
    x = torch.randn(2, 16, 6, 6)
    for _ in range(2):
        assert_fresh(unit, x)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert ops.conv_unit(x, unit).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, copy.copy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_copies_start_empty(duplicate: Callable[[FoldedConv], FoldedConv]) -> None:
    unit = conv_unit()
    run(unit, torch.randn(2, 16, 6, 6))
    assert not unit.folded.is_empty
    copied = duplicate(unit.folded)
    assert isinstance(copied, FoldedConv) and copied.is_empty


def test_inference_mode_and_inference_tensors() -> None:
    unit = conv_unit()
    x = torch.randn(2, 16, 6, 6)
    expected = run(unit, x)
    with torch.inference_mode():
        torch.testing.assert_close(ops.conv_unit(x, unit), expected)
        made_inside = replace(unit, weight=unit.weight * 1.0, folded=FoldedConv())
        torch.testing.assert_close(ops.conv_unit(x, made_inside), expected)
        made_inside.weight.mul_(2)  # no version counter records this
        torch.testing.assert_close(
            ops.conv_unit(x, made_inside), reference.conv_unit(x, made_inside)
        )
    torch.testing.assert_close(run(unit, x), expected)


def test_gradients_in_eval_mode_do_not_go_through_the_cache() -> None:
    unit = conv_unit()
    x = torch.randn(2, 16, 6, 6)
    run(unit, x)
    ops.conv_unit(x, unit).sum().backward()
    assert unit.weight.grad is not None and unit.gamma.grad is not None


def test_the_residual_is_not_overwritten() -> None:
    unit = conv_unit()
    x, residual = torch.randn(2, 2, 16, 6, 6).unbind()
    for fmt in (torch.channels_last, torch.contiguous_format):
        given = residual.contiguous(memory_format=fmt)
        before = given.clone()
        with torch.no_grad():
            ops.conv_unit(x.contiguous(memory_format=fmt), unit, given)
        assert torch.equal(given, before)


@pytest.fixture
def native_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of CPUs that multiply bfloat16 natively; oneDNN runs it on others too, slowly."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has no bfloat16 on this CPU")
    monkeypatch.setattr(_onednn, "has_native_arithmetic", lambda dtype: dtype != torch.float16)
    monkeypatch.setattr(_onednn, "serves", lambda dtype: dtype in (torch.float32, torch.bfloat16))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("add", [False, True])
def test_native_bfloat16_keeps_the_tolerance_rule(
    native_bfloat16: None, add: bool, channels_last: bool
) -> None:
    unit = conv_unit(torch.bfloat16)
    inputs = make_inputs(PROBLEM, torch.bfloat16)
    fmt = torch.channels_last if channels_last else torch.contiguous_format
    x, unit.weight = (
        inputs.x.contiguous(memory_format=fmt),
        unit.weight.contiguous(memory_format=fmt),
    )
    residual = inputs.residual if add else None
    before = inputs.residual.clone()
    exact = exactly(unit)
    with torch.no_grad():
        z = ops.conv_unit(x, unit, residual)
        torchs = reference.conv_unit(x, unit, residual)
        truth = reference.conv_unit(
            x.double(), exact, None if residual is None else residual.double()
        )
    check_rule(z, torchs, truth)
    assert z.is_contiguous(memory_format=fmt)
    assert torch.equal(inputs.residual, before)


SPECIAL = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


@pytest.mark.parametrize("where", ["x", "residual", "weight", "beta"])
@pytest.mark.parametrize("value", SPECIAL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("native", [False, True])
def test_nan_and_infinity_are_not_lost(
    request: pytest.FixtureRequest, native: bool, dtype: torch.dtype, value: str, where: str
) -> None:
    if native:
        request.getfixturevalue("native_bfloat16")
    unit = conv_unit(dtype)
    inputs = make_inputs(PROBLEM, dtype)
    with torch.no_grad():
        target = {
            "x": inputs.x,
            "residual": inputs.residual,
            "weight": unit.weight,
            "beta": unit.beta,
        }[where]
        if target.dim() == 1:
            target[3] = SPECIAL[value]
        else:
            target[0, 1, 2, 2] = SPECIAL[value]
        for residual in (None, inputs.residual):
            z = ops.conv_unit(inputs.x, unit, residual)
            expected = reference.conv_unit(inputs.x, unit, residual)
            assert torch.equal(z.isnan(), expected.isnan()), "a ReLU must keep NaN"
            assert torch.equal(z.isinf(), expected.isinf())
