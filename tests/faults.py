"""Faults put into calls: memory that is refused, and interrupts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def allocations(refuse: Callable[[int, torch.dtype | None], None]) -> Iterator[None]:
    """Has every torch.empty on the CPU, those inside of our raw ops too, ask `refuse(elements, dtype)` first, which
    raises where there is to be no memory."""

    def empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):  # type: ignore[no-untyped-def]
        refuse(torch.Size(size).numel(), dtype)
        strides = torch.empty(size, device="meta", memory_format=memory_format).stride()
        return torch.empty_strided(size, strides, dtype=dtype)

    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*Overriding a previously registered kernel")
        library.impl("empty.memory_format", empty, "CPU", allow_override=True)
    try:
        yield
    finally:
        library._destroy()


class FaultAt(TorchDispatchMode):
    """Raises `error` once, at one of the points where a call inside can fail: before each operation that torch
    dispatches, which is behind the one before, and at the allocations inside of it that `allocations` sees.

    Args:
        point: from 0; None: nowhere, to count the points.
    """

    def __init__(self, point: int | None, error: BaseException) -> None:
        super().__init__()
        self.point, self.error = point, error
        self.points = 0
        self.where = ""  # the operation that failed
        self._operation = "an allocation outside of any operation"

    def _pass(self, *_: Any) -> None:
        self.points += 1
        if self.point is not None and self.points == self.point + 1:
            self.where = self._operation
            raise self.error

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self._operation = f"before {func}"
        self._pass()
        self._operation = f"in {func}"
        return func(*args, **(kwargs or {}))

    @classmethod
    @contextmanager
    def no_memory(cls, point: int | None) -> Iterator[FaultAt]:
        """Memory ends at this point."""
        mode = cls(point, torch.OutOfMemoryError("out of memory, says the test"))
        with allocations(mode._pass), mode:
            yield mode

    @classmethod
    @contextmanager
    def interrupt(cls, point: int | None) -> Iterator[FaultAt]:
        """Somebody presses Ctrl-C between two operations: Python does not look at signals inside of one."""
        with cls(point, KeyboardInterrupt()) as mode:
            yield mode
