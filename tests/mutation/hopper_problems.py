"""Small problems for the shipped Hopper kernels, one launch each."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, unfold

from tests.mutation.shipped_problems import with_statistics
from tests.reference_kernels import problems
from tests.reference_kernels.launch import Input, Output
from tests.reference_kernels.problems import BFLOAT16, FLOAT32, Problem, normalised, product

SM90 = "mutation_sm90"


def conv_with_statistics(height: int, width: int, channels: int, filters: int) -> Problem:
    return _conv("hopper_conv_with_statistics", height, width, channels, filters)


def normalised_conv_with_statistics(
    height: int, width: int, channels: int, filters: int
) -> Problem:
    name = "hopper_normalised_conv_with_statistics"
    return _conv(name, height, width, channels, filters, **_normalisation(channels))


def halo_with_statistics(height: int, width: int) -> Problem:
    return _conv("hopper_halo_with_statistics", height, width, 64, 64, _in_squares(height, width))


def normalised_halo_with_statistics(height: int, width: int) -> Problem:
    name = "hopper_normalised_halo_with_statistics"
    order = _in_squares(height, width)
    return _conv(name, height, width, 64, 64, order, **_normalisation(64))


def _in_squares(height: int, width: int) -> Tensor:
    """The pixels of an image, square by square of 8 x 8."""
    pixels = torch.arange(height * width).view(height // 8, 8, width // 8, 8)
    return pixels.transpose(1, 2).flatten()


def _conv(
    name: str,
    height: int,
    width: int,
    channels: int,
    filters: int,
    order: Tensor | None = None,
    **vectors: Tensor,
) -> Problem:
    """Windows of 3 x 3. order: of the pixels in tiles."""
    x = problems.random_tensor(1, height * width, channels, dtype=BFLOAT16)
    scale = (9 * channels) ** -0.5
    weight = problems.random_tensor(2, filters, 3, 3, channels, dtype=BFLOAT16, scale=scale)
    activation = normalised(x, **vectors) if vectors else x

    def convolved(x: Tensor, weight: Tensor) -> Tensor:
        image = x.double().view(1, height, width, channels).permute(0, 3, 1, 2)
        y = conv2d(image, weight.double().permute(0, 3, 1, 2), padding=1)
        return y.permute(0, 2, 3, 1).reshape(height * width, filters)

    exact = convolved(activation, weight), convolved(activation.abs(), weight.abs())
    sizes = (height, width, channels, filters)
    return with_statistics(name, SM90, BFLOAT16, exact, x, weight, sizes, order, **vectors)


def gated_input_gradient(pixels: int, channels: int, filters: int) -> Problem:
    dz = problems.random_tensor(1, pixels, filters, dtype=BFLOAT16)
    weight = problems.random_tensor(2, filters, channels, dtype=BFLOAT16, scale=filters**-0.5)
    generator = torch.Generator().manual_seed(3)
    bits = torch.randint(256, (pixels, filters // 8), generator=generator, dtype=torch.uint8)
    gate = (bits[..., None] >> torch.arange(8) & 1).reshape(pixels, filters)
    exact = product(dz * gate, weight.T)
    sizes = (pixels, channels, filters)
    name = "hopper_gated_input_gradient"
    return with_statistics(name, SM90, BFLOAT16, exact, dz, weight, sizes, bits=bits)


def weight_gradient_on_load(pixels: int, channels: int, filters: int) -> Problem:
    dz = problems.random_tensor(1, pixels, filters, dtype=BFLOAT16)
    x = problems.random_tensor(2, pixels, channels, dtype=BFLOAT16)
    vectors, more = _normalisation(channels), _batch_norm(pixels, filters)
    exact = product(_through_batch_norm(dz, **more).T, normalised(x, **vectors).T)
    dweight, magnitude = exact
    return Problem(
        "hopper_weight_gradient_on_load",
        SM90,
        "hopper_weight_gradient_on_load",
        (
            Output("dweight", (filters, channels), FLOAT32),
            Input("dz", dz),
            Input("x", x),
            *(Input(name, tensor) for name, tensor in {**vectors, **more}.items()),
        ),
        (pixels, channels, filters),
        (dweight,),
        (problems.allowance(dweight, magnitude, FLOAT32),),
    )


def expand_reduce(pixels: int, channels: int, expanded: int) -> Problem:
    """Of quarters, so that what the reduce reads has been rounded once, as here."""
    reduced = 128
    tensors = {
        "x": _quarters(1, pixels, channels, dtype=BFLOAT16),
        "weight": _quarters(2, expanded, channels, dtype=BFLOAT16),
        "scale": _quarters(3, expanded),
        "bias": _quarters(4, expanded),
        "residual": _quarters(5, pixels, expanded, dtype=BFLOAT16),
        "next_weight": _quarters(6, reduced, expanded, dtype=BFLOAT16),
        "next_scale": _quarters(7, reduced),
        "next_bias": _quarters(8, reduced),
    }
    x, weight, scale, bias, residual, *following = tensors.values()
    y, _ = _normalised_product(x, weight, scale, bias, residual)
    z, magnitude = _normalised_product(y.to(BFLOAT16), *following)
    return Problem(
        "hopper_expand_reduce",
        SM90,
        "hopper_expand_reduce",
        (
            Output("y", tuple(y.shape), BFLOAT16),
            Output("z", tuple(z.shape), BFLOAT16),
            *(Input(name, tensor) for name, tensor in tensors.items()),
        ),
        (pixels, channels, expanded),
        (y, z),
        (problems.allowance(y, 0 * y, BFLOAT16), problems.allowance(z, magnitude, BFLOAT16)),
    )


def bottleneck_block(images: int, height: int, width: int) -> Problem:
    """Of quarters, so that what lies between the convolutions has been rounded once, as here."""
    channels, reduced = 256, 64
    filters = {
        "reduce": (reduced, channels),
        "convolve": (reduced, 3, 3, reduced),
        "expand": (channels, reduced),
    }
    x = _quarters(1, images * height * width, channels, dtype=BFLOAT16)
    tensors = {"x": x}
    for seed, (name, shape) in enumerate(filters.items()):
        tensors[f"{name}_weight"] = _quarters(3 * seed + 2, *shape, dtype=BFLOAT16)
        tensors[f"{name}_scale"] = _quarters(3 * seed + 3, shape[0])
        tensors[f"{name}_bias"] = _quarters(3 * seed + 4, shape[0])
    of_reduce, of_convolve, of_expand = ([*tensors.values()][i : i + 3] for i in (1, 4, 7))
    a = _normalised_product(x, *of_reduce)[0].float().to(BFLOAT16)
    image = a.view(images, height, width, reduced).permute(0, 3, 1, 2)
    windows = unfold(image.double(), 3, padding=1).transpose(1, 2).flatten(0, 1)
    taps = of_convolve[0].permute(0, 3, 1, 2).flatten(1)
    b = _normalised_product(windows, taps, *of_convolve[1:])[0].float().to(BFLOAT16)
    y, magnitude = _normalised_product(b, *of_expand, x)
    return Problem(
        "hopper_bottleneck_block",
        SM90,
        "hopper_bottleneck_block",
        (
            Output("y", tuple(y.shape), BFLOAT16),
            *(Input(name, tensor) for name, tensor in tensors.items()),
        ),
        (images, height, width),
        (y,),
        (problems.allowance(y, magnitude, BFLOAT16),),
    )


def _normalised_product(
    a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, addend: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """relu(A B^T scale + bias + addend), and the sum of the products' magnitudes."""
    exact, magnitude = product(a, b)
    exact = exact * scale.double() + bias.double()
    exact = exact if addend is None else exact + addend.double()
    return exact.relu(), magnitude * scale.double().abs()


