"""The kernel passes as plain torch functions: what each raw op must compute, in whatever dtype its inputs have."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_cuda.testing.problems import ConvProblem

STATS_ROWS = 64
ACC = {torch.float64: torch.float64}


def acc_dtype(dtype: torch.dtype) -> torch.dtype:
    return ACC.get(dtype, torch.float32)


def nhwc(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def per_channel(v: Tensor) -> Tensor:
    return v.view(1, -1, 1, 1)


@dataclass(frozen=True)
class Conv:
    """One convolution: sizes and geometry."""

    n: int
    c: int
    h: int
    w: int
    k: int
    r: int = 3
    s: int = 3
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def geometry(self) -> tuple:
        return (list(self.stride), list(self.padding), list(self.dilation), self.groups)

    @property
    def output_size(self) -> tuple[int, int, int, int]:
        p = (self.h + 2 * self.padding[0] - self.dilation[0] * (self.r - 1) - 1) // self.stride[
            0
        ] + 1
        q = (self.w + 2 * self.padding[1] - self.dilation[1] * (self.s - 1) - 1) // self.stride[
            1
        ] + 1
        return (self.n, self.k, p, q)

    def __str__(self) -> str:
        return (
            f"n{self.n}c{self.c}x{self.h}x{self.w}k{self.k}f{self.r}x{self.s}st{self.stride[0]}p{self.padding[0]}"
            f"d{self.dilation[0]}g{self.groups}"
        )

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def dgrad(self, dy: Tensor, weight: Tensor) -> Tensor:
        x = torch.empty(self.n, self.c, self.h, self.w, dtype=dy.dtype)
        return self._backward(dy, x, weight, (True, False, False))[0]

    def wgrad(self, dy: Tensor, x: Tensor) -> Tensor:
        weight = torch.empty(self.k, self.c // self.groups, self.r, self.s, dtype=dy.dtype)
        return self._backward(dy, x, weight, (False, True, False))[1]

    def _backward(
        self, dy: Tensor, x: Tensor, weight: Tensor, mask: tuple[bool, bool, bool]
    ) -> tuple:
        return torch.ops.aten.convolution_backward(
            dy,
            x,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0, 0],
            self.groups,
            mask,
        )

    def random(self, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """x, weight and dy, all channels_last and representable in dtype; weights scaled as He et al. (2015) do."""
        g = torch.Generator().manual_seed(seed)
        fan_in = self.c // self.groups * self.r * self.s

        def normal(*size: int, scale: float = 1.0) -> Tensor:
            return nhwc((torch.randn(*size, generator=g, dtype=torch.float64) * scale).to(dtype))

        x = normal(self.n, self.c, self.h, self.w)
        weight = normal(self.k, self.c // self.groups, self.r, self.s, scale=(2.0 / fan_in) ** 0.5)
        return x, weight, normal(*self.output_size)


def conv_of(p: ConvProblem) -> Conv:
    pairs = ((p.stride,) * 2, (p.padding,) * 2, (p.dilation,) * 2)
    return Conv(p.N, p.C, p.H, p.W, p.K, p.R, p.S, *pairs, p.groups)


def vector(
    size: int, dtype: torch.dtype, seed: int, low: float = -1.0, high: float = 1.0
) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.empty(size, dtype=torch.float64).uniform_(low, high, generator=g).to(acc_dtype(dtype))
    )


def normalise_relu(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return torch.relu(x * per_channel(scale) + per_channel(bias))


def rows(y: Tensor) -> Tensor:
    """[N, C, H, W] -> [N H W, C], the order in which the kernels count rows."""
    return y.permute(0, 2, 3, 1).reshape(-1, y.shape[1])


def in_squares(y: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, squares, 8 x 8], whose rows are those that share a tile of kernels with halos."""
    n, c, h, w = y.shape
    squares = y.reshape(n, c, h // 8, 8, w // 8, 8).transpose(3, 4)
    return squares.reshape(n, c, -1, STATS_ROWS)


def tile_statistics(y: Tensor) -> Tensor:
    """Mean and M2 of every 64-row tile: [tiles, 2, C]."""
    tiles = rows(y).split(STATS_ROWS)
    return torch.stack([torch.stack([t.mean(0), ((t - t.mean(0)) ** 2).sum(0)]) for t in tiles])


def tile_sums(g: Tensor, moment: Tensor) -> Tensor:
    """Sums of both over every 64-row tile: [tiles, 2, C]."""
    pairs = zip(rows(g).split(STATS_ROWS), rows(moment).split(STATS_ROWS), strict=True)
    return torch.stack([torch.stack([a.sum(0), b.sum(0)]) for a, b in pairs])


def class_tile_sums(g: Tensor, moment: Tensor, stride: tuple[int, int]) -> Tensor:
    """The same for each class of pixels that lie `stride` apart, one after the other: dgrad's."""
    height, width = g.shape[2:]
    classes = [
        (..., slice(i, None, stride[0]), slice(j, None, stride[1]))
        for i in range(min(stride[0], height))
        for j in range(min(stride[1], width))
    ]
    return torch.cat([tile_sums(g[at], moment[at]) for at in classes])


def pack_mask(keep: Tensor) -> Tensor:
    """A boolean tensor as the kernels' bit mask: uint8 [ceil(numel / 8)], NHWC order."""
    flat = rows(keep).reshape(-1).to(torch.uint8)
    flat = F.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    return (flat << torch.arange(8, dtype=torch.uint8)).sum(1).to(torch.uint8)
