"""bottleneck_reduce, bottleneck_expand, and one behind the other, on every backend."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from resnet_cuda import _raw, ops, reference
from resnet_cuda.testing import emulated, gradcheck_op


def conv_bn(c: int, k: int, device: str, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    weight = torch.randn(k, c, 1, 1, dtype=dtype, device=device, requires_grad=True)
    gamma = torch.randn(k, dtype=dtype, device=device, requires_grad=True)
    beta = torch.randn(k, dtype=dtype, device=device, requires_grad=True)
    mean = torch.randn(k, dtype=dtype, device=device)
    var = torch.rand(k, dtype=dtype, device=device) + 0.5
    return [weight, gamma, beta, mean, var]


@pytest.mark.parametrize(("training", "stride"), [*itertools.product((False, True), (1, 2))])
def test_reduce(backend: str, device: str, training: bool, stride: int) -> None:
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64, device=device, requires_grad=True)
    *parameters, mean, var = conv_bn(5, 3, device)

    def op(*given: Tensor, module: object = ops) -> Tensor:
        return module.bottleneck_reduce(  # type: ignore[attr-defined]
            *given, mean.clone(), var.clone(), stride=stride, training=training
        )

    torch.testing.assert_close(op(x, *parameters), op(x, *parameters, module=reference))
    with torch.no_grad():
        torch.testing.assert_close(op(x, *parameters), op(x, *parameters, module=reference))
    gradcheck_op(op, (x, *parameters), fast=backend != "cpu")


@pytest.mark.parametrize(("training", "projected"), [*itertools.product((False, True), repeat=2)])
def test_expand(backend: str, device: str, training: bool, projected: bool) -> None:
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, device=device, requires_grad=True)
    *parameters, mean, var = conv_bn(3, 6, device)
    *shortcut, shortcut_mean, shortcut_var = conv_bn(4, 6, device)
    shape = (2, 4, 4, 3) if projected else (2, 6, 2, 2)
    residual = torch.randn(shape, dtype=torch.float64, device=device, requires_grad=True)

    def op(x: Tensor, residual: Tensor, *given: Tensor, module: object = ops) -> Tensor:
        main, side = given[:3], given[3:]
        projection = None
        if projected:
            statistics = shortcut_mean.clone(), shortcut_var.clone()
            projection = ops.ConvUnit(*side, *statistics, stride=(2, 2), training=training)
        return module.bottleneck_expand(  # type: ignore[attr-defined]
            x,
            *main,
            mean.clone(),
            var.clone(),
            residual,
            projection=projection,
            training=training,
        )

    inputs = (x, residual, *parameters, *(shortcut if projected else ()))
    torch.testing.assert_close(op(*inputs), op(*inputs, module=reference))
    with torch.no_grad():
        torch.testing.assert_close(op(*inputs), op(*inputs, module=reference))
    gradcheck_op(op, inputs, fast=True)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_expand_and_the_next_reduce(backend: str, device: str, training: bool) -> None:
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, device=device, requires_grad=True)
    residual = torch.randn(2, 6, 2, 2, dtype=torch.float64, device=device, requires_grad=True)
    *expand, mean, var = conv_bn(3, 6, device)
    *reduce, next_mean, next_var = conv_bn(6, 4, device)

    def op(x: Tensor, residual: Tensor, *given: Tensor, module: object = ops) -> tuple:
        units = [
            ops.ConvUnit(*vectors, *(s.clone() for s in statistics), training=training)
            for vectors, statistics in (
                (given[:3], (mean, var)),
                (given[3:], (next_mean, next_var)),
            )
        ]
        return module.bottleneck_expand_reduce(x, units[0], residual, units[1])  # type: ignore[attr-defined]

    inputs = (x, residual, *expand, *reduce)
    torch.testing.assert_close(op(*inputs), op(*inputs, module=reference))
    with torch.no_grad():
        torch.testing.assert_close(op(*inputs), op(*inputs, module=reference))
    gradcheck_op(lambda *given: torch.cat(op(*given), 1), inputs, fast=True)


CHAINED = "bottleneck_expand_reduce_sm90_gemm"


def chained(
    dtype: torch.dtype = torch.bfloat16, **reduce: object
) -> tuple[list[str], tuple[Tensor, Tensor]]:
    """The kernels of an inference call that one can serve, and its results."""
    units = []
    for c, k in ((64, 128), (128, 64)):
        weight, *vectors = (t.detach() for t in conv_bn(c, k, "cpu", dtype))
        units.append(ops.ConvUnit(weight, *(v.float() for v in vectors)))
    for name, value in reduce.items():
        setattr(units[1], name, value)
    x, residual = torch.randn(2, 64, 6, 5).to(dtype), torch.randn(2, 128, 6, 5).to(dtype)
    with emulated() as emulation:
        results = ops.bottleneck_expand_reduce(x, units[0], residual, units[1])
        return [launch["kernel"] for launch in emulation.launches()], results


@pytest.mark.skipif(not _raw.is_built(), reason="the extension is not built")
def test_expand_and_the_next_reduce_are_one_launch_at_inference_in_16_bits() -> None:
    kernels, (y, z) = chained()
    assert kernels == [CHAINED]
    assert y.is_contiguous() and z.is_contiguous(), "both come in the layout of x"
    assert CHAINED not in chained(torch.float32)[0], "there is no such kernel in float32"
    assert CHAINED not in chained(training=True)[0], "batch statistics need the whole of y"
    assert CHAINED not in chained(stride=(2, 2))[0]


def test_the_next_reduce_s_wrong_arguments_are_named(backend: str, device: str) -> None:
    def unit(c: int, k: int, size: int = 1) -> ops.ConvUnit:
        vectors = [torch.ones(k, device=device)] * 4
        return ops.ConvUnit(torch.randn(k, c, size, size, device=device), *vectors)

    x, residual = (torch.randn(1, c, 4, 4, device=device) for c in (3, 6))
    with torch.no_grad():
        with pytest.raises(ValueError, match=r"weight has shape \[2, 6, 3, 3\]; accepted"):
            ops.bottleneck_expand_reduce(x, unit(3, 6), residual, unit(6, 2, 3))
        with pytest.raises(ValueError, match="weight has shape"):
            ops.bottleneck_expand_reduce(x, unit(3, 6), residual, unit(5, 2))
        with pytest.raises(ValueError, match="residual has shape"):
            ops.bottleneck_expand_reduce(x, unit(3, 6), x, unit(6, 2))


def test_other_kernels_are_refused(backend: str, device: str) -> None:
    x = torch.randn(1, 3, 4, 4, device=device)
    weight = torch.randn(3, 3, 3, 3, device=device)
    vectors = [torch.ones(3, device=device)] * 4
    with pytest.raises(
        ValueError, match=r"weight has shape \[3, 3, 3, 3\]; accepted: \[K, C, 1, 1\]"
    ):
        ops.bottleneck_reduce(x, weight, *vectors)
    with pytest.raises(ValueError, match=r"weight has shape"):
        ops.bottleneck_expand(x, weight, *vectors, x)
    with pytest.raises(ValueError, match="stride is"):
        ops.bottleneck_reduce(x, torch.randn(3, 3, 1, 1, device=device), *vectors, stride=(1, 2))


@pytest.mark.skipif(not _raw.is_built(), reason="the extension is not built")
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_16_bit_backward_stores_no_gradient_between_batch_norm_and_convolution(
    training: bool,
) -> None:
    weight, gamma, beta, mean, var = conv_bn(16, 24, "cpu", torch.bfloat16)
    vectors = [v.detach().float().requires_grad_() for v in (gamma, beta)]
    x = torch.randn(2, 16, 5, 4).bfloat16().requires_grad_()
    inputs = [x, weight, *vectors]

    def gradients() -> tuple[tuple[Tensor, ...], list[str]]:
        with emulated() as emulation:
            statistics = mean.float(), var.float()
            z = ops.bottleneck_reduce(*inputs, *statistics, training=training)
            forward = len(emulation.launches())
            found = torch.autograd.grad(z.float().square().sum(), inputs)
            return found, [launch["kernel"] for launch in emulation.launches()[forward:]]

    fused, kernels = gradients()
    assert not any("backward_apply" in kernel for kernel in kernels), kernels
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resnet_cuda.ops._kernel_passes._is_loaded_once", lambda *_: False)
        stored, kernels = gradients()
    assert any("backward_apply" in kernel for kernel in kernels), kernels
    for index, (a, b) in enumerate(zip(fused, stored, strict=True)):
        assert torch.equal(a, b), f"gradient {index} differs from that of a stored one"
