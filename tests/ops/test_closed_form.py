"""Batch norm in closed form over the 1x1 convolutions that end a branch, and over projections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from resnet_cuda import _raw, ops, reference
from resnet_cuda.ops import ConvUnit, Identity, ZeroPad, _closed_form
from resnet_cuda.ops._closed_form import ROWS_PER_CHANNEL
from resnet_cuda.testing import emulated, gradcheck_op

Block = tuple[list[ConvUnit], ConvUnit | Identity | ZeroPad | None]


@pytest.fixture(autouse=True)
def _kernels() -> Iterator[None]:
    if not _raw.is_built():
        pytest.skip("resnet_cuda._C is not built: run `make build`")
    with emulated():
        yield


def unit(c: int, k: int, r: int, stride: int = 1) -> ConvUnit:
    """A unit in float64 whose parameters want gradients."""

    def randn(*sizes: int) -> Tensor:
        return torch.randn(*sizes, dtype=torch.float64)

    return ConvUnit(
        (randn(k, c, r, r) * (2 / (c * r * r)) ** 0.5).requires_grad_(),
        randn(k).requires_grad_(),
        randn(k).requires_grad_(),
        randn(k) * 0.2,
        torch.rand(k, dtype=torch.float64) + 0.5,
        stride=(stride, stride),
        padding=(r // 2, r // 2),
        training=True,
    )


def bottleneck(stride: int, shortcut: ConvUnit | Identity | ZeroPad | None) -> Block:
    k = 32 if stride == 2 else 16
    return [unit(16, 8, 1), unit(8, 8, 3, stride), unit(8, k, 1)], shortcut


BLOCKS: dict[str, Callable[[], Block]] = {
    "identity": lambda: bottleneck(1, Identity()),
    "projection": lambda: bottleneck(2, unit(16, 32, 1, 2)),
    "projection of the same size": lambda: bottleneck(1, unit(16, 16, 1)),
    "option A": lambda: bottleneck(2, ZeroPad(2, 32)),
    "no shortcut": lambda: bottleneck(1, None),
    "basic with a projection": lambda: (
        [unit(16, 24, 3, 2), unit(24, 24, 3)],
        unit(16, 24, 1, 2),
    ),
}


def every(block: Block) -> list[ConvUnit]:
    units, shortcut = block
    return [*units, shortcut] if isinstance(shortcut, ConvUnit) else units


def parameters(block: Block) -> list[Tensor]:
    return [t for u in every(block) for t in (u.weight, u.gamma, u.beta) if t is not None]


def copied(block: Block, dtype: torch.dtype, weights: torch.dtype | None = None) -> Block:
    """The same block with leaves of its own, in another dtype."""

    def copy(u: ConvUnit) -> ConvUnit:
        vectors = {
            name: getattr(u, name).detach().to(dtype, copy=True)
            for name in ("gamma", "beta", "running_mean", "running_var")
        }
        c = replace(u, weight=u.weight.detach().to(weights or dtype, copy=True), **vectors)
        for leaf in (c.weight, c.gamma, c.beta):
            assert leaf is not None
            leaf.requires_grad_()
        return c

    units, shortcut = block
    return [copy(u) for u in units], copy(shortcut) if isinstance(shortcut, ConvUnit) else shortcut


def step(
    run: Callable[..., Tensor], x: Tensor, block: Block, dz: Tensor | None, **options: object
) -> tuple[Tensor, list[Tensor]]:
    """z and the gradients of x and of every parameter."""
    x = x.detach().requires_grad_()
    z = run(x, *block, **options)
    dz = torch.ones_like(z) if dz is None else dz.to(z.dtype)
    return z.detach(), list(torch.autograd.grad(z, [x, *parameters(block)], dz))


@pytest.mark.parametrize("name", BLOCKS)
def test_it_equals_the_reference(name: str) -> None:
    block = BLOCKS[name]()
    theirs = copied(block, torch.float64)
    x = torch.randn(2, 16, 7, 6, dtype=torch.float64)
    dz = torch.randn_like(reference.residual_branch(x, *copied(block, torch.float64)))
    ours, gradients = step(ops.residual_branch, x, block, dz, closed_form=True)
    expected, expected_gradients = step(reference.residual_branch, x, theirs, dz)
    torch.testing.assert_close(ours, expected)
    for a, b in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    for u, v in zip(every(block), every(theirs), strict=True):
        torch.testing.assert_close(u.running_mean, v.running_mean)
        torch.testing.assert_close(u.running_var, v.running_var)


@pytest.mark.parametrize("name", BLOCKS)
def test_weights_may_be_parts_of_tensors(name: str) -> None:
    block = BLOCKS[name]()
    theirs = copied(block, torch.float64)
    for u in every(theirs):  # every second column of another tensor
        u.weight = torch.stack([u.weight.detach()] * 2, -1)[..., 0].requires_grad_()
        assert not u.weight.is_contiguous()
    x = torch.randn(2, 16, 7, 6, dtype=torch.float64)
    z, gradients = step(ops.residual_branch, x, theirs, None, closed_form=True)
    expected, expected_gradients = step(ops.residual_branch, x, block, None, closed_form=True)
    assert torch.equal(z, expected)
    for i, (a, b) in enumerate(zip(gradients, expected_gradients, strict=True)):
        assert torch.equal(a, b), f"gradient {i} is another one"


@pytest.mark.parametrize("name", BLOCKS)
def test_first_and_second_derivatives(name: str) -> None:
    block = BLOCKS[name]()
    leaves = [torch.randn(2, 16, 4, 3, dtype=torch.float64, requires_grad=True)]
    # The residual's ReLU and those inside are kinks: keep finite differences away from them.
    gradcheck_op(lambda x: ops.residual_branch(x, *block, closed_form=True), leaves, fast=True)


def test_the_output_before_batch_norm_is_never_stored() -> None:
    units, shortcut = BLOCKS["projection"]()
    low = copied((units, shortcut), torch.float32, torch.bfloat16)
    x = torch.randn(2, 16, 8, 8).to(torch.bfloat16).requires_grad_()
    with emulated() as emulation:
        z = ops.residual_branch(x, *low)
        forward = [launch["kernel"] for launch in emulation.launches()]
        z.sum().backward()
        backward = [launch["kernel"] for launch in emulation.launches()][len(forward) :]
    assert "bn_apply" not in forward, forward
    assert sum(kernel.startswith("conv_fprop_sm80") for kernel in forward) == 2, forward
    assert not any("bn_backward_reduce" in kernel for kernel in backward), backward


def test_six_launches_stand_between_its_passes_over_pixels() -> None:
    low = copied(BLOCKS["identity"](), torch.float32, torch.bfloat16)
    x = torch.randn(2, 16, 8, 8).to(torch.bfloat16).requires_grad_()
    with emulated() as emulation:
        ops.residual_branch(x, *low).sum().backward()
        launched = [launch["kernel"] for launch in emulation.launches()]
    assert [kernel for kernel in launched if kernel.startswith("closed_form")] == [
        "closed_form_finalize_sm80_gemm",
        "closed_form_finalize_statistics",
        "closed_form_backward_reduce",
        "closed_form_backward_finalize_filters_sm80_gemm",
        "closed_form_backward_finalize_operand_sm80_gemm",
        "closed_form_backward_finalize_constant",
    ]
    assert not any(kernel.startswith("conv_") and "simt" in kernel for kernel in launched), launched


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("beta", []),
        ("gamma", ["reduce"]),
        ("weight", ["reduce", "finalize_filters_sm80_gemm"]),
        # Everything that comes before wants the input's gradient.
        (
            "input",
            [
                *("reduce", "finalize_filters_sm80_gemm"),
                *("finalize_operand_sm80_gemm", "finalize_constant"),
            ],
        ),
    ],
)
def test_only_what_is_wanted_is_launched(wanted: str, expected: list[str]) -> None:
    units, shortcut = copied(BLOCKS["identity"](), torch.float32, torch.bfloat16)
    for u in units:
        for t in (u.weight, u.gamma, u.beta):
            assert t is not None
            t.requires_grad_(False)
    first, last = units[0], units[-1]
    leaf = {"beta": last.beta, "gamma": last.gamma, "weight": last.weight, "input": first.gamma}
    assert leaf[wanted] is not None
    leaf[wanted].requires_grad_()
    x = torch.randn(2, 16, 8, 8).to(torch.bfloat16)
    with emulated() as emulation:
        ops.residual_branch(x, units, shortcut).sum().backward()
        launched = [launch["kernel"] for launch in emulation.launches()]
    backward = "closed_form_backward_"
    ours = [kernel.removeprefix(backward) for kernel in launched if kernel.startswith(backward)]
    assert ours == expected


def test_the_switch_forces_either_way() -> None:
    block = BLOCKS["identity"]()
    x = torch.randn(2, 16, 4, 4, dtype=torch.float64)
    for wanted in (None, False, True):
        with emulated() as emulation, torch.no_grad():
            ops.residual_branch(x, *block, closed_form=wanted)
            kernels = [launch["kernel"] for launch in emulation.launches()]
        assert any("gram" in kernel for kernel in kernels) == (wanted is True), (wanted, kernels)


@pytest.mark.parametrize("size", [8, 10])
def test_it_is_chosen_where_rows_outweigh_its_matrices(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 rows for each channel: of 8 channels behind an image of 8x8 too few, of 10x10 enough."""
    monkeypatch.setattr(_closed_form, "ROWS_PER_CHANNEL", ROWS_PER_CHANNEL)
    units, shortcut = copied(bottleneck(1, Identity()), torch.float32, torch.bfloat16)
    x = torch.randn(1, 16, size, size).bfloat16()
    grams = {}
    for wanted in (None, True, False):
        with emulated(count=True) as emulator:
            ops.residual_branch(x, units, shortcut, closed_form=wanted)
            names = [launch["kernel"] for launch in emulator.launches()]
        grams[wanted] = any("bottleneck_gram" in name for name in names)
    expected = {None: size * size >= ROWS_PER_CHANNEL * 8, True: True, False: False}
    assert grams == expected, "only the choice that is left open depends on the image"
