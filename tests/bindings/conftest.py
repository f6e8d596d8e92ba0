"""The raw ops on the emulator. These tests are about what the bindings add: checks, allocation, staging, selection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resnet_cuda import _selection


@pytest.fixture
def emulator() -> Iterator[None]:
    """The plain emulated library serves raw ops on CPU tensors; afterwards whatever did before does again."""
    before = _selection.selected_emulator()
    _selection.select_emulator(_selection.emulator_library(checked=False))
    yield
    _selection.select_emulator(*before)


@pytest.fixture
def no_emulator() -> Iterator[None]:
    """Nothing serves raw ops on CPU tensors."""
    before = _selection.selected_emulator()
    _selection.select_emulator(None)
    yield
    _selection.select_emulator(*before)
