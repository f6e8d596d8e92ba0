"""The 2x rule on the distinct convolutions of ResNet-50 and the grouped ones of ResNeXt-50 32x4d: every pass in
float32, bfloat16 and float16 against fp64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from passes import Conv, conv_of, rows, vector
from torch import Tensor

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)
from resnet_cuda.testing import check_gradient_rule, check_rule, problems

raw = torch.ops.resnet_cuda
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


LAYERS = [conv_of(problem) for problem in problems.resnet_layers(50)]
# Twice as wide as ResNet-50's 3x3 convolutions, in 32 groups (Xie et al. 2017, table 1).
GROUPED = [replace(c, c=2 * c.c, k=2 * c.k, groups=32) for c in LAYERS if c.r == 3]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("conv", [*LAYERS, *GROUPED], ids=str)
def test_resnet50_convolutions_obey_the_2x_rule(
    conv: Conv, dtype: torch.dtype, device: str
) -> None:
    x, weight, dy = conv.random(dtype)
    x_, weight_, dy_ = (t.to(device) for t in (x, weight, dy))
    wide = [t.double() for t in (x, weight, dy)]

    y, partials, _ = raw._conv_fprop(
        x_, weight_, None, None, None, None, None, False, *conv.geometry, True
    )
    check_rule(y.cpu(), conv.forward(x, weight), conv.forward(*wide[:2]), name="y")
    mean, invstd, _, _ = raw._bn_finalize(
        partials, rows(y).shape[0], None, None, None, None, 0.1, 1e-5
    )
    exact = rows(y.cpu().double())
    _, torchs_mean, torchs_invstd = torch.native_batch_norm(
        y.cpu(), None, None, None, None, True, 0.1, 1e-5
    )
    check_rule(mean.cpu(), torchs_mean.float(), exact.mean(0), name="mean")
    exact_invstd = (exact.var(0, unbiased=False) + 1e-5).rsqrt()
    check_rule(invstd.cpu(), torchs_invstd.float(), exact_invstd, name="invstd")

    dweight = raw._conv_wgrad(dy_, x_, list(weight.shape), None, None, *conv.geometry)
    torchs, truth = conv.wgrad(dy, x), conv.wgrad(wide[2], wide[0])
    check_gradient_rule(dweight.cpu(), torchs, truth, name="dweight")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "conv", [*LAYERS[1:], *GROUPED], ids=str
)  # the image itself needs no gradient
def test_resnet50_input_gradients_obey_the_2x_rule(
    conv: Conv, dtype: torch.dtype, device: str
) -> None:
    _, weight, dy = conv.random(dtype)
    size = [conv.n, conv.c, conv.h, conv.w]
    dx, _ = raw._conv_dgrad(
        dy.to(device), weight.to(device), size, None, None, None, None, None, *conv.geometry
    )
    truth = conv.dgrad(dy.double(), weight.double())
    check_gradient_rule(dx.cpu(), conv.dgrad(dy, weight), truth, name="dx")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_batch_norm_and_its_backward_obey_the_2x_rule(dtype: torch.dtype, device: str) -> None:
    conv = Conv(4, 64, 14, 14, 64)
    y, _, dz = conv.random(dtype)
    gamma, beta = vector(64, dtype, 1), vector(64, dtype, 2)
    count = 4 * 14 * 14

    def reference(y: Tensor, gamma: Tensor, beta: Tensor, dz: Tensor) -> list[Tensor]:
        leaves = [t.detach().clone().requires_grad_() for t in (y, gamma, beta)]
        z = torch.relu(torch.nn.functional.batch_norm(leaves[0], None, None, *leaves[1:], True))
        return [z.detach(), *torch.autograd.grad(z, leaves, dz)]

    truth = reference(*(t.double() for t in (y, gamma, beta, dz)))
    torchs = reference(y, gamma, beta, dz)
    y_, dz_, gamma_, beta_ = (t.to(device) for t in (y, dz, gamma, beta))
    partials = raw._bn_statistics(y_)
    mean, invstd, scale, bias = raw._bn_finalize(
        partials, count, gamma_, beta_, None, None, 0.1, 1e-5
    )
    z, mask = raw._bn_apply(y_, scale, bias, None, True, True)
    sums = raw._bn_backward_reduce(dz_, y_, mean, mask, None, None)
    dgamma, dbeta, coefficients = raw._bn_backward_finalize(sums, count, gamma_, mean, invstd, True)
    dy, _ = raw._bn_backward_apply(dz_, y_, mask, None, None, coefficients, False)
    check_rule(z.cpu(), torchs[0], truth[0], name="z")
    for name, ours, index in (("dy", dy, 1), ("dgamma", dgamma, 2), ("dbeta", dbeta, 3)):
        check_gradient_rule(ours.cpu(), torchs[index], truth[index], name=name)
