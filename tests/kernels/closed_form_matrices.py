"""What lies between closed form's passes over pixels, on one problem: inputs, and torch's formulas in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from passes import acc_dtype, nhwc
from torch import Tensor

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)

raw = torch.ops.resnet_cuda
MOMENTUM, EPS = 0.1, 1e-5


@dataclass(frozen=True)
class Filters:
    k: int
    c: int

    def __str__(self) -> str:
        return f"k{self.k}c{self.c}"


class Rank:
    """What a rank's passes over its pixels leave: sums of rows `a` [n, C] and of gradients `u` [n, K]."""

    def __init__(self, a: Tensor, u: Tensor) -> None:
        self.rows = len(a)
        self.sums, self.gram = a.sum(0), a.T @ a
        self.gradient_sums, self.product = u.sum(0), u.T @ a


class Case:
    """Filters, batch norm's vectors and the sums of two ranks, or of one that has all rows."""

    def __init__(
        self, at: Filters, dtype: torch.dtype, device: str = "cpu", *, affine: bool = True
    ) -> None:
        g = torch.Generator().manual_seed(0)

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=g, dtype=torch.float64)

        acc = acc_dtype(dtype)
        self.at, self.dtype, self.device = at, dtype, device
        self.weight = nhwc(normal(at.k, at.c, 1, 1).to(dtype))
        a, u = normal(40, at.c) + normal(at.c), normal(40, at.k)
        self.alone, self.ranks = Rank(a, u), (Rank(a[:15], u[:15]), Rank(a[15:], u[15:]))
        self.shift = normal(at.c).to(acc)
        self.gamma, self.beta = (normal(at.k).to(acc) if affine else None for _ in range(2))
        self.running = normal(at.k).to(acc), normal(at.k).to(acc)

    def to(self, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if t is None else t.to(self.device) for t in tensors)

    def finalize(self, rank: Rank | None = None) -> tuple[Tensor, ...]:
        """(mean, excess, output_mean, invstd, scale, bias, running mean, running var), of all rows; with `rank`, as
        one of two has it."""
        running = self.to(*(t.clone() for t in self.running))
        of_all = self.alone
        others = (None, None) if rank is None else (self.rows_of_all(), rank.sums)
        results = raw._closed_form_finalize(
            *self.to(self.weight, of_all.sums, of_all.gram, self.shift),
            of_all.rows if rank is None else rank.rows,
            *self.to(*others, self.gamma, self.beta),
            *(*running, MOMENTUM, EPS),
        )
        return *results, *running

    def rows_of_all(self) -> Tensor:
        return torch.tensor(float(self.alone.rows), dtype=torch.float64)

    def exact_finalize(self, rank: Rank | None = None) -> tuple[Tensor, ...]:
        weight, all_rows = self.weight.flatten(1).double(), self.alone.rows
        mean = self.alone.sums / all_rows
        covariance = self.alone.gram - all_rows * torch.outer(mean, mean)
        squares = ((weight @ covariance) * weight).sum(1).clamp_min(0)
        shifted = weight @ mean
        output_mean = shifted + weight @ self.shift.double()
        invstd = torch.rsqrt(squares / all_rows + EPS)
        scale = invstd * self.gamma_or_one()
        beta = 0.0 if self.beta is None else self.beta.double()
        excess = mean[:0] if rank is None else rank.sums - rank.rows * mean
        running = (
            old.double().lerp(new, MOMENTUM)
            for old, new in zip(self.running, (output_mean, squares / (all_rows - 1)), strict=True)
        )
        return mean, excess, output_mean, invstd, scale, beta - scale * shifted, *running

    def gamma_or_one(self) -> Tensor:
        ones = torch.ones(self.at.k, dtype=torch.float64)
        return ones if self.gamma is None else self.gamma.double()

    def reduce(self, rank: Rank | None = None) -> tuple[Tensor, Tensor]:
        """(dgamma, W excess)."""
        mean, excess, _, invstd, *_ = self.exact_finalize(rank)
        own = rank or self.alone
        return raw._closed_form_backward_reduce(
            *self.to(self.weight, own.product, own.gradient_sums, mean),
            *self.to(None if rank is None else excess, invstd),
        )

    def exact_reduce(self, rank: Rank | None = None) -> tuple[Tensor, Tensor]:
        mean, excess, _, invstd, *_ = self.exact_finalize(rank)
        own, weight = rank or self.alone, self.weight.flatten(1).double()
        centred = own.product - torch.outer(own.gradient_sums, mean)
        moments = mean[:0] if rank is None else weight @ excess
        return invstd * (centred * weight).sum(1), moments

    def backward(
        self, rank: Rank | None = None, *, weight: bool = True, input: bool = True
    ) -> tuple[Tensor, ...]:
        """(dweight, of_gradient, of_operand, constant)."""
        mean, excess, _, invstd, *_ = self.exact_finalize(rank)
        own = rank or self.alone
        others = (None, None) if rank is None else (excess, self.exact_reduce(rank)[1])
        return raw._closed_form_backward_finalize(
            *self.to(self.weight, own.product, own.gradient_sums, own.gram, mean, *others),
            *self.to(self.shift, invstd, self.gamma),
            *self.to(self.exact_reduce()[0], self.alone.gradient_sums),
            *(own.rows, None if rank is None else self.rows_of_all().to(self.device)),
            *(weight, input),
        )

    def exact_backward(self, rank: Rank | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """dweight [K, C], of_gradient and the matrix that of_operand stands for, none of them rounded."""
        mean, excess, _, invstd, *_ = self.exact_finalize(rank)
        own, weight, all_rows = rank or self.alone, self.weight.flatten(1).double(), self.alone.rows
        s1 = invstd * self.gamma_or_one()
        s2 = -s1 * invstd * self.exact_reduce()[0] / all_rows
        s3 = s1 * self.alone.gradient_sums / all_rows
        e = excess if rank is not None else torch.zeros_like(mean)
        covariance = own.gram - torch.outer(mean, own.sums) - torch.outer(e, mean)
        centred = own.product - torch.outer(own.gradient_sums, mean)
        dweight = s1[:, None] * centred + s2[:, None] * (weight @ covariance)
        if rank is not None:
            sum_of_dy = s1 * own.gradient_sums + s2 * (weight @ e) - own.rows * s3
            dweight += torch.outer(sum_of_dy, mean + self.shift.double()) - torch.outer(s3, e)
        return dweight, s1[:, None] * weight, weight.T @ (s2[:, None] * weight)

    def exact_constant(self, of_gradient: Tensor, of_operand: Tensor) -> tuple[Tensor, Tensor]:
        """The constant [C] that belongs to these rounded matrices, and its terms' magnitudes."""
        mean = self.alone.sums / self.alone.rows
        means = self.alone.gradient_sums / self.alone.rows
        terms = torch.cat(
            (
                means[:, None] * of_gradient.cpu().double(),
                mean.repeat(len(of_operand) // len(mean))[:, None] * of_operand.cpu().double(),
            )
        )
        return -terms.sum(0), terms.abs().sum(0)
