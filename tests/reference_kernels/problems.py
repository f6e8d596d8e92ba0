"""Inputs of the reference kernels, and what torch computes from them in fp64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference_kernels.launch import Buffer, Input, Output

AMPERE, HOPPER = "reference_ampere", "reference_hopper"
BFLOAT16, FLOAT16, FLOAT32, FLOAT64 = torch.bfloat16, torch.float16, torch.float32, torch.float64


@dataclass(frozen=True)
class Problem:
    """One launch: arguments, expected outputs in fp64, and how far an output may be from them."""

    name: str
    library: str
    kernel: str
    buffers: tuple[Buffer, ...]
    numbers: tuple[int, ...]
    expected: tuple[Tensor, ...]
    tolerance: tuple[Tensor, ...]

    def __str__(self) -> str:
        return self.name

    def complaint(self, outputs: Sequence[Tensor]) -> str:
        """What is wrong with the outputs; empty if nothing is. Workspaces have nothing expected."""
        for output, expected, tolerance in zip(
            outputs, self.expected, self.tolerance, strict=False
        ):
            error = (output.double() - expected).abs()
            wrong = ~(error <= tolerance)  # NaN is wrong
            if wrong.any():
                at = tuple(int(i) for i in wrong.nonzero()[0])
                return (
                    f"{int(wrong.sum())} of {wrong.numel()} values are wrong, the first at {at}: "
                    f"{float(output[at])}, expected {float(expected[at])}"
                )
        return ""


def random_tensor(seed: int, *shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)
    return (values * scale).to(dtype)


def truncated_to_tf32(x: Tensor) -> Tensor:
    """The part of a float that tf32 instructions read."""
    return (x.view(torch.int32) & -(1 << 13)).view(FLOAT32)


def rounded_to_tf32(x: Tensor) -> Tensor:
    """A finite float with 10 bits of mantissa, ties away from zero."""
    return truncated_to_tf32((x.view(torch.int32) + (1 << 12)).view(FLOAT32))


def allowance(expected: Tensor, magnitude: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounding of the result, and of a sum whose terms have absolute values that add up to `magnitude`."""
    summation = 1e-13 if dtype == FLOAT64 else 1e-5
    rounding = torch.finfo(dtype).eps / 2 if dtype in (BFLOAT16, FLOAT16) else 0.0
    return 1.01 * rounding * expected.abs() + summation * magnitude


def product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """A B^T and |A| |B|^T in fp64."""
    a, b = a.double(), b.double()
    return a @ b.T, a.abs() @ b.abs().T


