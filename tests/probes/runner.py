"""Runs probes on one backend and compares, bit by bit."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from tests.device_library.library import DeviceError, DeviceLibrary, library_path
from tests.probes.probe import INPUTS, NUMBERS, Probe, Vectors

LIBRARIES = ("probes_ampere", "probes_hopper")


@dataclass(frozen=True)
class Policy:
    """An order of threads, and when asynchronous operations complete."""

    schedule: str
    completion: str
    seed: int = 1

    def __str__(self) -> str:
        return f"{self.schedule}, {self.completion}, seed {self.seed}"


FIXED = [
    Policy("round_robin", "late"),
    Policy("reversed", "early"),
    Policy("reversed", "late"),
    Policy("round_robin", "early"),
]
POLICIES: dict[str, list[Policy | None]] = {
    "emulated": [*FIXED, *(Policy("random", "random", seed) for seed in range(1, 5))],
    "checked": [*FIXED, *(Policy("random", "random", seed) for seed in range(1, 5))],
    "cuda": [None],  # the hardware has its own
}


@dataclass
class Result:
    """`status`: passed, failed, hung, or skipped; `message` says why."""

    probe: str
    kernel: str
    status: str
    message: str = ""
    seconds: float = 0.0
    policies: list[str] = field(default_factory=list)


def first_difference(probe: Probe, expected: np.ndarray, got: np.ndarray) -> str:
    """Names the first element whose bits differ; empty where there is none."""
    bits = np.dtype(f"u{expected.dtype.itemsize}")
    differs = np.argwhere(expected.view(bits) != got.view(bits))
    if not len(differs):
        return ""
    at = tuple(differs[0])
    place = ", ".join(f"{axis} {index}" for axis, index in zip(probe.axes, at, strict=True))

    def shown(array: np.ndarray) -> str:
        value, raw = array[at], array.view(bits)[at]
        return f"{value} (0x{raw:0{2 * expected.dtype.itemsize}x})"

    count = f"{len(differs)} of {expected.size} elements differ"
    return f"at {place}: got {shown(got)}, expected {shown(expected)}; {count}"


class Backend:
    """The probes' libraries on one backend, open."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.libraries: dict[str, DeviceLibrary] = {}
        for library in LIBRARIES:
            if path := library_path(library, name):
                self.libraries[library] = DeviceLibrary(path)
        missing = [library for library in LIBRARIES if library not in self.libraries]
        if missing:
            raise DeviceError(
                f"{', '.join(missing)} for '{name}' is not built: build the CMake target probes, or "
                "set RNC_TEST_LIB_DIR to the folder that holds the libraries"
            )
        self.device, self.capability = self.libraries[LIBRARIES[0]].describe()

    def launch(self, probe: Probe, vectors: Vectors) -> np.ndarray:
        """The output of one launch; raises DeviceError."""
        library = self.libraries[probe.library]
        memory: list[int] = []
        try:
            if vectors.initial is None:
                memory.append(library.allocate(vectors.expected.nbytes, "out"))
            else:
                memory.append(library.upload(vectors.initial, "out"))
            for index, array in enumerate(vectors.inputs):
                memory.append(library.upload(array, f"in[{index}]"))
            absent = [None] * (1 + INPUTS - len(memory))
            numbers = [*probe.numbers, *[0] * (NUMBERS - len(probe.numbers))]
            library.launch(probe.kernel, [*memory, *absent], numbers)
            return library.download(memory[0], vectors.expected)
        finally:
            for address in memory:
                library.free(address)

    def set_policy(self, probe: Probe, policy: Policy) -> None:
        self.libraries[probe.library].set_options(
            schedule=policy.schedule,
            seed=policy.seed,
            cp_async=policy.completion,
            tma=policy.completion,
            wgmma=policy.completion,
            check=int(self.name == "checked"),
            workers=1,
        )

    def run(self, probe: Probe, vectors: Vectors) -> Result:
        """The probe under every policy of the backend, up to the first that fails."""
        result = Result(probe.name, probe.kernel, "passed")
        if self.capability < probe.capability:
            needed, have = probe.capability / 10, self.capability / 10
            result.status = "skipped"
            result.message = f"needs compute capability {needed}; {self.device} has {have}"
            return result
        start = time.perf_counter()
        for policy in POLICIES[self.name]:
            result.policies.append(str(policy or "hardware"))
            try:
                if policy:
                    self.set_policy(probe, policy)
                message = first_difference(probe, vectors.expected, self.launch(probe, vectors))
            except DeviceError as error:
                message = str(error)
            if message:
                result.status = "failed"
                result.message = f"({policy}) {message}" if policy else message
                break
        result.seconds = time.perf_counter() - start
        return result
