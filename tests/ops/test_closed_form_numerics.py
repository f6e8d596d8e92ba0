"""The tolerance rule for batch norm in closed form where activations are hard on it.

A block's inner ReLUs close or open by rounding alone, which moves single gradients by whole elements;
so errors are judged in L2 norm, over several random blocks together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from resnet_cuda import _raw, ops, reference
from resnet_cuda.ops import ConvUnit, Identity
from resnet_cuda.testing import away_from_gate, emulated

SEEDS = 4
C, K = 32, 128
FACTOR = 2.0
Units = list[ConvUnit]


@pytest.fixture(autouse=True)
def _kernels() -> Iterator[None]:
    if not _raw.is_built():
        pytest.skip("resnet_cuda._C is not built: run `make build`")
    with emulated():
        yield


def unit(c: int, k: int, r: int) -> ConvUnit:
    def randn(*sizes: int) -> Tensor:
        return torch.randn(*sizes, dtype=torch.float64)

    return ConvUnit(
        randn(k, c, r, r) * (2 / (c * r * r)) ** 0.5,
        1 + 0.1 * randn(k),
        0.1 * randn(k),
        0.1 * randn(k),
        torch.rand(k, dtype=torch.float64) + 0.5,
        padding=(r // 2, r // 2),
        training=True,
    )


def ordinary(x: Tensor, units: Units) -> Tensor:
    return x


def means(ratio: float) -> Callable[[Tensor, Units], Tensor]:
    """Channels whose mean is so many standard deviations, both where the expand and where a
    projection reads."""

    def change(x: Tensor, units: Units) -> Tensor:
        middle = units[1]
        middle.gamma = torch.full((C,), 0.1, dtype=torch.float64)
        middle.beta = 0.1 * ratio * (1 + 0.1 * torch.rand(C, dtype=torch.float64))
        return 0.1 * x + 0.1 * ratio * (1 + 0.1 * torch.randn(1, K, 1, 1, dtype=torch.float64))

    return change


def nearly_constant(x: Tensor, units: Units) -> Tensor:
    middle = units[1]
    every_other = torch.where(torch.arange(C) % 2 == 0, 1e-4, 1.0).double()
    middle.gamma, middle.beta = middle.gamma * every_other, middle.beta + 1
    return x


def four_values(x: Tensor, units: Units) -> Tensor:
    return x[:1, :, :2, :2]


def nearly_equal(difference: float) -> Callable[[Tensor, Units], Tensor]:
    """Channels that differ so little; the expand's filters subtract them from each other."""

    def change(x: Tensor, units: Units) -> Tensor:
        middle, last = units[1], units[2]
        weight = middle.weight
        middle.weight = (weight[:1] + difference * weight).contiguous()
        middle.gamma, middle.beta = torch.ones_like(middle.gamma), torch.ones_like(middle.beta)
        last.weight = last.weight - last.weight.mean(1, keepdim=True)
        return x

    return change


def some_gammas_zero(x: Tensor, units: Units) -> Tensor:
    middle, last = units[1], units[2]
    middle.gamma = middle.gamma * (torch.arange(C) % 2)
    last.gamma = -last.gamma * (torch.arange(K) % 3 > 0)
    return x


CASES = {
    "ordinary": ordinary,
    "means of 10 deviations": means(10),
    "means of 100 deviations": means(100),
    "means of 1000 deviations": means(1000),
    "nearly constant channels": nearly_constant,
    "four values per channel": four_values,
    "correlation of 1e-2": nearly_equal(1e-2),
    "correlation of 1e-3": nearly_equal(1e-3),
    "gammas zero and negative": some_gammas_zero,
}


def in_dtypes(u: ConvUnit, weight: torch.dtype, vectors: torch.dtype) -> ConvUnit:
    names = ("gamma", "beta", "running_mean", "running_var")
    own = {name: getattr(u, name).detach().to(vectors, copy=True) for name in names}
    own["gamma"].requires_grad_()
    own["beta"].requires_grad_()
    return replace(u, weight=u.weight.detach().to(weight, copy=True).requires_grad_(), **own)


def step(
    run: Callable[..., Tensor],
    x: Tensor,
    block: list[ConvUnit],
    dz: Tensor,
    dtype: torch.dtype,
    vectors: torch.dtype,
) -> dict[str, Tensor]:
    """Output, gradients and running statistics by name; a fourth unit is the projection."""
    units = [in_dtypes(u, dtype, vectors) for u in block]
    x = x.to(dtype).requires_grad_()
    z = run(x, units[:3], units[3] if len(units) > 3 else Identity())
    names, leaves = ["dx"], [x]
    found = {"z": z.detach()}
    for i, u in enumerate(units):
        names += [f"dweight{i}", f"dgamma{i}", f"dbeta{i}"]
        leaves += [t for t in (u.weight, u.gamma, u.beta) if t is not None]
        assert u.running_mean is not None and u.running_var is not None
        found |= {f"running_mean{i}": u.running_mean, f"running_var{i}": u.running_var}
    gradients = torch.autograd.grad(z, leaves, dz.to(dtype))
    return found | dict(zip(names, gradients, strict=True))


def before_relu(x: Tensor, block: list[ConvUnit]) -> Tensor:
    """What the ReLU at the block's end is given, in float64."""
    exact = [in_dtypes(u, torch.float64, torch.float64) for u in block]
    z = a = x.double()
    with torch.no_grad():
        for u in exact[:2]:
            a = reference.conv_unit(a, u)
        if len(exact) > 3:
            z = reference.conv_unit(z, exact[3], relu=False)
        return reference.conv_unit(a, exact[2], z, relu=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("projects", [False, True], ids=["identity", "projection"])
@pytest.mark.parametrize("name", CASES)
def test_errors_are_at_most_twice_torchs(name: str, projects: bool, dtype: torch.dtype) -> None:
    errors: dict[str, Tensor] = {}
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        units = [unit(K, C, 1), unit(C, C, 3), unit(C, K, 1)]
        x = CASES[name](torch.randn(4, K, 8, 8, dtype=torch.float64), units).to(dtype)
        block = [*units, unit(K, K, 1)] if projects else units
        block = [in_dtypes(u, dtype, torch.float32) for u in block]
        before = before_relu(x, block)
        dz = away_from_gate(torch.randn_like(before).to(dtype), before)
        ours = step(ops.residual_branch, x, block, dz, dtype, torch.float32)
        torchs = step(reference.residual_branch, x, block, dz, dtype, torch.float32)
        truth = step(reference.residual_branch, x, block, dz, torch.float64, torch.float64)
        for key, exact in truth.items():
            size = exact.square().sum()
            ulp = torch.finfo(ours[key].dtype).eps
            squares = [(t[key].double() - exact).square().sum() for t in (ours, torchs)]
            row = torch.stack([*squares, ulp**2 * size])
            errors[key] = errors.get(key, torch.zeros(3, dtype=torch.float64)) + row
    for key, (own, theirs, floor) in ((k, e.sqrt().tolist()) for k, e in errors.items()):
        assert own <= max(FACTOR * theirs, floor), (
            f"{key} is off by {own:.3e} in L2 norm, torch's by {theirs:.3e}"
        )
