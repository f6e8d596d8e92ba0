"""Batch norm's passes against their formulas in fp64, also where tiles and channels do not divide evenly."""

from __future__ import annotations

import pytest
import torch
from passes import nhwc, pack_mask, per_channel, rows, tile_statistics, tile_sums, vector
from torch import Tensor

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)

raw = torch.ops.resnet_cuda

SHAPES = [(2, 64, 8, 8), (1, 3, 1, 2), (3, 5, 7, 9), (2, 130, 5, 5), (1, 33, 13, 11)]
EPS = 1e-5


@pytest.fixture(params=SHAPES, ids=str)
def shape(request: pytest.FixtureRequest) -> tuple[int, int, int, int]:
    return request.param


def activations(
    shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return nhwc((torch.randn(shape, generator=g, dtype=torch.float64) * 2 + 1).to(dtype))


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(actual.cpu(), expected, rtol=tolerance, atol=tolerance)


def test_statistics_are_mean_and_m2_of_each_row_tile(shape: tuple[int, ...], device: str) -> None:
    y = activations(shape)
    close(raw._bn_statistics(y.to(device)), tile_statistics(y))


def test_finalize_gives_the_batch_statistics_and_updates_the_running_ones(
    shape: tuple[int, ...], device: str
) -> None:
    y, channels = activations(shape), shape[1]
    gamma, beta = vector(channels, y.dtype, 1), vector(channels, y.dtype, 2)
    running_mean, running_var = vector(channels, y.dtype, 3), vector(channels, y.dtype, 4, 0.5, 2.0)
    to = [t.to(device) for t in (gamma, beta, running_mean.clone(), running_var.clone())]
    count = rows(y).shape[0]
    mean, invstd, scale, bias = raw._bn_finalize(
        raw._bn_statistics(y.to(device)), count, *to, 0.3, EPS
    )
    var = rows(y).var(0, unbiased=False)
    close(mean, rows(y).mean(0))
    close(invstd, (var + EPS).rsqrt())
    close(scale, gamma * (var + EPS).rsqrt())
    close(bias, beta - gamma * (var + EPS).rsqrt() * rows(y).mean(0))
    close(to[2], 0.7 * running_mean + 0.3 * rows(y).mean(0))
    close(to[3], 0.7 * running_var + 0.3 * rows(y).var(0, unbiased=True))


def test_finalize_without_affine_or_running_statistics(device: str) -> None:
    y = activations((2, 7, 3, 3))
    partials = raw._bn_statistics(y.to(device))
    mean, invstd, scale, bias = raw._bn_finalize(partials, 18, None, None, None, None, 0.1, EPS)
    close(scale, invstd.cpu())
    close(bias, (-mean * invstd).cpu())


def test_statistics_survive_a_mean_far_above_the_deviation(device: str) -> None:
    g = torch.Generator().manual_seed(0)
    y = nhwc((torch.randn(4, 8, 16, 16, generator=g) + 1000.0).float())
    partials = raw._bn_statistics(y.to(device))
    _, invstd, _, _ = raw._bn_finalize(partials, 4 * 256, None, None, None, None, 0.1, 0.0)
    expected = rows(y.double()).var(0, unbiased=False).rsqrt()
    error = (invstd.cpu().double() / expected - 1).abs().max().item()
    assert error < 1e-5, (
        f"invstd is off by {error:.1e} at mean/std 1000: the tiles must be centred before squaring"
    )


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
def test_apply_normalises_adds_activates_and_keeps_the_mask(
    shape: tuple[int, ...], device: str, relu: bool, with_residual: bool
) -> None:
    y, residual = activations(shape), activations(shape, 1)
    scale, bias = vector(shape[1], y.dtype, 1), vector(shape[1], y.dtype, 2)
    z, mask = raw._bn_apply(
        y.to(device),
        scale.to(device),
        bias.to(device),
        residual.to(device) if with_residual else None,
        relu,
        True,
    )
    expected = y * per_channel(scale) + per_channel(bias) + (residual if with_residual else 0.0)
    close(z, torch.relu(expected) if relu else expected)
    assert torch.equal(mask.cpu(), pack_mask(expected > 0)), "the mask marks what the ReLU passes"


@pytest.mark.parametrize("gate", ["none", "mask", "recomputed"])
@pytest.mark.parametrize("training", [False, True])
def test_backward_is_batch_norms_gradient(
    shape: tuple[int, ...], device: str, gate: str, training: bool
) -> None:
    y, dz, channels = activations(shape).requires_grad_(), activations(shape, 1), shape[1]
    gamma = vector(channels, y.dtype, 1).requires_grad_()
    beta = vector(channels, y.dtype, 2).requires_grad_()
    running_mean, running_var = vector(channels, y.dtype, 3), vector(channels, y.dtype, 4, 0.5, 2.0)
    normalised = torch.nn.functional.batch_norm(
        y, running_mean.clone(), running_var.clone(), gamma, beta, training, 0.1, EPS
    )
    activated = normalised if gate == "none" else torch.relu(normalised)
    expected = torch.autograd.grad(activated, (y, gamma, beta), dz)

    y_, flat = y.detach(), rows(y.detach())
    mean = flat.mean(0) if training else running_mean
    var = flat.var(0, unbiased=False) if training else running_var
    invstd = (var + EPS).rsqrt()
    scale = gamma.detach() * invstd
    bias = beta.detach() - scale * mean
    mask = pack_mask(normalised.detach() > 0).to(device) if gate == "mask" else None
    vectors = [scale.to(device), bias.to(device)] if gate == "recomputed" else [None, None]
    on = [t.to(device) for t in (dz, y_, mean, invstd, gamma.detach())]
    partials = raw._bn_backward_reduce(on[0], on[1], on[2], mask, *vectors)
    dgamma, dbeta, coefficients = raw._bn_backward_finalize(
        partials, flat.shape[0], on[4], on[2], on[3], training
    )
    dy, dresidual = raw._bn_backward_apply(on[0], on[1], mask, *vectors, coefficients, True)
    close(dy, expected[0], 1e-9)
    addend = activations(shape, 2)
    both, _ = raw._bn_backward_apply(
        on[0], on[1], mask, *vectors, coefficients, False, addend=addend.to(device)
    )
    close(both, expected[0] + addend, 1e-9)
    close(dgamma, expected[1], 1e-10)
    close(dbeta, expected[2], 1e-10)
    gated = dz if gate == "none" else torch.where(normalised > 0, dz, 0.0)
    close(dresidual, gated.detach())


def test_backward_reduce_gives_the_sums_of_each_row_tile(device: str) -> None:
    y, dz = activations((2, 5, 9, 7)), activations((2, 5, 9, 7), 1)
    mean = vector(5, y.dtype, 1)
    partials = raw._bn_backward_reduce(
        dz.to(device), y.to(device), mean.to(device), None, None, None
    )
    close(partials, tile_sums(dz, dz * (y - per_channel(mean))))


def test_nan_passes_through_apply_and_its_mask(device: str) -> None:
    y = torch.full((1, 2, 2, 2), float("nan"), dtype=torch.float32)
    one = torch.ones(2)
    z, mask = raw._bn_apply(nhwc(y).to(device), one.to(device), one.to(device), None, True, True)
    assert z.isnan().all(), "relu(NaN) is NaN, as in torch"
    assert mask.tolist() == [0xFF], "the gradient passes where the output is NaN, as in torch"


def test_eval_backward_does_not_turn_infinite_outputs_into_nan(device: str) -> None:
    y = nhwc(torch.full((1, 2, 2, 2), float("inf")))
    dz = nhwc(torch.ones(1, 2, 2, 2))
    coefficients = torch.tensor([[2.0, 2.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    dy, _ = raw._bn_backward_apply(
        dz.to(device), y.to(device), None, None, None, coefficients.to(device), False
    )
    assert torch.equal(dy.cpu(), 2 * dz), "eval mode's gradient does not depend on y"
