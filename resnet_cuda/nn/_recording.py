"""Where `explain` listens: every fused module announces the call that it is about to make."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from resnet_cuda.ops import ConvUnit, Identity, ZeroPad
from resnet_cuda.ops.max_pool2d import PoolWindow


class BranchCall(NamedTuple):
    """A residual branch, or a single unit (then with the residual it adds or the pool behind it, if any)."""

    x: Tensor
    units: Sequence[ConvUnit]
    shortcut: ConvUnit | Identity | ZeroPad | None = None
    residual: Tensor | None = None
    max_pool: PoolWindow | None = None


_listener: Callable[[BranchCall], None] | None = None


def announce(
    x: Tensor,
    units: Sequence[ConvUnit],
    shortcut: ConvUnit | Identity | ZeroPad | None = None,
    residual: Tensor | None = None,
    max_pool: PoolWindow | None = None,
) -> None:
    """Tell the listener, if there is one."""
    if _listener is not None:
        _listener(BranchCall(x, units, shortcut, residual, max_pool))


@contextmanager
def listening(listener: Callable[[BranchCall], None]) -> Iterator[None]:
    """Hand every call that fused modules make inside the context to `listener`."""
    global _listener
    previous, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = previous
