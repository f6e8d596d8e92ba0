"""What a probe is: a kernel around one wrapper of csrc/ptx, what it is given, and what it must answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

INPUTS = 3
NUMBERS = 40  # as ProbeParams in probe.cuh

AMPERE, HOPPER = 80, 90


@dataclass(frozen=True)
class Vectors:
    """A probe's inputs and the output they must give, bit by bit.

    `initial` is what the output holds before the launch; without it, nothing that counts as written.
    """

    inputs: tuple[np.ndarray, ...]
    expected: np.ndarray
    initial: np.ndarray | None = None


@dataclass(frozen=True)
class Probe:
    """`describe` computes the vectors from a description of the instruction that shares nothing with the emulator.

    Only generate_golden.py calls it: a run takes the vectors from the repository. `axes` names the dimensions of
    the output in messages.
    """

    name: str
    kernel: str
    describe: Callable[[], Vectors]
    axes: tuple[str, ...]
    numbers: tuple[int, ...] = ()
    capability: int = AMPERE

    @property
    def library(self) -> str:
        return "probes_ampere" if self.capability == AMPERE else "probes_hopper"


def random(seed: int, low: int, high: int, *shape: int) -> np.ndarray:
    """Integers of [low, high)."""
    return np.random.Generator(np.random.PCG64(seed)).integers(low, high, shape)


def words(values: np.ndarray) -> np.ndarray:
    """Integers as 32-bit words."""
    return np.asarray(values).astype(np.int64).astype(np.uint32)


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Numbers that bfloat16 holds exactly, as 16-bit words."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    if np.any(bits & 0xFFFF):
        raise ValueError("not exact in bfloat16")
    return (bits >> 16).astype(np.uint16)


def float16_bits(values: np.ndarray) -> np.ndarray:
    half = np.asarray(values, np.float16)
    if np.any(half.astype(np.float64) != values):
        raise ValueError("not exact in float16")
    return half.view(np.uint16)


def float32_bits(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32).view(np.uint32)
