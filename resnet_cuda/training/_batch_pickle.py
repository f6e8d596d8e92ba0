"""The values in a batch of CIFAR's python version, which is a pickle, without unpickling it.

`pickletools` takes a pickle apart and neither imports nor calls anything. What its steps say of numbers, strings,
lists and dicts is followed here; names of Python objects stay names, of which an array's are known and all others
are refused. So are all steps that a batch does not consist of.
"""

from __future__ import annotations

import pickletools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_ARRAYS = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_NAMES = (*_ARRAYS, "numpy ndarray", "numpy dtype", "_codecs encode")
_DTYPES = {f"{kind}{size}" for kind in "uif" for size in (1, 2, 4, 8)} - {"f1"}
_PUSHED = {"BININT", "BININT1", "BININT2", "BINUNICODE"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


class _Name(NamedTuple):
    text: str


class _Made(NamedTuple):
    """What the pickle would have a call make."""

    name: str
    arguments: Sequence[Any]
    state: list[Any]


def read_values(raw: bytes) -> Any:
    """Dicts, lists, numbers, bytes, str and numpy arrays.

    Raises:
        ValueError: it is cut off, or holds what no batch does; the message says what.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = max(i for i, value in enumerate(stack) if value is _MARK)
        values = stack[at + 1 :]
        del stack[at:]
        return values

    for opcode, argument, _ in pickletools.genops(raw):
        step: str = opcode.name
        value: Any = argument
        if step in _PUSHED:
            stack.append(value)
        elif step in ("BINSTRING", "SHORT_BINSTRING"):  # Python 2's strings are bytes
            stack.append(value.encode("latin1"))
        elif step in _CONSTANTS:
            stack.append(_CONSTANTS[step])
        elif step in ("BINPUT", "LONG_BINPUT"):
            memo[value] = stack[-1]
        elif step in ("BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif step == "MARK":
            stack.append(_MARK)
        elif step == "EMPTY_DICT":
            stack.append({})
        elif step == "EMPTY_LIST":
            stack.append([])
        elif step == "TUPLE":
            stack.append(tuple(since_mark()))
        elif step in _TUPLES:
            at = len(stack) - _TUPLES[step]
            stack[at:] = [tuple(stack[at:])]
        elif step in ("APPEND", "APPENDS"):
            values = since_mark() if step == "APPENDS" else [stack.pop()]
            stack[-1].extend(values)
        elif step in ("SETITEM", "SETITEMS"):
            values = since_mark() if step == "SETITEMS" else [stack.pop(-2), stack.pop()]
            stack[-1].update(zip(values[::2], values[1::2], strict=True))
        elif step == "GLOBAL":
            if value not in _NAMES:
                raise ValueError(f"it asks for {value.replace(' ', '.')}, which no batch needs")
            stack.append(_Name(value))
        elif step == "REDUCE":
            arguments, name = stack.pop(), stack.pop()
            stack.append(_made(name.text, arguments))
        elif step == "BUILD":
            state = stack.pop()
            stack[-1].state.append(state)
        elif step == "STOP":
            (value,) = stack
            return _with_arrays(value)
        elif step != "PROTO":
            raise ValueError(f"it has a step {step}, which no batch needs")
    raise ValueError("it does not end")


def _made(name: str, arguments: Sequence[Any]) -> Any:
    if name != "_codecs encode":
        return _Made(name, arguments, [])
    text, encoding = arguments  # how protocol 2 stores the bytes of Python 3
    if encoding != "latin1":
        raise ValueError(f"encoding {encoding!r} is not one that a batch needs")
    return text.encode("latin1")


def _with_arrays(value: Any) -> Any:
    """A dict's arrays in place of what describes them."""
    if not isinstance(value, dict):
        return value
    return {key: _array(v) if isinstance(v, _Made) else v for key, v in value.items()}


def _array(made: _Made) -> np.ndarray[Any, Any]:
    if made.name not in _ARRAYS:
        raise ValueError(f"it has a {made.name.replace(' ', '.')}, which no batch needs")
    (state,) = made.state
    _, shape, dtype, by_columns, data = state
    code = dtype.arguments[0]
    code = code.decode("latin1") if isinstance(code, bytes) else code
    if dtype.name != "numpy dtype" or code not in _DTYPES:
        raise ValueError(f"its array is of {code!r}, which no batch is")
    return np.frombuffer(data, np.dtype(code)).reshape(shape, order="F" if by_columns else "C")
