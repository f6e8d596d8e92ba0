"""The emulator's libraries as fixtures, plain and checked, with options reset and memory freed around every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from emulator_library import Emulator, library_path
from named_kernels import NamedKernels


def _fresh(emulator: Emulator) -> Iterator[Emulator]:
    emulator.reset()
    yield emulator
    emulator.reset()


@pytest.fixture(scope="session")
def _libraries() -> dict[str, Emulator]:
    """By the names of the fixtures."""
    kinds = [
        ("", Emulator, "test"),
        ("_copies", NamedKernels, "copy"),
        ("_matrix", NamedKernels, "matrix"),
    ]
    return {
        f"{variant}{fixture}": kind.open(library_path(f"libemulator_{name}_kernels{suffix}.so"))
        for fixture, kind, name in kinds
        for variant, suffix in (("plain", ""), ("checked", "_checked"))
    }


@pytest.fixture
def plain(_libraries: dict[str, Emulator]) -> Iterator[Emulator]:
    """Kernels without instrumentation, no checks."""
    yield from _fresh(_libraries["plain"])


@pytest.fixture
def checked(_libraries: dict[str, Emulator]) -> Iterator[Emulator]:
    """Instrumented kernels, every check on."""
    yield from _fresh(_libraries["checked"])


@pytest.fixture(params=["plain", "checked"])
def either(request: pytest.FixtureRequest) -> Emulator:
    return request.getfixturevalue(request.param)


@pytest.fixture
def plain_copies(_libraries: dict[str, Emulator]) -> Iterator[Emulator]:
    """Kernels of asynchronous copies."""
    yield from _fresh(_libraries["plain_copies"])


@pytest.fixture
def checked_copies(_libraries: dict[str, Emulator]) -> Iterator[Emulator]:
    yield from _fresh(_libraries["checked_copies"])


@pytest.fixture(params=["plain", "checked"])
def copies(request: pytest.FixtureRequest) -> NamedKernels:
    return request.getfixturevalue(f"{request.param}_copies")


@pytest.fixture
def plain_matrix(_libraries: dict[str, Emulator]) -> Iterator[Emulator]:
    """Kernels of matrix instructions."""
    yield from _fresh(_libraries["plain_matrix"])


@pytest.fixture
def checked_matrix(_libraries: dict[str, Emulator]) -> Iterator[Emulator]:
    yield from _fresh(_libraries["checked_matrix"])


@pytest.fixture(params=["plain_matrix", "checked_matrix"])
def either_matrix(request: pytest.FixtureRequest) -> NamedKernels:
    return request.getfixturevalue(request.param)
