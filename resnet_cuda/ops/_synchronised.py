"""Batch norm over all ranks of a process group: every collective of the package is here.

Only per-channel vectors travel (and, in closed form, matrices of the size of a weight), in float64. Of
a batch norm over K channels, and in closed form over the C channels that its convolution reads:

    forward                all_gather of (count, mean, sum of squares)       8 (2 K + 1) bytes per rank
    forward, closed form   all_reduce of (sums, Gram matrix, count)          8 (C C + C + 1)
    a projection's shift   all_gather of (count, mean, sum of squares)       8 (2 C + 1) per rank
    backward               all_reduce of (dgamma, dbeta, count)              8 (2 K + 1)

torch.compile has functional collectives in the graph for them, in the order of the code. On our kernels a rank
that is compiled and one that is not do the same; on the CPU's backend, whose graphs are made of plain torch, a
forward is two all_reduce, so all ranks are compiled, or none.

The number of values per channel travels with them, because ranks need not have equally many, and stays
on the device: nothing is read back by the host. A rank without images takes part in all of them, with
zeros. The gradients of gamma, beta and the filters stay those of the rank's own images, as those of
`nn.SyncBatchNorm` do: whoever trains (DDP) adds them up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from resnet_cuda import _backend, _compiler
from resnet_cuda.ops._interface import BatchNormTensors

_alone = False


def group_of(process_group: Any, training: bool) -> dist.ProcessGroup | None:
    """The group to synchronise a batch norm over; None where its statistics are the rank's own, or are
    constants.

    Raises:
        TypeError: process_group is not a group.
    """
    if process_group is None:
        return None
    if process_group == dist.GroupMember.NON_GROUP_MEMBER:  # what new_group gives to all others
        return None
    if not isinstance(process_group, dist.ProcessGroup):
        raise TypeError(
            f"process_group is a {type(process_group).__name__}; accepted: a "
            "torch.distributed.ProcessGroup or None"
        )
    return process_group if training and process_group.size() > 1 else None


class Statistics(NamedTuple):
    """Of one batch over all ranks, in float64: values per channel [], mean [K] and the sum of squares about it [K]."""

    rows: Tensor
    mean: Tensor
    squares: Tensor

    @property
    def var(self) -> Tensor:
        """The biased variance."""
        return self.squares / self.rows.clamp_min(1)

    def move(self, bn: BatchNormTensors, momentum: float) -> None:
        """Moves the running statistics towards these; not at all where no rank has an image."""
        if bn.running_mean is None or bn.running_var is None:
            return
        unbiased = self.squares / (self.rows - 1).clamp_min(1)
        weight = momentum * self.rows.clamp_max(1)
        bn.running_mean.lerp_(self.mean.to(bn.running_mean.dtype), weight.to(bn.running_mean.dtype))
        bn.running_var.lerp_(unbiased.to(bn.running_var.dtype), weight.to(bn.running_var.dtype))


def of_all_ranks(count: int, mean: Tensor, squares: Tensor, group: dist.ProcessGroup) -> Statistics:
    """From each rank's count, mean [K] and sum of squares about that mean [K]; without values the other
    two may be anything.

    Every rank merges them for itself, in the order of the ranks (Chan, Golub, LeVeque 1983): the same
    bits on all of them, and in every run.
    """
    own = torch.cat((mean.new_full((1,), count, dtype=torch.float64), mean, squares))
    if count == 0:
        own = torch.zeros_like(own)
    counts, means, parts = _gathered(own, group).split((1, len(mean), len(mean)), dim=1)
    total = counts.sum(0)
    merged = (counts * means).sum(0) / total.clamp_min(1)
    about = (parts + counts * (means - merged).square()).sum(0)
    return Statistics(total[0], merged, about)


def of_values(y: Tensor, group: dist.ProcessGroup) -> Statistics:
    """Of every rank's y [N, K, ...], by one collective."""
    count = y.numel() // y.shape[1]
    if count == 0:
        nothing = y.new_zeros(y.shape[1])
        return of_all_ranks(0, nothing, nothing, group)
    var, mean = torch.var_mean(y, [0, *range(2, y.dim())], correction=0)
    return of_all_ranks(count, mean, var.double() * count, group)


