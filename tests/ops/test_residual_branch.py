"""residual_branch and conv_unit: whole blocks against the reference on every backend."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from resnet_cuda import ops, reference
from resnet_cuda.ops import ConvUnit, Identity, NormUnit, ZeroPad
from resnet_cuda.testing import check_rule, gradcheck_op


def unit(
    c: int,
    k: int,
    r: int,
    stride: int = 1,
    *,
    groups: int = 1,
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
    training: bool = False,
    relu: bool = True,
) -> ConvUnit:
    def randn(*sizes: int) -> Tensor:
        return torch.randn(*sizes, device=device, dtype=torch.float64)

    vectors = torch.float64 if dtype == torch.float64 else torch.float32
    return ConvUnit(
        (randn(k, c // groups, r, r) * (2 / (c // groups * r * r)) ** 0.5).to(dtype),
        randn(k).to(vectors),
        randn(k).to(vectors),
        (randn(k) * 0.2).to(vectors),
        (torch.rand(k, device=device) + 0.5).to(vectors),
        stride=(stride, stride),
        padding=(r // 2, r // 2),
        groups=groups,
        training=training,
        relu=relu,
        folded=ops.FoldedConv(),
    )


def block(kind: str, **options: object) -> tuple[list[ConvUnit], object]:
    """(units, shortcut) of a small block that takes 8 channels."""
    if kind == "basic":
        return [unit(8, 8, 3, **options), unit(8, 8, 3, **options)], Identity()
    if kind == "basic down":
        return [unit(8, 12, 3, 2, **options), unit(12, 12, 3, **options)], unit(
            8, 12, 1, 2, **options
        )
    if kind == "basic option A":
        return [unit(8, 12, 3, 2, **options), unit(12, 12, 3, **options)], ZeroPad(2, 12)
    if kind == "plain":
        return [unit(8, 8, 3, **options), unit(8, 8, 3, **options)], None
    if kind == "linear inside":
        units = [unit(8, 8, 3, **options), unit(8, 8, 3, **options), unit(8, 8, 1, **options)]
        units[0].relu = units[1].relu = False
        return units, Identity()
    if kind == "bottleneck":
        return [
            unit(8, 4, 1, **options),
            unit(4, 4, 3, groups=2, **options),
            unit(4, 8, 1, **options),
        ], Identity()
    assert kind == "bottleneck down"
    units = [unit(8, 4, 1, **options), unit(4, 4, 3, 2, **options), unit(4, 16, 1, **options)]
    return units, unit(8, 16, 1, 2, **options)


KINDS = [
    "basic",
    "basic down",
    "basic option A",
    "plain",
    "linear inside",
    "bottleneck",
    "bottleneck down",
]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_equal_the_reference(backend: str, device: str, kind: str, training: bool) -> None:
    units, shortcut = block(kind, device=device, training=training)
    x = torch.randn(2, 8, 7, 6, dtype=torch.float64, device=device)

    def copy(given: object) -> object:
        if not isinstance(given, ConvUnit):
            return given
        assert given.running_mean is not None and given.running_var is not None
        return replace(
            given, running_mean=given.running_mean.clone(), running_var=given.running_var.clone()
        )

    theirs = [copy(u) for u in units], copy(shortcut)
    with torch.no_grad():
        z = ops.residual_branch(x, units, shortcut)
        torch.testing.assert_close(z, reference.residual_branch(x, *theirs))
    for a, b in zip([*units, shortcut], [*theirs[0], theirs[1]], strict=True):
        if isinstance(a, ConvUnit):
            torch.testing.assert_close(a.running_mean, b.running_mean)
            torch.testing.assert_close(a.running_var, b.running_var)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_blocks(backend: str, device: str, kind: str, training: bool) -> None:
    units, shortcut = block(kind, device=device, training=training)
    every = [*units, shortcut] if isinstance(shortcut, ConvUnit) else units
    x = torch.randn(2, 8, 5, 4, dtype=torch.float64, device=device, requires_grad=True)
    leaves = [x]
    for u in every:
        leaves += [u.weight.requires_grad_(), u.gamma.requires_grad_(), u.beta.requires_grad_()]
    dz = None
    grads = []
    for module in (ops, reference):
        z = module.residual_branch(x, units, shortcut)
        dz = torch.randn_like(z) if dz is None else dz
        grads.append(torch.autograd.grad(z, leaves, dz))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_second_derivatives_of_a_block(backend: str, device: str) -> None:
    units, shortcut = block("bottleneck", device=device, training=True)
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64, device=device, requires_grad=True)
    gradcheck_op(lambda x: ops.residual_branch(x, units, shortcut), (x,), fast=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("kind", KINDS)
def test_inference_keeps_the_tolerance_rule(
    backend: str, device: str, kind: str, channels_last: bool, dtype: torch.dtype
) -> None:
    fmt = torch.channels_last if channels_last else torch.contiguous_format
    units, shortcut = block(kind, device=device, dtype=dtype)
    x = torch.randn(2, 8, 9, 8, device=device).to(dtype).contiguous(memory_format=fmt)
    before = x.clone()

    def exact(given: object) -> object:
        if not isinstance(given, ConvUnit):
            return given
        return replace(
            given,
            **{
                name: getattr(given, name).double()
                for name in ("weight", "gamma", "beta", "running_mean", "running_var")
            },
        )

    with torch.no_grad():
        z = ops.residual_branch(x, units, shortcut)
        torchs = reference.residual_branch(x, units, shortcut)
        truth = reference.residual_branch(x.double(), [exact(u) for u in units], exact(shortcut))
    check_rule(z, torchs, truth)
    assert z.is_contiguous(memory_format=fmt)
    assert torch.equal(x, before), "the input was overwritten although it was not donated"


def test_a_donated_input_gives_the_same_result() -> None:
    units, shortcut = block("bottleneck", dtype=torch.float32)
    units[1] = unit(4, 4, 3, dtype=torch.float32)
    x = torch.randn(2, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = ops.residual_branch(x, units, shortcut)
        donated = ops.residual_branch(
            x.clone(memory_format=torch.channels_last), units, shortcut, donate_input=True
        )
    torch.testing.assert_close(donated, expected)


def test_a_donated_input_is_left_alone_when_gradients_are_wanted() -> None:
    units, shortcut = block("basic", dtype=torch.float32)
    x = torch.randn(2, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    units[0].weight.requires_grad_()
    ops.residual_branch(x, units, shortcut, donate_input=True).sum().backward()
    assert torch.equal(x, before)


def test_the_last_units_relu_flag_is_ignored() -> None:
    units, shortcut = block("basic")
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64)
    expected = ops.residual_branch(x, units, shortcut)
    units[-1] = replace(units[-1], relu=False)
    assert torch.equal(ops.residual_branch(x, units, shortcut), expected)


def test_conv_unit_honours_its_flag_and_residual(backend: str, device: str) -> None:
    u = unit(8, 6, 3, device=device, relu=False)
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64, device=device)
    residual = torch.randn(2, 6, 5, 5, dtype=torch.float64, device=device)
    z = ops.conv_unit(x, u, residual)
    torch.testing.assert_close(z, reference.conv_unit(x, u, residual))
    assert (z < 0).any()


def test_bad_descriptions_are_refused() -> None:
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64)
    units, _ = block("basic")
    with pytest.raises(ValueError, match="units is empty"):
        ops.residual_branch(x, [], Identity())
    with pytest.raises(TypeError, match="shortcut is a str"):
        ops.residual_branch(x, units, "A")
    with pytest.raises(ValueError, match="out_channels is 4; accepted: at least x's 8"):
        ops.residual_branch(x, units, ZeroPad(1, 4))
    with pytest.raises(ValueError, match="residual has shape"):
        ops.residual_branch(x, units, ZeroPad(2, 8))


def test_empty_batch(backend: str, device: str) -> None:
    for kind in KINDS:
        units, shortcut = block(kind, device=device, training=True)
        x = torch.randn(0, 8, 8, 8, dtype=torch.float64, device=device, requires_grad=True)
        z = ops.residual_branch(x, units, shortcut)
        z.sum().backward()
        assert z.shape[0] == 0 and x.grad is not None and x.grad.shape == x.shape


class _Sizes(TorchDispatchMode):
    """The elements of every floating-point tensor that an op makes, by the op's name."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(t, Tensor) and t.is_floating_point() and not t._is_view():
                self.made.append((str(func), t.numel()))
        return out


