"""Reads and writes golden.npz: every distinct array once, in one block of bytes beside an index.

Arrays of small integers, whatever number format their bits are in, are kept as the integers: the file stays small.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.probes.probe import Vectors

PATH = Path(__file__).with_name("golden.npz")
HOLE = -128  # stands for the NaN that fills gaps in images of shared memory

Codec = tuple[str, type, Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]


def _bfloat16_decode(values: np.ndarray) -> np.ndarray:
    bits = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return np.where(values == HOLE, np.uint16(0x7FFF), bits)


def _bfloat16_encode(bits: np.ndarray) -> np.ndarray:
    values = (bits.astype(np.uint32) << 16).view(np.float32)
    return np.where(bits == 0x7FFF, np.float32(HOLE), values)


def _float32_decode(values: np.ndarray) -> np.ndarray:
    bits = values.astype(np.float32).view(np.uint32)
    return np.where(values == HOLE, np.uint32(0x7FFFFFFF), bits)


def _float32_encode(bits: np.ndarray) -> np.ndarray:
    return np.where(bits == 0x7FFFFFFF, np.float32(HOLE), bits.view(np.float32))


# name, type of the array, to integers, and back
CODECS: list[Codec] = [
    ("bfloat16", np.uint16, _bfloat16_encode, _bfloat16_decode),
    ("float32 bits", np.uint32, _float32_encode, _float32_decode),
    ("float32", np.float32, lambda x: x, lambda x: x.astype(np.float32)),
    ("float64", np.float64, lambda x: x, lambda x: x.astype(np.float64)),
    ("uint16", np.uint16, lambda x: x, lambda x: x.astype(np.uint16)),
    ("uint32", np.uint32, lambda x: x, lambda x: x.astype(np.uint32)),
]
DECODERS = {name: decode for name, _, _, decode in CODECS}


def _pack(array: np.ndarray) -> tuple[str, np.ndarray]:
    """The codec's name, or none, and what to keep: the narrowest integers that give the same bits."""
    with np.errstate(invalid="ignore"):
        for narrow in (np.int8, np.uint8, np.int16, np.uint16):
            for name, dtype, encode, decode in CODECS:
                if array.dtype != dtype:
                    continue
                kept = encode(array).astype(narrow)
                if decode(kept).tobytes() == array.tobytes():
                    return name, kept
    return "", array


def save(vectors: dict[str, Vectors], path: Path = PATH) -> None:
    blocks: list[bytes] = []
    places: dict[bytes, int] = {}
    size = 0

    def add(array: np.ndarray) -> list:
        nonlocal size
        codec, kept = _pack(np.ascontiguousarray(array))
        raw = kept.tobytes()
        if raw not in places:
            places[raw] = size
            blocks.append(raw)
            size += len(raw)
        return [codec, kept.dtype.str, list(array.shape), places[raw]]

    index = {
        name: {
            "inputs": [add(array) for array in held.inputs],
            "expected": add(held.expected),
            "initial": None if held.initial is None else add(held.initial),
        }
        for name, held in vectors.items()
    }
    np.savez_compressed(
        path,
        data=np.frombuffer(b"".join(blocks), np.uint8),
        index=np.frombuffer(json.dumps(index).encode(), np.uint8),
    )


def load(path: Path = PATH) -> dict[str, Vectors]:
    with np.load(path) as file:
        data, index = file["data"], json.loads(file["index"].tobytes())

    def array(entry: list | None) -> np.ndarray | None:
        if entry is None:
            return None
        codec, dtype, shape, start = entry
        count = int(np.prod(shape))
        kept = data[start : start + count * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
        return DECODERS[codec](kept) if codec else kept

    return {
        name: Vectors(
            tuple(array(entry) for entry in held["inputs"]),
            array(held["expected"]),
            array(held["initial"]),
        )
        for name, held in index.items()
    }
