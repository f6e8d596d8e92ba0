"""Small problems for the shipped kernels, one launch each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import conv1d, conv2d, max_pool2d

from tests.reference_kernels import problems
from tests.reference_kernels.launch import Input, Output
from tests.reference_kernels.problems import (
    BFLOAT16,
    FLOAT32,
    FLOAT64,
    Problem,
    normalised,
    product,
)

SIMT, SM80 = "mutation_simt", "mutation_sm80"
FIRST = "first_kernel"


def scale_matrix() -> Problem:
    x = problems.random_tensor(1, 20, 100, dtype=FLOAT32)
    y = 3 * x.double()
    return Problem(
        "scale",
        FIRST,
        "scale",
        (Output("y", tuple(x.shape), FLOAT32), Input("x", x)),
        (*x.shape, 3),
        (y,),
        (problems.allowance(y, y.abs(), FLOAT32),),
    )


def conv_with_statistics() -> Problem:
    pixels, channels, filters = 100, 40, 70
    x = problems.random_tensor(1, pixels, channels, dtype=FLOAT32)
    weight = problems.random_tensor(2, filters, channels, dtype=FLOAT32)
    return with_statistics("conv_with_statistics", SIMT, FLOAT32, product(x, weight), x, weight)


def depthwise_conv_with_statistics() -> Problem:
    # More taps than are published at once, two parts of 64 rows, and a second tile of channels.
    pixels, channels, taps = 100, 70, 67
    x = problems.random_tensor(1, pixels, channels, dtype=FLOAT32)
    weight = problems.random_tensor(2, channels, taps, dtype=FLOAT32)

    def convolved(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return conv1d(x.double().T, weight.double()[:, None], padding=taps // 2, groups=channels).T

    exact = convolved(x, weight), convolved(x.abs(), weight.abs())
    name = "depthwise_conv_with_statistics"
    return with_statistics(name, SIMT, FLOAT32, exact, x, weight, numbers=(pixels, channels, taps))


def normalised_conv_with_statistics(
    name: str, dtype: torch.dtype, channels: int, filters: int
) -> Problem:
    pixels = 190
    x = problems.random_tensor(1, pixels, channels, dtype=dtype)
    weight = multiplied(problems.random_tensor(2, filters, channels, dtype=dtype))
    scale = problems.random_tensor(3, channels, dtype=FLOAT32)
    bias = problems.random_tensor(4, channels, dtype=FLOAT32)
    activation = multiplied(normalised(x, scale, bias))
    exact = product(activation, weight)
    return with_statistics(name, SM80, dtype, exact, x, weight, scale=scale, bias=bias)


def multiplied(operand: torch.Tensor) -> torch.Tensor:
    """What tensor cores multiply."""
    return problems.rounded_to_tf32(operand) if operand.dtype == FLOAT32 else operand


def normalised_weight_gradient(
    name: str, dtype: torch.dtype, channels: int, filters: int
) -> Problem:
    pixels = 230
    dy = problems.random_tensor(1, pixels, filters, dtype=dtype)
    x = problems.random_tensor(2, pixels, channels, dtype=dtype)
    scale = problems.random_tensor(3, channels, dtype=FLOAT32)
    bias = problems.random_tensor(4, channels, dtype=FLOAT32)
    dweight, magnitude = product(multiplied(dy).T, multiplied(normalised(x, scale, bias)).T)
    return Problem(
        name,
        SM80,
        name,
        (
            Output("dweight", (filters, channels), FLOAT32),
            Input("dy", dy),
            Input("x", x),
            Input("scale", scale),
            Input("bias", bias),
        ),
        (pixels, channels, filters),
        (dweight,),
        (problems.allowance(dweight, magnitude, FLOAT32),),
    )


def with_statistics(
    name: str,
    library: str,
    dtype: torch.dtype,
    exact: tuple[torch.Tensor, torch.Tensor],
    x: torch.Tensor,
    weight: torch.Tensor,
    numbers: tuple[int, ...] = (),
    order: torch.Tensor | None = None,
    **more: torch.Tensor,
) -> Problem:
    """exact: the output [pixels, filters], and the sum of its products' magnitudes. numbers: pixels, channels, filters
    unless given. order: in which tiles take the pixels, if not as they come."""
    tile = 64
    y, magnitude = exact
    ordered = y if order is None else y[order]
    partials = torch.stack(
        [
            statistic
            for rows in ordered.split(tile)
            for statistic in (rows.mean(0), (rows - rows.mean(0)).square().sum(0))
        ]
    )
    rounding = 1e-5 + torch.finfo(dtype).eps
    return Problem(
        name,
        library,
        name,
        (
            Output("y", tuple(y.shape), dtype),
            Output("partials", tuple(partials.shape), FLOAT32),
            Input("x", x),
            Input("weight", weight),
            *(Input(name, tensor) for name, tensor in more.items()),
        ),
        numbers or (*x.shape, weight.shape[0]),
        (y, partials),
        (problems.allowance(y, magnitude, dtype), rounding + rounding * partials.abs()),
    )


def bn_finalize() -> Problem:
    tiles, channels, rows = 19, 37, 19 * 64
    mean = problems.random_tensor(1, tiles, channels, dtype=FLOAT32)
    m2 = problems.random_tensor(2, tiles, channels, dtype=FLOAT32).square() * 64
    gamma = problems.random_tensor(3, channels, dtype=FLOAT32)
    beta = problems.random_tensor(4, channels, dtype=FLOAT32)
    common = mean.double().mean(0)
    variance = (m2.double() + 64 * (mean.double() - common).square()).sum(0) / rows
    invstd = (variance + 1e-5).rsqrt()
    scale = gamma.double() * invstd
    expected = (common, invstd, scale, beta.double() - scale * common)
    names = ("mean", "invstd", "scale", "bias")
    return Problem(
        "bn_finalize",
        SIMT,
        "bn_finalize",
        (
            *(Output(name, (channels,), FLOAT32) for name in names),
            Input("partials", torch.stack([mean, m2], 1)),
            Input("gamma", gamma),
            Input("beta", beta),
        ),
        (rows, tiles, channels),
        expected,
        tuple(1e-6 + 1e-6 * values.abs() for values in expected),
    )


def bn_backward_finalize() -> Problem:
    tiles, channels, rows = 19, 37, 19 * 64
    partials = problems.random_tensor(1, tiles, 2, channels, dtype=FLOAT32)
    vectors = {
        name: problems.random_tensor(seed, channels, dtype=FLOAT32)
        for seed, name in enumerate(("gamma", "mean", "invstd"), 2)
    }
    gamma, mean, invstd = (vector.double() for vector in vectors.values())
    dbeta, moment = partials.double().sum(0)
    dgamma, c0 = moment * invstd, gamma * invstd
    coefficients = torch.stack([c0, -c0 * invstd * dgamma / rows, -c0 * dbeta / rows, mean])
    expected = (dgamma, dbeta, coefficients)
    return Problem(
        "bn_backward_finalize",
        SIMT,
        "bn_backward_finalize",
        (
            *(
                Output(name, tuple(values.shape), FLOAT32)
                for name, values in zip(("dgamma", "dbeta", "coefficients"), expected, strict=True)
            ),
            Input("partials", partials),
            *(Input(name, vector) for name, vector in vectors.items()),
        ),
        (rows, tiles, channels),
        expected,
        tuple(1e-6 + 1e-6 * values.abs() for values in expected),
    )


def sum_splits() -> Problem:
    parts = problems.random_tensor(1, 5, 300, dtype=FLOAT32)
    total = parts.double().sum(0)
    return Problem(
        "sum_splits",
        SIMT,
        "sum_splits",
        (Output("sum", tuple(total.shape), FLOAT32), Input("parts", parts)),
        (total.numel(), len(parts)),
        (total,),
        (problems.allowance(total, parts.double().abs().sum(0), FLOAT32),),
    )


def sum_products() -> Problem:
    rows, columns, count = 20, 15, 5
    parts = problems.random_tensor(1, count, rows * columns + rows, dtype=FLOAT32)
    total = parts.double().sum(0)
    expected = total[: rows * columns].view(rows, columns), total[rows * columns :]
    return Problem(
        "sum_products",
        SIMT,
        "sum_products",
        (
            Output("product", (rows, columns), FLOAT64),
            Output("sums", (rows,), FLOAT64),
            Input("parts", parts),
        ),
        (rows, columns, count),
        expected,
        tuple(1e-13 + 1e-13 * values.abs() for values in expected),
    )


def pooled_stem(size: int, filters: int) -> Problem:
    x = problems.random_tensor(1, 1, size, size, 3, dtype=BFLOAT16)
    weight = problems.random_tensor(2, filters, 7, 7, 3, dtype=BFLOAT16)
    scale, bias = (problems.random_tensor(seed, filters, dtype=FLOAT32) for seed in (3, 4))

    def pooled(change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        nchw = [change(t.double()).permute(0, 3, 1, 2) for t in (x, weight)]
        y = conv2d(*nchw, stride=2, padding=3).permute(0, 2, 3, 1)
        z = torch.relu(y * change(scale.double()) + change(bias.double()))
        return max_pool2d(z.permute(0, 3, 1, 2), 3, 2, 1).permute(0, 2, 3, 1)

    y = pooled(lambda t: t)
    return Problem(
        "pooled_stem",
        SM80,
        "pooled_stem",
        (
            Output("y", tuple(y.shape), BFLOAT16),
            Input("x", x),
            Input("weight", weight),
            Input("scale", scale),
            Input("bias", bias),
        ),
        (size, filters),
        (y,),
        (problems.allowance(y, pooled(torch.abs), BFLOAT16),),
    )


def global_avg_pool() -> Problem:
    images, pixels, channels = 2, 35, 40
    x = problems.random_tensor(1, images, pixels, channels, dtype=FLOAT32)
    y = x.double().mean(1)
    return Problem(
        "global_avg_pool",
        SIMT,
        "global_avg_pool",
        (Output("y", (images, channels), FLOAT32), Input("x", x)),
        (images, pixels, channels),
        (y,),
        (torch.full_like(y, 1e-6),),
    )


def closed_form_finalize(filters: int, channels: int) -> Problem:
    rows, tile = 50, 64
    a = problems.random_tensor(1, rows, channels, dtype=FLOAT64)
    weight = problems.random_tensor(2, filters, channels, dtype=FLOAT32)
    shift = problems.random_tensor(3, channels, dtype=FLOAT32)
    w, sums, gram = weight.double(), a.sum(0), a.T @ a
    mean = sums / rows
    terms = torch.stack(
        [
            w @ (gram - rows * torch.outer(mean, mean)),
            mean.expand_as(w),
            shift.double().expand_as(w),
        ]
    )
    partials = torch.stack([part.sum(2) for part in (terms * w).split(tile, dim=2)])
    squares, shifted, of_shift = partials.sum(0)
    invstd = (squares / rows + 1e-5).rsqrt()
    expected = (partials, mean, shifted + of_shift, invstd, invstd, -invstd * shifted)
    names = ("partials", "mean", "output_mean", "invstd", "scale", "bias")
    dtypes = (*(FLOAT64,) * 4, *(FLOAT32,) * 2)
    return Problem(
        "closed_form_finalize",
        SM80,
        "closed_form_finalize",
        (
            *(
                Output(n, tuple(t.shape), d)
                for n, t, d in zip(names, expected, dtypes, strict=True)
            ),
            Input("weight", weight),
            *(Input(n, t) for n, t in (("sums", sums), ("gram", gram), ("shift", shift))),
        ),
        (filters, channels, rows),
        expected,
        tuple(1e-6 + 1e-6 * values.abs() for values in expected),
    )


def closed_form_backward(filters: int, channels: int) -> Problem:
    rows, tile = 50, 64
    a = problems.random_tensor(1, rows, channels, dtype=FLOAT64)
    weight = problems.random_tensor(2, filters, channels, dtype=FLOAT32)
    u = problems.random_tensor(3, rows, filters, dtype=FLOAT64)
    invstd = problems.random_tensor(4, filters, dtype=FLOAT64).abs()
    w, sums, mean, product_, gram = weight.double(), u.sum(0), a.mean(0), u.T @ a, a.T @ a
    centred = product_ - torch.outer(sums, mean)
    dgamma = invstd * (centred * w).sum(1)
    s2 = -invstd.square() * dgamma / rows
    covariance = gram - rows * torch.outer(mean, mean)
    dweight = invstd[:, None] * centred + s2[:, None] * (w @ covariance)
    of_gradient = invstd[:, None] * w
    terms = (sums / rows)[:, None] * of_gradient.to(FLOAT32).double()
    partials = torch.stack([part.sum(0) for part in terms.split(tile)])
    expected = (dgamma, dweight, of_gradient, partials, -partials.sum(0))
    names = ("dgamma", "dweight", "of_gradient", "partials", "constant")
    dtypes = (FLOAT64, FLOAT32, FLOAT32, FLOAT64, FLOAT32)
    inputs = {"product": product_, "sums": sums, "mean": mean, "gram": gram, "invstd": invstd}
    return Problem(
        "closed_form_backward",
        SM80,
        "closed_form_backward",
        (
            *(
                Output(n, tuple(t.shape), d)
                for n, t, d in zip(names, expected, dtypes, strict=True)
            ),
            Input("weight", weight),
            *(Input(name, tensor) for name, tensor in inputs.items()),
        ),
        (filters, channels, rows),
        expected,
        tuple(1e-6 + 1e-6 * values.abs() for values in expected),
    )
