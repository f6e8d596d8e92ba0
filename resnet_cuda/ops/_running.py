"""Running statistics: they move outside of autograd functions under torch.compile, where those must not
write to their inputs, and not at all in a call that fails."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
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


def moves_outside() -> bool:
    """Whether an autograd function moves copies of running statistics, outputs of it, in place of its inputs."""
    return torch.compiler.is_compiling()


def running(
    norms: Iterable[tuple[BatchNormTensors | None, BatchNormSpec | None]],
) -> list[Tensor]:
    """The running statistics that move, in the order of the batch norms."""
    found: list[Tensor] = []
    for bn, norm in norms:
        if bn is not None and norm is not None and norm.training:
            found += [v for v in (bn.running_mean, bn.running_var) if v is not None]
    return found


def with_copies(bn: BatchNormTensors, norm: BatchNormSpec | None) -> BatchNormTensors:
    """With copies of what moves."""
    if norm is None or not norm.training:
        return bn
    mean, var = (None if v is None else v.clone() for v in (bn.running_mean, bn.running_var))
    return bn._replace(running_mean=mean, running_var=var)


def take_over(running: Sequence[Tensor], moved: Sequence[Tensor]) -> None:
    """Gives running statistics the values of their copies."""
    with torch.no_grad():
        for tensor, value in zip(running, moved, strict=True):
            tensor.copy_(value)


class MayTrain(Protocol):
    """A batch norm's description."""

    running_mean: Tensor | None
    running_var: Tensor | None
    training: bool


def restored_on_error(*norms: MayTrain, restores: bool = True) -> AbstractContextManager[Any]:
    """Running statistics that move inside the context are what they were before if it is left by an
    exception: no memory, an interrupt, a bad argument of a later unit.

    A batch norm's statistics are complete, and moved, by the pass that finalises them; the passes behind
    it can still fail. restores: False where the caller restores them.
    """
    moving: list[Tensor] = []
    for norm in norms:
        if restores and norm.training:
            for vector in (norm.running_mean, norm.running_var):
                if isinstance(vector, Tensor):
                    moving.append(vector)
    # A compiled graph moves them in its epilogue, when nothing can fail any more.
    return _Restored(moving) if moving and not torch.compiler.is_compiling() else _NOTHING


_NOTHING = nullcontext()


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
