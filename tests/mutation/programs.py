"""Which kernels show what a mutant does: the sources to compile again, and small problems to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn.functional import conv1d, conv2d, max_pool2d

from tests.reference_kernels import problems
from tests.reference_kernels.launch import Input, Output
from tests.reference_kernels.problems import BFLOAT16, FLOAT32, Conv, Problem, product

SIMT, SM80 = "mutation_simt", "mutation_sm80"
FIRST = "first_kernel"
REFERENCE = "tests/reference_kernels"


@dataclass(frozen=True)
class Program:
    """One source file of a library, compiled into a library of its own."""

    name: str
    library: str  # CMake's; gives the compiler's flags
    source: str


PROGRAMS = {
    program.name: program
    for program in (
        Program("ampere_gemm", problems.AMPERE, f"{REFERENCE}/ampere/gemm.cu"),
        Program("ampere_conv", problems.AMPERE, f"{REFERENCE}/ampere/conv.cu"),
        Program("hopper_gemm_ss", problems.HOPPER, f"{REFERENCE}/hopper/gemm_ss.cu"),
        Program("hopper_gemm_rs", problems.HOPPER, f"{REFERENCE}/hopper/gemm_rs.cu"),
        Program("hopper_gemm_cluster", problems.HOPPER, f"{REFERENCE}/hopper/gemm_cluster.cu"),
        Program("hopper_conv", problems.HOPPER, f"{REFERENCE}/hopper/conv.cu"),
        Program("hopper_wgrad", problems.HOPPER, f"{REFERENCE}/hopper/wgrad.cu"),
        Program(FIRST, FIRST, "tests/first_kernel/first_kernel.cu"),
        Program("simt", SIMT, "tests/mutation/simt_kernels.cu"),
        Program("sm80", SM80, "tests/mutation/sm80_kernels.cu"),
        Program("sm80_gathered", SM80, "tests/mutation/sm80_kernels.cu"),
        Program("sm80_pooled", SM80, "tests/mutation/sm80_kernels.cu"),
    )
}

# The first program that notices a mutant is enough; a file of the test's folders that synchronises
# must be here.
PROGRAMS_OF_FILE = {
    "csrc/kernels/batch_norm/batch_norm_finalize.cuh": ("simt",),
    "csrc/kernels/conv/conv_max_pool.cuh": ("sm80_pooled",),
    "csrc/kernels/conv/direct/depthwise.cuh": ("simt",),
    "csrc/kernels/conv/implicit_gemm.cuh": ("simt", "sm80"),
    "csrc/kernels/conv/simt/mainloop.cuh": ("simt",),
    "csrc/kernels/conv/sm80/gathered.cuh": ("sm80_gathered",),
    "csrc/kernels/pool/global_avg_pool.cuh": ("simt",),
    "csrc/tile/column_sums.cuh": ("simt",),
    "csrc/tile/cp_async_mainloop.cuh": ("sm80", "ampere_gemm"),
    "csrc/tile/mbarrier_ring.cuh": ("hopper_gemm_ss", "hopper_gemm_cluster"),
    "csrc/tile/register_mainloop.cuh": ("sm80_gathered",),
    "csrc/tile/wgmma_mainloop.cuh": ("hopper_gemm_ss", "hopper_gemm_cluster"),
    "tests/first_kernel/first_kernel.cu": (FIRST,),
    f"{REFERENCE}/ampere/implicit_gemm.cuh": ("ampere_gemm", "ampere_conv"),
    f"{REFERENCE}/hopper/conv.cuh": ("hopper_conv",),
    f"{REFERENCE}/hopper/gemm_cluster.cuh": ("hopper_gemm_cluster",),
    f"{REFERENCE}/hopper/gemm_rs.cuh": ("hopper_gemm_rs",),
    f"{REFERENCE}/hopper/gemm_ss.cuh": ("hopper_gemm_ss",),
    f"{REFERENCE}/hopper/slices.cuh": ("hopper_gemm_ss", "hopper_conv"),
    f"{REFERENCE}/hopper/wgrad.cuh": ("hopper_wgrad",),
}


@cache
def problems_of(program: str) -> tuple[Problem, ...]:
    """Small, but with more slices than a ring has stages: every stage is used again."""
    conv = Conv(1, 7, 9, 64, 128)
    return {
        "ampere_gemm": lambda: (
            problems.gemm("ampere_gemm_bfloat16", BFLOAT16, FLOAT32, 100, 72, 200),
        ),
        "ampere_conv": lambda: (
            problems.conv_fprop("ampere_conv_bfloat16", BFLOAT16, Conv(1, 5, 7, 40, 72)),
        ),
        "hopper_gemm_ss": lambda: (
            problems.gemm("hopper_gemm_bfloat16_n128", BFLOAT16, BFLOAT16, 100, 136, 328),
            problems.gemm("hopper_gemm_tf32_n8", FLOAT32, FLOAT32, 70, 10, 164),
        ),
        "hopper_gemm_rs": lambda: (problems.gemm_rs(BFLOAT16, 70, 128, 392),),
        "hopper_gemm_cluster": lambda: (problems.gemm_cluster(100, 136, 392),),
        "hopper_conv": lambda: (
            problems.conv_fprop("hopper_conv_fprop_bfloat16", BFLOAT16, conv),
            problems.conv_dgrad(BFLOAT16, conv),
        ),
        "hopper_wgrad": lambda: (
            problems.wgrad_matrix(500, 64, 128, 2),
            problems.conv_wgrad(BFLOAT16, Conv(2, 10, 13, 64, 64), 1),
        ),
        FIRST: lambda: (scale_matrix(),),
        "simt": lambda: (
            conv_with_statistics(),
            depthwise_conv_with_statistics(),
            bn_finalize(),
            global_avg_pool(),
        ),
        # More slices of channels than stages, two parts of 64 rows, and a second tile of each kind.
        "sm80": lambda: (
            normalised_conv_with_statistics("normalised_conv_with_statistics", BFLOAT16, 200, 72),
            normalised_conv_with_statistics(
                "normalised_conv_with_statistics_tf32", FLOAT32, 100, 72
            ),
            normalised_weight_gradient("normalised_weight_gradient_tf32", FLOAT32, 72, 132),
        ),
        # The gradient of the second one comes in whole pieces, which are copied.
        "sm80_gathered": lambda: (
            normalised_conv_with_statistics("gathered_conv_with_statistics", BFLOAT16, 107, 71),
            normalised_weight_gradient("gathered_weight_gradient", BFLOAT16, 71, 136),
        ),
        # A whole patch and partial ones.
        "sm80_pooled": lambda: (pooled_stem(36, 72),),
    }[program]()


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
    return with_statistics(name, SM80, dtype, exact, x, weight, scale, bias)


def normalised(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    # The kernel's fma rounds once, and so does this.
    return torch.addcmul(bias.double(), x.double(), scale.double()).float().relu().to(x.dtype)


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
    *vectors: torch.Tensor,
    numbers: tuple[int, ...] = (),
) -> Problem:
    """exact: the output, and the sum of its products' magnitudes. numbers: pixels, channels, filters unless given."""
    tile = 64
    (pixels, channels), filters = x.shape, weight.shape[0]
    y, magnitude = exact
    partials = torch.stack(
        [
            statistic
            for rows in y.split(tile)
            for statistic in (rows.mean(0), (rows - rows.mean(0)).square().sum(0))
        ]
    )
    rounding = 1e-5 + torch.finfo(dtype).eps
    names = ("scale", "bias")
    return Problem(
        name,
        library,
        name,
        (
            Output("y", (pixels, filters), dtype),
            Output("partials", tuple(partials.shape), FLOAT32),
            Input("x", x),
            Input("weight", weight),
            *(Input(name, vector) for name, vector in zip(names, vectors, strict=False)),
        ),
        numbers or (pixels, channels, filters),
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