@pytest.mark.parametrize("preactivated", [False, True], ids=["block", "preactivated"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_option_a_stores_neither_the_padded_tensor_nor_its_spread_gradient(
    backend: str, device: str, training: bool, preactivated: bool
) -> None:
    made = []
    for pads in (True, False):
        options = {"device": device, "dtype": torch.float32, "training": training}
        units = [unit(8, 8, 3, 2, **options), unit(8, 16, 3, **options)]
        x = torch.randn(2, 8, 9, 9).to(device, memory_format=torch.channels_last)
        entry = None
        if preactivated:
            units[-1] = ConvUnit(units[-1].weight, *(None,) * 4, padding=1, batch_norm=False)
            norms = [torch.rand(8, device=device) + 0.5 for _ in range(4)]
            entry = NormUnit(*norms, training=training)
        x.requires_grad_(training)
        with _Sizes() as sizes, torch.set_grad_enabled(training):
            z = ops.residual_branch(
                x, units, ZeroPad(2, 16) if pads else None, entry=entry, relu=not preactivated
            )
            if training:
                torch.autograd.grad(z, x, torch.ones_like(z))
        made.append([(op, n) for op, n in sizes.made if n >= z.numel()])
    more = {op for op, _ in made[0]} - {op for op, _ in made[1]}
    if preactivated:
        more -= {
            "resnet_cuda._bn_apply.default"
        }  # the sum: no convolution that normalises on load adds a sample
    assert not more, (
        f"option A makes whole tensors that a block without a shortcut does not: {more}"
    )
