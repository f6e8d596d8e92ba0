"""The libraries of the reference kernels as fixtures."""

from __future__ import annotations

from functools import cache

import pytest

from tests.device_library.device_library import DeviceLibrary, open_library

_open = cache(open_library)


@pytest.fixture(scope="session")
def plain_libraries() -> dict[str, DeviceLibrary]:
    return {name: _open(name) for name in ("reference_ampere", "reference_hopper")}


@pytest.fixture(scope="session")
def checked_libraries() -> dict[str, DeviceLibrary]:
    return {name: _open(f"{name}_checked") for name in ("reference_ampere", "reference_hopper")}
