"""ConvBNReLU, BNReLU and AddReLU against their plain twins."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from resnet_cuda import nn as fused_nn
from resnet_cuda import reference
from tests.networks import assert_close, assert_same_pass, randomise, run_pass


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"relu": False},
        {"stride": 2, "padding": 0},
        {"dilation": 2},
        {"groups": 2},
        {"momentum": None, "eps": 1e-2},
    ],
)
def test_conv_bn_relu_equals_its_plain_twin(options: dict[str, object], training: bool) -> None:
    plain = randomise(reference.ConvBNReLU(4, 6, 3, **options)).double().train(training)
    fused = fused_nn.ConvBNReLU(4, 6, 3, **options).double().train(training)
    fused.load_state_dict(plain.state_dict(), strict=True)
    assert fused.blocker() is None
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    assert_same_pass(run_pass(fused, x), run_pass(plain, x))
    residual = torch.randn_like(plain(x))
    assert_close(fused(x, residual), plain(x, residual), "output with a residual")


def test_conv_bn_relu_needs_an_explicit_padding_for_even_kernels() -> None:
    with pytest.raises(ValueError, match="odd kernel_size, got 2"):
        fused_nn.ConvBNReLU(4, 4, 2)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "options", [{}, {"relu": False}, {"affine": False}, {"track_running_stats": False}]
)
def test_bn_relu_equals_its_plain_twin(options: dict[str, object], training: bool) -> None:
    plain = randomise(reference.BNReLU(5, **options)).double().train(training)
    fused = fused_nn.BNReLU(5, **options).double().train(training)
    fused.load_state_dict(plain.state_dict(), strict=True)
    x = torch.randn(3, 5, 4, 6, dtype=torch.float64)
    assert_same_pass(run_pass(fused, x), run_pass(plain, x))
    residual = torch.randn_like(x)
    assert_close(fused(x, residual), plain(x, residual), "output with a residual")


def test_bn_relu_keeps_its_relu_when_converted_to_sync_batch_norm() -> None:
    module = randomise(fused_nn.BNReLU(5)).eval()
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(module))
    x = torch.randn(2, 5, 3, 3)
    torch.testing.assert_close(converted(x), module(x))
    assert converted(x).min() >= 0


def test_add_relu_equals_its_plain_twin() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    out, expected = fused_nn.AddReLU()(x, y), reference.AddReLU()(x, y)
    assert_close(out, expected, "output")
    grad = torch.randn_like(out)
    grads = torch.autograd.grad(out, (x, y), grad)
    for actual, wanted in zip(grads, torch.autograd.grad(expected, (x, y), grad), strict=True):
        assert_close(actual, wanted, "gradient")
