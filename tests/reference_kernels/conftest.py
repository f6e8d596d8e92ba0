"""The libraries of the reference kernels as fixtures."""

from __future__ import annotations

import pytest

from tests.device_library.library import DeviceLibrary
from tests.reference_kernels.launch import open_library

LIBRARIES = ("reference_ampere", "reference_hopper")


@pytest.fixture(scope="session")
def plain_libraries() -> dict[str, DeviceLibrary]:
    return {name: open_library(name, "emulated") for name in LIBRARIES}


@pytest.fixture(scope="session")
def checked_libraries() -> dict[str, DeviceLibrary]:
    return {name: open_library(name, "checked") for name in LIBRARIES}
