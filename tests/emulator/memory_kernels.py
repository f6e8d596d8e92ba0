"""The kernels of planted_faults.cu, each in its family's shape."""

from __future__ import annotations

import numpy as np
from emulator_library import Emulator

N = 64  # the transposed matrix is N x N


def values(count: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 200, count).astype(np.float32)


def launch(emulator: Emulator, kernel: str) -> tuple[str, np.ndarray, np.ndarray]:
    """Runs a kernel in its family's shape; returns the error and the outputs y and counts."""
    family = kernel.split("_")[0]
    grid, block, x_count, y_count = {
        "reduction": ((4,), (256,), 3000, 4),
        "transpose": ((N // 32, N // 32), (32, 8), N * N, N * N),
        "histogram": ((3,), (128,), 3000, 1),
        "exchange": ((1,), (64,), 64, 64),
        "narrow": ((4,), (64,), 64, 63),
        "collectives": ((1,), (64,), 64, 64),
        "vector": ((8,), (64,), 2048, 2048),
    }[family]
    x = emulator.upload(values(x_count), "x")
    y = emulator.empty(y_count, np.float32, "y")
    counts = emulator.upload(np.zeros(64, np.int32), "counts")
    n = N if family == "transpose" else x_count
    error = emulator.launch(kernel, grid, block, x, y, counts, n)
    return error, y.array.copy(), counts.array.copy()
