"""The models by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from torch import nn

from resnet_cuda.models.features import PreActResNetFeatures, ResNetFeatures
from resnet_cuda.reference.preact_resnet import PreActResNet

ModelFunction = Callable[..., Any]
_Registered = TypeVar("_Registered", bound=ModelFunction)


class _Model(NamedTuple):
    function: ModelFunction
    image_size: int


_models: dict[str, _Model] = {}


def register_model(function: _Registered, image_size: int = 224) -> _Registered:
    """Decorator: list the model under the function's name; image_size: pixels per side of its paper's images."""
    _models[function.__name__] = _Model(function, image_size)
    return function


def list_models() -> list[str]:
    """The names that `create_model` accepts, in alphabetical order."""
    return sorted(_models)


def image_size(name: str) -> int:
    """Pixels per side of the images that the model is made for. Raises ValueError for an unknown name."""
    return _find(name).image_size


def create_model(
    name: str,
    *,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    **options: Any,
) -> nn.Module:
    """The model of that name, randomly initialised.

    Args:
        name: one of `list_models()`.
        features_only: a `ResNetFeatures` or `PreActResNetFeatures` in place of the classifier.
        out_indices: which feature maps: 0 is the stem's, i stage i's; None: all stages.
        options: the keyword arguments of the model's function; with `output_stride`, the last stages dilate.

    Raises:
        ValueError: an unknown name, or an option outside its accepted values.
        TypeError: an unknown option.
    """
    if out_indices is not None and not features_only:
        raise ValueError(f"out_indices={tuple(out_indices)}: expected None without features_only")
    model: nn.Module = _find(name).function(**options)
    if not features_only:
        return model
    features = PreActResNetFeatures if isinstance(model, PreActResNet) else ResNetFeatures
    return features(model, out_indices)


def _find(name: str) -> _Model:
    if name not in _models:
        near = difflib.get_close_matches(name, list_models())
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"name={name!r}: {hint}expected one of {', '.join(list_models())}")
    return _models[name]
