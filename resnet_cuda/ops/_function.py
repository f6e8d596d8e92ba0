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
    if torch.compiler.is_compiling():
        return function.apply(*_without_repetitions(args))
    if torch._C._are_functorch_transforms_active():
        return function.apply(*args)
    return super(torch.autograd.Function, function).apply(*args)  # type: ignore[misc]


def _without_repetitions(args: tuple[Any, ...]) -> list[Any]:
    """The arguments with a view in place of a tensor that has come before: dynamo follows no call with one twice."""
    distinct: list[Any] = []
    for arg in args:
        again = isinstance(arg, torch.Tensor) and any(arg is other for other in distinct)
        distinct.append(arg.view_as(arg) if again else arg)
    return distinct
