"""The emulator's libraries as fixtures, with options reset and memory freed around every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from copy_kernels import CopyKernels
from emulator_library import Emulator, library_path
from matrix_kernels import MatrixKernels


@pytest.fixture(scope="session")
def _libraries() -> dict[str, Emulator]:
    return {
        "plain": Emulator.open(library_path("libemulator_test_kernels.so")),
        "checked": Emulator.open(library_path("libemulator_test_kernels_checked.so")),
    }


@pytest.fixture
def plain(_libraries: dict[str, Emulator]) -> Iterator[Emulator]:
    """Kernels without instrumentation, no checks."""
    emulator = _libraries["plain"]
    emulator.reset()
    yield emulator
    emulator.reset()


@pytest.fixture
def checked(_libraries: dict[str, Emulator]) -> Iterator[Emulator]:
    """Instrumented kernels, every check on."""
    emulator = _libraries["checked"]
    emulator.reset()
    yield emulator
    emulator.reset()


@pytest.fixture(params=["plain", "checked"])
def either(request: pytest.FixtureRequest) -> Emulator:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def _copy_libraries() -> dict[str, CopyKernels]:
    return {
        "plain": CopyKernels.open(library_path("libemulator_copy_kernels.so")),
        "checked": CopyKernels.open(library_path("libemulator_copy_kernels_checked.so")),
    }


@pytest.fixture
def plain_copies(_copy_libraries: dict[str, CopyKernels]) -> Iterator[CopyKernels]:
    """Kernels of asynchronous copies without instrumentation, no checks."""
    emulator = _copy_libraries["plain"]
    emulator.reset()
    yield emulator
    emulator.reset()


@pytest.fixture
def checked_copies(_copy_libraries: dict[str, CopyKernels]) -> Iterator[CopyKernels]:
    """Instrumented kernels of asynchronous copies, every check on."""
    emulator = _copy_libraries["checked"]
    emulator.reset()
    yield emulator
    emulator.reset()


@pytest.fixture(params=["plain", "checked"])
def copies(request: pytest.FixtureRequest) -> CopyKernels:
    return request.getfixturevalue(f"{request.param}_copies")


@pytest.fixture(scope="session")
def _matrix_libraries() -> dict[str, MatrixKernels]:
    return {
        "plain": MatrixKernels.open(library_path("libemulator_matrix_kernels.so")),
        "checked": MatrixKernels.open(library_path("libemulator_matrix_kernels_checked.so")),
    }


@pytest.fixture
def plain_matrix(_matrix_libraries: dict[str, MatrixKernels]) -> Iterator[MatrixKernels]:
    emulator = _matrix_libraries["plain"]
    emulator.reset()
    yield emulator
    emulator.reset()


@pytest.fixture
def checked_matrix(_matrix_libraries: dict[str, MatrixKernels]) -> Iterator[MatrixKernels]:
    emulator = _matrix_libraries["checked"]
    emulator.reset()
    yield emulator
    emulator.reset()


@pytest.fixture(params=["plain_matrix", "checked_matrix"])
def either_matrix(request: pytest.FixtureRequest) -> MatrixKernels:
    return request.getfixturevalue(request.param)
