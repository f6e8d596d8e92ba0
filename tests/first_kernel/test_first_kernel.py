"""The example of docs/emulator.md does what the document says."""

from __future__ import annotations

import numpy as np
import pytest

from tests.first_kernel.__main__ import scaled


@pytest.mark.parametrize("timing", ["late", "early", "random"])
@pytest.mark.parametrize("backend", ["emulated", "checked"])
def test_the_first_kernel_scales_a_matrix_of_whole_and_partial_tiles(
    backend: str, timing: str
) -> None:
    x = np.arange(20 * 100, dtype=np.float32).reshape(20, 100)
    np.testing.assert_array_equal(scaled(backend, x, 3, schedule="random", tma=timing), 3 * x)
