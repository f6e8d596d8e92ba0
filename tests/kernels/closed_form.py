"""Batch norm behind a pointwise convolution in closed form: its passes on one problem, and what each must compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from passes import acc_dtype, nhwc, pack_mask, per_channel, rows, vector
from tf32 import as_tf32
from torch import Tensor

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)

raw = torch.ops.resnet_cuda
NAMES = ("gram", "expand_wgrad", "expand_dgrad")


@dataclass(frozen=True)
class Expand:
    """x [n, c, h, w] sampled with a stride, K channels behind it."""

    n: int
    c: int
    h: int
    w: int
    k: int
    stride: int = 1

    def __str__(self) -> str:
        return f"n{self.n}c{self.c}x{self.h}x{self.w}k{self.k}st{self.stride}"


class Case:
    """The inputs of every pass. `floor`: relu(x scale + bias) - k on load, else x as it is; `gated`: dz has bits;
    `relu`: dgrad's result and its sums are behind the ReLU of x, which strides do not allow."""

    def __init__(
        self,
        at: Expand,
        dtype: torch.dtype,
        device: str = "cpu",
        *,
        floor: bool = True,
        gated: bool = True,
        relu: bool = True,
    ) -> None:
        g = torch.Generator().manual_seed(0)

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=g, dtype=torch.float64).to(dtype)

        sampled = (at.h - 1) // at.stride + 1, (at.w - 1) // at.stride + 1
        self.problem, self.dtype, self.device = at, dtype, device
        self.x = nhwc(normal(at.n, at.c, at.h, at.w)).to(device)
        self.dz = nhwc(normal(at.n, at.k, *sampled)).to(device)
        self.weight = (normal(at.k, at.c) / at.k**0.5).to(device)
        self.matrix = (normal(at.c, at.c) / at.c**0.5).to(device)
        self.bias, self.mean = (vector(at.c, dtype, seed).to(device) for seed in (4, 5))
        self.scale, self.shift = (vector(at.c, dtype, seed) for seed in (1, 2))
        k = vector(at.c, dtype, 3, 0.0)
        self.on_load = [v.to(device) for v in (self.scale, self.shift - k, -k)]
        if not floor:
            self.on_load = [None] * 3
        self.relu = relu and at.stride == 1
        self.keep = nhwc(torch.rand(self.dz.shape, generator=g)) < 0.5
        self.mask = pack_mask(self.keep).to(device) if gated else None

    def gram(self) -> tuple[Tensor, Tensor]:
        return raw._bottleneck_gram(self.x, *self.on_load, self.problem.stride)

    def expand_wgrad(self) -> tuple[Tensor, Tensor]:
        return raw._bottleneck_expand_wgrad(
            self.dz, self.mask, self.x, *self.on_load, self.problem.stride
        )

    def expand_dgrad(self) -> tuple[Tensor, Tensor]:
        act = [None] * 3
        if self.relu:
            act = [self.scale.to(self.device), self.shift.to(self.device), self.mean]
        return raw._bottleneck_expand_dgrad(
            self.dz,
            self.mask,
            self.weight,
            self.x,
            *self.on_load,
            self.matrix,
            self.bias,
            self.problem.stride,
            *act,
        )

    def run(self, name: str) -> tuple[Tensor, Tensor]:
        return getattr(self, name)()

    def sampled(self) -> Tensor:
        return self.x.cpu()[:, :, :: self.problem.stride, :: self.problem.stride]

    def operands(self) -> tuple[Tensor, Tensor]:
        """du [pixels, K] and at [pixels, C] as they are multiplied, in fp64."""
        x = self.sampled().double()
        if self.on_load[0] is not None:
            scale, bias, floor = (per_channel(v.cpu().double()) for v in self.on_load)
            fused = (x * scale + bias).to(acc_dtype(self.dtype)).double()  # rounded once
            x = torch.maximum(fused, floor).to(self.dtype).double()
        dz = self.dz.cpu().double()
        if self.mask is not None:
            dz = torch.where(self.keep, dz, 0.0)
        return rows(dz), rows(x)

    def gate(self) -> Tensor:
        """Where the ReLU lets x through, [pixels, C]; everywhere without one."""
        if not self.relu:
            return rows(torch.ones_like(self.sampled(), dtype=torch.bool))
        pre = self.x.cpu().double() * per_channel(self.scale.double())
        pre = pre + per_channel(self.shift.double())
        return rows(pre.to(acc_dtype(self.dtype)).to(self.dtype) > 0)

    def exact(self, name: str) -> tuple[Tensor, Tensor]:
        """Both results, dgrad's partial sums excepted, in fp64."""
        return self._results(name, *self.operands(), lambda t: t.cpu().double())

    def torchs(self, name: str, tf32: bool = False) -> tuple[Tensor, Tensor]:
        """The same by torch in the operands' dtype, from the same operands; dgrad's sum is rounded once."""
        dtype = acc_dtype(self.dtype) if name == "expand_dgrad" else self.dtype
        to_operand = lambda t: as_tf32(t.cpu().to(dtype)) if tf32 else t.cpu().to(dtype)  # noqa: E731
        results = self._results(name, *map(to_operand, self.operands()), to_operand)
        return tuple(result.to(self.dtype) for result in results)

    def magnitudes(self, name: str) -> tuple[Tensor, Tensor]:
        """The same of the operands' absolute values: what an error of a sum is relative to."""
        return self._results(name, *(operand.abs() for operand in self.operands()), torch.abs)

    def _results(
        self, name: str, du: Tensor, at: Tensor, to: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        if name == "gram":
            return at.sum(0), at.T @ at
        if name == "expand_wgrad":
            return du.T @ at, du.sum(0)
        da = du @ to(self.weight) + at @ to(self.matrix) + self.bias.cpu().to(du.dtype)
        da = torch.where(self.gate(), da, 0.0)
        n, _, p, q = self.dz.shape
        return nhwc(da.reshape(n, p, q, -1).permute(0, 3, 1, 2)), torch.empty(0)
