"""torch.compile's marks without loading it: torch.compiler's own decorators import the whole compiler where they are
applied, a second of every `import resnet_cuda`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])


def constant_result(function: _Function) -> _Function:
    """What `torch.compiler.assume_constant_result` does: the result is taken as a constant of the graph."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def eager(function: _Function) -> _Function:
    """What `torch.compiler.disable` does, on the first call: the function runs outside of every graph."""
    lazily = getattr(torch, "_disable_dynamo", torch.compiler.disable)
    return cast(_Function, lazily(function))
