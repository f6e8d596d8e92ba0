"""Running statistics: they move outside of autograd functions under torch.compile, where those must not
write to their inputs, and not at all in a call that fails."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from resnet_cuda.ops._interface import BatchNormSpec, BatchNormTensors


def is_fault(kind: type[BaseException]) -> bool:
    """Whether a forward that this exception ends has failed. torch.utils.checkpoint leaves one that it
    runs again as soon as it has what it wants, and its batch norms move, as torch's own do."""
    checkpoint = sys.modules.get("torch.utils.checkpoint")
    return kind is not getattr(checkpoint, "_StopRecomputationError", None)


def defer_running_update(
    bn: BatchNormTensors, norm: BatchNormSpec
) -> tuple[BatchNormTensors, bool]:
    """The tensors to call with, and whether the caller has to move the running statistics."""
    if norm.training and bn.running_mean is not None and torch.compiler.is_compiling():
        return bn._replace(running_mean=None, running_var=None), True
    return bn, False


def update_running(
    bn: BatchNormTensors, norm: BatchNormSpec, statistics: tuple[Tensor, Tensor], count: int
) -> None:
    """Moves the running statistics towards the batch's (mean, invstd), each of `count` values; the
    variance is made unbiased."""
    assert bn.running_mean is not None and bn.running_var is not None
    mean, invstd = statistics
    with torch.no_grad():
        var = (invstd.square().reciprocal() - norm.eps) * (count / (count - 1))
        bn.running_mean.lerp_(mean.to(bn.running_mean.dtype), norm.momentum)
        bn.running_var.lerp_(var.to(bn.running_var.dtype), norm.momentum)


class MayTrain(Protocol):
    """A batch norm's description."""

    running_mean: Tensor | None
    running_var: Tensor | None
    training: bool


def restored_on_error(*norms: MayTrain) -> AbstractContextManager[Any]:
    """Running statistics that move inside the context are what they were before if it is left by an
    exception: no memory, an interrupt, a bad argument of a later unit.

    A batch norm's statistics are complete, and moved, by the pass that finalises them; the passes behind
    it can still fail.
    """
    # A compiled graph moves them in its epilogue, when nothing can fail any more.
    if torch.compiler.is_compiling():
        return nullcontext()
    moving: list[Tensor] = []
    for norm in norms:
        if norm.training:
            for vector in (norm.running_mean, norm.running_var):
                if isinstance(vector, Tensor):
                    moving.append(vector)
    return _Restored(moving) if moving else nullcontext()


class _Restored:
    __slots__ = ("_before", "_tensors")

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors

    def __enter__(self) -> None:
        self._before = _copies(self._tensors)

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: Any) -> None:
        if kind is None or not is_fault(kind):
            return
        before = self._before
        if isinstance(before, Tensor):
            before = before.split([len(tensor) for tensor in self._tensors])
        for tensor, value in zip(self._tensors, before, strict=True):
            tensor.data.copy_(value)  # to graphs that have saved the tensor, nothing has changed


def _copies(tensors: list[Tensor]) -> Tensor | Sequence[Tensor]:
    """In one tensor, by one launch, where they are of one dtype on one device."""
    first = tensors[0]
    dtype, device, on_cpu = first.dtype, first.device, first.is_cpu
    for t in tensors:
        elsewhere = not t.is_cpu if on_cpu else t.device != device
        if elsewhere or t.dim() != 1 or t.dtype is not dtype:
            return [tensor.clone() for tensor in tensors]
    return torch.cat(tensors)
