"""Calling an autograd function without the cost of binding its signature."""

from __future__ import annotations

from typing import Any

import torch


def apply_function(function: type[torch.autograd.Function], *args: Any) -> Any:
    """function.apply(*args), all arguments given.

    With `setup_context`, `Function.apply` inspects the signature of `forward` at every call (about
    30 us) to fill in defaults. Outside of torch.func's transforms and of tracing nothing else
    happens there, so the call below it is made directly.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return function.apply(*args)
    return super(torch.autograd.Function, function).apply(*args)  # type: ignore[misc]
