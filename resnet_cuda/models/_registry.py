"""The models by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from torch import nn

ModelFunction = Callable[..., Any]

_models: dict[str, ModelFunction] = {}


def register_model(function: ModelFunction) -> ModelFunction:
    """Decorator: list the model under the function's name."""
    _models[function.__name__] = function
    return function


def list_models() -> list[str]:
    """The names that `create_model` accepts, in alphabetical order."""
    return sorted(_models)


def create_model(name: str, **options: Any) -> nn.Module:
    """The model of that name, randomly initialised.

    Options: the keyword arguments of the model's function. Raises ValueError for an unknown name.
    """
    if name not in _models:
        near = difflib.get_close_matches(name, list_models())
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"name={name!r}: {hint}expected one of {', '.join(list_models())}")
    model: nn.Module = _models[name](**options)
    return model