def normalised(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """relu(x scale + bias) as kernels have it on load: their fma rounds once, and so does this."""
    return torch.addcmul(bias.double(), x.double(), scale.double()).float().relu().to(x.dtype)


def gemm(
    kernel: str, dtype: torch.dtype, out_dtype: torch.dtype, m: int, n: int, k: int
) -> Problem:
    a = random_tensor(1, m, k, dtype=dtype)
    b = random_tensor(2, n, k, dtype=dtype, scale=k**-0.5)
    on_ampere = kernel.startswith("ampere")
    # wgmma reads shared memory itself, mma.sync registers, where operands are rounded.
    as_tf32 = rounded_to_tf32 if on_ampere else truncated_to_tf32
    read = as_tf32 if dtype == FLOAT32 else torch.Tensor.double
    d, magnitude = product(read(a), read(b))
    return Problem(
        f"{kernel} {m}x{n}x{k}",
        AMPERE if on_ampere else HOPPER,
        kernel,
        (Output("d", (m, n), out_dtype), Input("a", a), Input("b", b)),
        (m, n, k),
        (d,),
        (allowance(d, magnitude, out_dtype),),
    )


def gemm_rs(dtype: torch.dtype, m: int, n: int, k: int) -> Problem:
    a = random_tensor(1, m, k, dtype=dtype)
    b = random_tensor(2, n, k, dtype=dtype, scale=k**-0.5)
    scale = random_tensor(3, k, dtype=FLOAT32).abs() + 0.5
    shift = random_tensor(4, k, dtype=FLOAT32)
    d, magnitude = product(normalised(a, scale, shift), b)
    return Problem(
        f"hopper_gemm_rs {dtype} {m}x{n}x{k}",
        HOPPER,
        f"hopper_gemm_rs_{str(dtype).removeprefix('torch.')}",
        (
            Output("d", (m, n), FLOAT32),
            Input("a", a),
            Input("b", b),
            Input("scale", scale),
            Input("shift", shift),
        ),
        (m, n, k),
        (d,),
        (allowance(d, magnitude, FLOAT32),),
    )


def gemm_cluster(m: int, n: int, k: int) -> Problem:
    rows, columns = 128, 128  # of a cluster
    a = random_tensor(1, m, k, dtype=BFLOAT16)
    b = random_tensor(2, n, k, dtype=BFLOAT16, scale=k**-0.5)
    d, magnitude = product(a, b)
    clusters = -(-m // rows)
    sums, sums_magnitude = (
        F.pad(x, (0, -n % columns, 0, -m % rows)).unflatten(0, (clusters, rows)).sum(1)
        for x in (d, magnitude)
    )
    return Problem(
        f"hopper_gemm_cluster {m}x{n}x{k}",
        HOPPER,
        "hopper_gemm_cluster_bfloat16",
        (
            Output("d", (m, n), FLOAT32),
            Output("column_sums", tuple(sums.shape), FLOAT32),
            Input("a", a),
            Input("b", b),
        ),
        (m, n, k),
        (d, sums),
        (allowance(d, magnitude, FLOAT32), allowance(sums, sums_magnitude, FLOAT32)),
    )


@dataclass(frozen=True)
class Conv:
    """A convolution; pairs are (height, width)."""

    n: int
    h: int
    w: int
    c: int
    k: int
    filter: tuple[int, int] = (3, 3)
    padding: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)

    def __str__(self) -> str:
        r, s = self.filter
        text = f"{self.n}x{self.h}x{self.w}x{self.c} to {self.k}, {r}x{s}"
        text += f", stride {self.stride[0]}x{self.stride[1]}"
        return text if self.dilation == (1, 1) else f"{text}, dilation {self.dilation}"

    @property
    def numbers(self) -> tuple[int, ...]:
        sizes = (self.n, self.h, self.w, self.c, self.k, *self.filter)
        return (*sizes, *self.padding, *self.stride, *self.dilation)

    @property
    def output(self) -> tuple[int, int]:
        p, q = (
            (size + 2 * pad - dilation * (taps - 1) - 1) // stride + 1
            for size, pad, dilation, taps, stride in zip(
                (self.h, self.w), self.padding, self.dilation, self.filter, self.stride, strict=True
            )
        )
        return p, q

    def operands(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """x [N, H, W, C], weight [K, R, S, C] and dy [N, P, Q, K]."""
        depth = self.c * self.filter[0] * self.filter[1]
        x = random_tensor(1, self.n, self.h, self.w, self.c, dtype=dtype)
        weight = random_tensor(2, self.k, *self.filter, self.c, dtype=dtype, scale=depth**-0.5)
        dy = random_tensor(3, self.n, *self.output, self.k, dtype=dtype)
        return x, weight, dy

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        y = F.conv2d(
            x.double().permute(0, 3, 1, 2),
            weight.double().permute(0, 3, 1, 2),
            None,
            self.stride,
            self.padding,
            self.dilation,
        )
        return y.permute(0, 2, 3, 1)

    def backward(self, x: Tensor, weight: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
        dx, dw = torch.autograd.grad(self.forward(x, weight), (x, weight), dy.double())
        return dx, dw


def conv_fprop(kernel: str, dtype: torch.dtype, conv: Conv) -> Problem:
    x, weight, _ = conv.operands(dtype)
    y, magnitude = conv.forward(x, weight), conv.forward(x.abs(), weight.abs())
    return Problem(
        f"{kernel} {conv}",
        AMPERE if kernel.startswith("ampere") else HOPPER,
        kernel,
        (Output("y", tuple(y.shape), dtype), Input("x", x), Input("weight", weight)),
        conv.numbers,
        (y,),
        (allowance(y, magnitude, dtype),),
    )


def conv_dgrad(dtype: torch.dtype, conv: Conv) -> Problem:
    x, weight, dy = conv.operands(dtype)
    dx, _ = conv.backward(x, weight, dy)
    magnitude, _ = conv.backward(x, weight.abs(), dy.abs())
    return Problem(
        f"hopper_conv_dgrad {conv}",
        HOPPER,
        "hopper_conv_dgrad_bfloat16",
        (Output("dx", tuple(dx.shape), dtype), Input("dy", dy), Input("weight", weight)),
        conv.numbers,
        (dx,),
        (allowance(dx, magnitude, dtype),),
    )


def conv_wgrad(dtype: torch.dtype, conv: Conv, splits: int) -> Problem:
    x, weight, dy = conv.operands(dtype)
    _, dw = conv.backward(x, weight, dy)
    _, magnitude = conv.backward(x.abs(), weight, dy.abs())
    return Problem(
        f"hopper_wgrad {dtype} {conv}, {splits} parts",
        HOPPER,
        f"hopper_wgrad_{str(dtype).removeprefix('torch.')}",
        (
            Output("dw", tuple(dw.shape), FLOAT32),
            Input("dy", dy),
            Input("x", x),
            Output("parts", (splits, *dw.shape), FLOAT32),
        ),
        (*conv.numbers, splits),
        (dw,),
        (allowance(dw, magnitude, FLOAT32),),
    )


def wgrad_matrix(m: int, k: int, c: int, splits: int) -> Problem:
    dy, x = random_tensor(1, m, k, dtype=BFLOAT16), random_tensor(2, m, c, dtype=BFLOAT16)
    dw, magnitude = product(dy.T, x.T)
    return Problem(
        f"hopper_wgrad_matrix {m}x{k}x{c}, {splits} parts",
        HOPPER,
        "hopper_wgrad_matrix_bfloat16",
        (
            Output("dw", (k, c), FLOAT32),
            Input("dy", dy),
            Input("x", x),
            Output("parts", (splits, k, c), FLOAT32),
        ),
        (m, k, c, splits),
        (dw,),
        (allowance(dw, magnitude, FLOAT32),),
    )


def all_problems() -> list[Problem]:
    """Every reference kernel on sizes that leave tiles, slices and splits incomplete."""
    strided = Conv(2, 9, 11, 72, 136, stride=(2, 2))
    return [
        gemm("ampere_gemm_bfloat16", BFLOAT16, FLOAT32, 100, 72, 200),
        gemm("ampere_gemm_bfloat16", BFLOAT16, FLOAT32, 257, 136, 40),
        gemm("ampere_gemm_bfloat16", BFLOAT16, FLOAT32, 1, 8, 8),
        gemm("ampere_gemm_float16", FLOAT16, FLOAT32, 130, 64, 328),
        gemm("ampere_gemm_tf32", FLOAT32, FLOAT32, 100, 68, 100),
        gemm("ampere_gemm_float64", FLOAT64, FLOAT64, 129, 70, 50),
        conv_fprop("ampere_conv_bfloat16", BFLOAT16, Conv(2, 9, 11, 40, 72)),
        conv_fprop("ampere_conv_bfloat16", BFLOAT16, strided),
        conv_fprop(
            "ampere_conv_float16",
            FLOAT16,
            Conv(1, 10, 7, 8, 16, (5, 3), (4, 1), (1, 2), (2, 1)),
        ),
        gemm("hopper_gemm_bfloat16_n128", BFLOAT16, BFLOAT16, 100, 136, 328),
        gemm("hopper_gemm_bfloat16_n128", BFLOAT16, BFLOAT16, 1, 8, 8),
        gemm("hopper_gemm_bfloat16_n256", BFLOAT16, FLOAT32, 200, 264, 72),
        gemm("hopper_gemm_float16_n64", FLOAT16, FLOAT16, 129, 72, 264),
        gemm("hopper_gemm_float16_n96", FLOAT16, FLOAT32, 64, 100, 200),
        gemm("hopper_gemm_tf32_n128", FLOAT32, FLOAT32, 130, 132, 140),
        gemm("hopper_gemm_tf32_n8", FLOAT32, FLOAT32, 70, 10, 68),
        gemm_rs(BFLOAT16, 100, 136, 328),
        gemm_rs(FLOAT16, 64, 64, 64),
        gemm_cluster(100, 136, 328),
        gemm_cluster(300, 72, 64),
        wgrad_matrix(300, 72, 136, 3),
        conv_wgrad(BFLOAT16, Conv(2, 9, 11, 72, 136), 2),
        conv_wgrad(FLOAT16, Conv(3, 7, 9, 8, 72, stride=(2, 2)), 1),
        conv_fprop("hopper_conv_fprop_bfloat16", BFLOAT16, Conv(2, 9, 11, 64, 128)),
        conv_fprop("hopper_conv_fprop_bfloat16", BFLOAT16, strided),
        conv_fprop(
            "hopper_conv_fprop_bfloat16",
            BFLOAT16,
            Conv(2, 8, 8, 64, 64, (1, 1), (0, 0), (2, 2)),
        ),
        conv_fprop(
            "hopper_conv_fprop_float16",
            FLOAT16,
            Conv(1, 10, 7, 8, 16, (5, 3), (4, 1), (1, 2), (2, 1)),
        ),
        conv_dgrad(BFLOAT16, Conv(2, 9, 11, 72, 136)),
        conv_dgrad(BFLOAT16, Conv(1, 8, 6, 64, 64, (5, 3), (1, 0))),
    ]
