"""Runs the reference kernels on every backend at hand and compares with torch: python -m tests.reference_kernels

A backend is the emulator, plain or checked, or a GPU. Exit status 1 when a result is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.device_library.library import BACKENDS, DeviceError
from tests.reference_kernels.launch import launch, open_library
from tests.reference_kernels.problems import AMPERE, HOPPER, Problem, all_problems


def complaint_about(problem: Problem, backend: str) -> str:
    library = open_library(problem.library, backend)
    try:
        return problem.complaint(launch(library, problem.kernel, problem.buffers, problem.numbers))
    except DeviceError as error:
        return str(error)


def capability_of(backend: str) -> int:
    """10 times the device's compute capability; raises what says that it is not at hand."""
    libraries = [open_library(name, backend) for name in (AMPERE, HOPPER)]
    if backend == "checked":
        for library in libraries:
            library.set_options(check=1)
    return libraries[0].describe()[1]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="default: all")
    options = parser.parse_args(arguments)
    problems = all_problems()
    wrong = 0
    for backend in options.backend or BACKENDS:
        try:
            capability = capability_of(backend)
        except (FileNotFoundError, OSError, DeviceError) as error:
            print(f"{backend}: not at hand: {error}")
            wrong += options.backend is not None
            continue
        for problem in problems:
            if problem.library == HOPPER and capability < 90:
                continue
            complaint = complaint_about(problem, backend)
            wrong += bool(complaint)
            print(f"{backend}: {problem}: {complaint or 'right'}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