def _quarters(seed: int, *shape: int, dtype: torch.dtype = FLOAT32) -> Tensor:
    return (4 * problems.random_tensor(seed, *shape, dtype=dtype)).round() / 4


def gram_parts(pixels: int, channels: int, pixels_of_part: int) -> Problem:
    """The Gram matrix of each part, and behind it the sums of its channels."""
    x = problems.random_tensor(1, pixels, channels, dtype=BFLOAT16)
    parts = []
    for rows in x.split(pixels_of_part):
        gram, magnitude = product(rows.T, rows.T)
        sums, sums_magnitude = (values.double().sum(0) for values in (rows, rows.abs()))
        parts.append(
            [torch.cat([gram.flatten(), sums]), torch.cat([magnitude.flatten(), sums_magnitude])]
        )
    expected, magnitudes = (torch.stack(column) for column in zip(*parts, strict=True))
    return Problem(
        "hopper_gram_parts",
        SM90,
        "hopper_gram_parts",
        (Output("parts", tuple(expected.shape), FLOAT32), Input("x", x)),
        (pixels, channels, len(parts)),
        (expected,),
        (problems.allowance(expected, magnitudes, FLOAT32),),
    )


def _normalisation(channels: int) -> dict[str, Tensor]:
    names = ("scale", "bias")
    return {
        name: problems.random_tensor(seed, channels, dtype=FLOAT32)
        for seed, name in enumerate(names, 3)
    }


def _batch_norm(pixels: int, filters: int) -> dict[str, Tensor]:
    """What its backward reads on load. Quarters, so that float32 rounds nothing before the result is rounded."""
    return {
        "y": problems.random_tensor(5, pixels, filters, dtype=BFLOAT16),
        "coefficients": _quarters(6, 4, filters),
        "gate_scale": _quarters(7, filters),
        "gate_bias": _quarters(8, filters),
    }


def _through_batch_norm(
    dz: Tensor, y: Tensor, coefficients: Tensor, gate_scale: Tensor, gate_bias: Tensor
) -> Tensor:
    y, c = y.double(), coefficients.double()
    gradient = torch.where(y * gate_scale.double() + gate_bias.double() > 0, dz.double(), 0)
    return (c[0] * gradient + (c[1] * (y - c[3]) + c[2])).float().to(dz.dtype)