def differentiable(y: Tensor, group: dist.ProcessGroup) -> Statistics:
    """Of every rank's y [N, K, P, Q], by two collectives, and others for each derivative."""
    wide = y.double()
    total, rows = _summed(group, y.numel() // y.shape[1], wide.sum((0, 2, 3)))
    distances = wide - (total / divisor(rows)).view(1, -1, 1, 1)
    squares, _ = _summed(group, 0, distances.square().sum((0, 2, 3)))
    return Statistics(rows, total / divisor(rows), squares)


def over_batch(
    group: dist.ProcessGroup | None, rows: int, *sums: Tensor
) -> tuple[list[Tensor], int | Tensor]:
    """These sums over so many rows of this rank, and their number, over all ranks; without a group as
    they are. Differentiable."""
    if group is None:
        return list(sums), rows
    *every, total = _summed(group, rows, *sums)
    return every, total


def divisor(rows: int | Tensor) -> int | Tensor:
    """What sums over so many rows are divided by for a mean; that of no rows is zero."""
    return max(rows, 1) if isinstance(rows, int) else rows.clamp_min(1)


def _summed(group: dist.ProcessGroup, count: int, *tensors: Tensor) -> list[Tensor]:
    """The tensors, and behind them the count as a tensor [], each added up over all ranks, in float64."""
    flat = [tensor.flatten().double() for tensor in tensors]
    own = tensors[0].new_full((1,), count, dtype=torch.float64)
    *parts, total = _Summed.apply(group, *flat, own).split([*(len(part) for part in flat), 1])
    return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)] + [total[0]]


def _added_up(own: Sequence[Tensor], group: dist.ProcessGroup) -> Tensor:
    """Vectors of this rank -> one behind the other, added up over all ranks."""
    every = torch.cat(tuple(own))
    if _alone:
        return every
    if torch.compiler.is_compiling():
        # torch 2.11 loses what a collective writes in place where it traces an autograd function's backward.
        from torch.distributed import _functional_collectives as functional

        return functional.all_reduce(every, "sum", group)
    dist.all_reduce(every, group=group)
    return every


class _Summed(torch.autograd.Function):
    """`_added_up`, differentiable."""

    @staticmethod
    def forward(ctx: Any, group: dist.ProcessGroup, *own: Tensor) -> Tensor:
        ctx.group, ctx.lengths = group, [len(vector) for vector in own]
        return _added_up(own, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # Every rank's result depends on every rank's part.
        return None, *_Summed.apply(ctx.group, gradient).split(ctx.lengths)


def _gathered(own: Tensor, group: dist.ProcessGroup) -> Tensor:
    """own [L] of every rank -> [ranks, L]."""
    if _alone:
        return own[None]
    if torch.compiler.is_compiling():
        from torch.distributed import _functional_collectives as functional

        return functional.all_gather_tensor(own, 0, group).view(-1, len(own))
    # Before torch 2.13 it was called all_gather_into_tensor.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    every = own.new_empty(group.size() * len(own))
    gather(every, own, group=group)
    return every.view(-1, len(own))


@contextmanager
def alone() -> Iterator[None]:
    """Calls inside the context ask no other rank: their statistics are the rank's own."""
    global _alone
    previous, _alone = _alone, True
    try:
        yield
    finally:
        _alone = previous


def breaks_graph(x: object, *groups: dist.ProcessGroup | None) -> bool:
    """Whether torch.compile has to leave a call with these groups to eager execution: that of a rank without
    images, whose kernels are not launched (`_fakes.no_pixels`), as no graph can say."""
    return (
        torch.compiler.is_compiling()
        and any(group is not None for group in groups)
        and isinstance(x, Tensor)
        and x.dim() == 4
        and x.shape[0] == 0
        and _backend.resolve(x).normalises_on_load
    )


@_compiler.eager
def run_eagerly(function: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:
    """function(...) outside of the graph that is being compiled."""
    return function(*args, **options)
