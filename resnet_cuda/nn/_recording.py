"""Where `explain` listens: every fused module announces the call that it is about to make."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from resnet_cuda.ops import (
    ConvUnit,
    Identity,
    NormUnit,
    ZeroPad,
    bottleneck_expand,
    conv_unit,
    residual_branch,
)
from resnet_cuda.ops._branch import BranchOptions
from resnet_cuda.ops.max_pool2d import PoolWindow


class BranchCall(NamedTuple):
    """A residual branch, or a single unit (then with the residual it adds or the pool behind it, if any)."""

    x: Tensor
    units: Sequence[ConvUnit]
    shortcut: ConvUnit | Identity | ZeroPad | None = None
    residual: Tensor | None = None
    max_pool: PoolWindow | None = None
    options: BranchOptions = BranchOptions()
    entry: NormUnit | None = None
    relu: bool = True  # behind a branch's sum
    training: bool = (
        False  # whether a convolution without batch norm, which would say so, is trained
    )

    @property
    def is_branch(self) -> bool:
        """Whether it is a call of `residual_branch`."""
        alone = self.shortcut is None and len(self.units) == 1 and self.units[0].batch_norm
        return self.residual is None and not alone

    @property
    def is_training(self) -> bool:
        """Whether any batch norm takes batch statistics, or is said to train."""
        shortcut = self.shortcut if isinstance(self.shortcut, ConvUnit) else None
        norms = (*self.units, shortcut, self.entry)
        return self.training or any(norm.training for norm in norms if norm is not None)

    def run(self) -> Tensor:
        """Makes the call again."""
        last = self.units[-1]
        if self.is_branch:
            return residual_branch(
                self.x,
                self.units,
                self.shortcut,
                entry=self.entry,
                relu=self.relu,
                **self.options._asdict(),
            )
        if self.residual is not None and isinstance(self.shortcut, ConvUnit):
            return bottleneck_expand(
                *(self.x, last.weight, *last.bn(), self.residual),
                projection=self.shortcut,
                training=last.training,
                momentum=last.momentum,
                eps=last.eps,
                process_group=last.process_group,
            )
        return conv_unit(self.x, last, self.residual)


_listener: Callable[[BranchCall], None] | None = None


def announce(
    x: Tensor,
    units: Sequence[ConvUnit],
    shortcut: ConvUnit | Identity | ZeroPad | None = None,
    **more: Any,
) -> None:
    """Tell the listener, if there is one; `more` as in `BranchCall`."""
    if _listener is not None:
        _listener(BranchCall(x, units, shortcut, **more))


def is_heard() -> bool:
    """Whether anybody listens; where nobody does, a call need not be described."""
    return _listener is not None


@contextmanager
def listening(listener: Callable[[BranchCall], None]) -> Iterator[None]:
    """Hand every call that fused modules make inside the context to `listener`."""
    global _listener
    previous, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = previous
