"""Stage `reference_kernels`: GEMMs and convolutions of each generation against torch in fp64, and the first kernel of
docs/emulator.md."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.hardware.protocol import Check, Skip, run_checks

if TYPE_CHECKING:
    from benchmarks.hardware.child import Context
    from tests.reference_kernels.problems import Problem


def run(context: Context) -> int:
    backend = "emulated" if context.dry else "cuda"
    return run_checks(
        checks(backend), context.skip, lambda: not context.dry and is_spoiled(backend)
    )


def checks(backend: str) -> Iterator[Check]:
    from tests.reference_kernels.__main__ import capability_of
    from tests.reference_kernels.problems import all_problems

    capability = capability_of(backend)
    for problem in all_problems():
        yield Check(problem.name, partial(_problem, problem, backend, capability))
    yield Check("first kernel", partial(_first_kernel, backend, capability))


def _problem(problem: Problem, backend: str, capability: int) -> None:
    from tests.reference_kernels.__main__ import complaint_about
    from tests.reference_kernels.problems import HOPPER

    if problem.library == HOPPER and capability < 90:
        raise Skip(f"needs compute capability 9.0; this device has {capability / 10}")
    complaint = complaint_about(problem, backend)
    assert not complaint, complaint


def _first_kernel(backend: str, capability: int) -> None:
    from tests.first_kernel.__main__ import scaled

    if capability < 90:
        raise Skip(f"needs compute capability 9.0; this device has {capability / 10}")
    x = np.arange(20 * 100, dtype=np.float32).reshape(20, 100)
    wrong = int((scaled(backend, x, 3) != 3 * x).sum())
    assert not wrong, f"{wrong} of {x.size} values are wrong"


def is_spoiled(backend: str) -> bool:
    """Whether memory can no longer be written and read back."""
    from tests.device_library.library import DeviceError
    from tests.reference_kernels.launch import open_library
    from tests.reference_kernels.problems import AMPERE

    sent = np.arange(4, dtype=np.float32)
    try:
        library = open_library(AMPERE, backend)
        address = library.upload(sent, "sent")
        return not np.array_equal(library.download(address, sent), sent)
    except DeviceError:
        return True
