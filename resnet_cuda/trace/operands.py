"""What a dispatched operation reads and writes, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

_ALLOCATE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
_GATHER = {"index", "index_select"}
_OVERWRITE = {"copy_", "fill_", "zero_", "normal_", "uniform_", "random_"}


class Operand(NamedTuple):
    """argument: its name in the schema; "" of a result. size: the bytes that are touched."""

    argument: str
    tensor: Tensor
    written: bool
    size: int


def operands(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
) -> list[Operand]:
    """Of one call of an operator, in the schema's order; none where it touches metadata alone. An
    in-place operation reads what it changes, one that overwrites does not; one that gathers reads as
    much as it writes."""
    name = func._schema.name.partition("::")[2]
    if name in _ALLOCATE or func.is_view or torch.Tag.inplace_view in func.tags:
        return []
    named = arguments(func, args, kwargs)
    results = sum(stored_bytes(t) for t in tensors(out))
    found, inputs = [], set()
    for argument in func._schema.arguments:
        changed = argument.alias_info is not None and argument.alias_info.is_write
        for tensor in tensors(named.get(argument.name)):
            inputs.add(storage(tensor))
            size = stored_bytes(tensor)
            if not (changed and (argument.is_out or name in _OVERWRITE)):
                read = min(size, results) if name in _GATHER else size
                found.append(Operand(argument.name, tensor, False, read))
            if changed:
                found.append(Operand(argument.name, tensor, True, size))
    found += [
        Operand("", t, True, stored_bytes(t)) for t in tensors(out) if storage(t) not in inputs
    ]
    return found if any(operand.written for operand in found) else []


def arguments(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """By name; without those that are left to their defaults."""
    names = (argument.name for argument in func._schema.arguments)
    return dict(zip(names, args, strict=False)) | dict(kwargs)


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        yield from (tensor for item in value for tensor in tensors(item))


def storage(tensor: Tensor) -> int:
    """Which memory it is in: a view has its base's. Valid while the tensor lives."""
    return tensor.untyped_storage()._cdata


def stored_bytes(tensor: Tensor) -> int:
    """Of the elements that are there: an expanded dimension counts once."""
    count = tensor.itemsize
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else min(size, 1)
    return count
