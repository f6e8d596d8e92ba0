"""Where a trace listens: the executor of branches says which convolution its next passes serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

_listener: Callable[[Tensor], None] | None = None


def serve(weight: Tensor) -> None:
    """The passes from here on belong to the convolution with these filters."""
    if _listener is not None:
        _listener(weight)


@contextmanager
def listening(listener: Callable[[Tensor], None]) -> Iterator[None]:
    """Hand the filters of every convolution that is served inside the context to `listener`."""
    global _listener
    previous, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = previous
