"""Runs probes in processes of their own: a probe that hangs or kills its process is named, and the others go on.

A worker prints one line of JSON before each probe and one after it; the time between them is limited.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from tests.device_library.library import DeviceError
from tests.probes import golden
from tests.probes.registry import PROBES
from tests.probes.runner import Backend, Result

START_SECONDS = 60  # for the interpreter and the device's driver
COMMAND = (
    sys.executable,
    "-m",
    "tests.probes",
    "--worker",
)  # followed by the backend and probes' names


def work(backend_name: str, names: list[str]) -> None:
    """The worker's side."""

    def say(**line: object) -> None:
        print(json.dumps(line), flush=True)

    try:
        backend = Backend(backend_name)
    except (DeviceError, OSError) as error:
        say(unavailable=str(error))
        return
    say(device=backend.device, capability=backend.capability)
    vectors = golden.load()
    for probe in PROBES:
        if probe.name not in names:
            continue
        say(begin=probe.name)
        result = backend.run(probe, vectors[probe.name])
        say(end=asdict(result))
        # An error on a GPU can poison all that follows in the process.
        if result.status == "failed" and backend_name == "cuda":
            return


class Worker:
    """A process and the lines it prints."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def line(self, seconds: float) -> dict | None:
        """The next line, or None at the end; raises TimeoutError."""
        try:
            text = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError from None
        return json.loads(text) if text else None

    def stop(self) -> int:
        self.process.kill()
        return self.process.wait()


def run(
    backend: str, names: list[str], limit: float, command: Sequence[str] = COMMAND
) -> Iterator[dict | Result]:
    """A dict about the device first, {"unavailable": why} or {"device": ..., "capability": ...}; then the results.

    A probe that takes longer than `limit` seconds has hung.
    """
    kernels = {probe.name: probe.kernel for probe in PROBES}
    left = [probe.name for probe in PROBES if probe.name in names]
    introduced = False
    while left:
        worker = Worker([*command, backend, *left])
        current = None
        try:
            while line := worker.line(limit if current else START_SECONDS):
                if "begin" in line:
                    current = line["begin"]
                elif "end" in line:
                    left.remove(current)
                    current = None
                    yield Result(**line["end"])
                else:
                    if not introduced:
                        yield line
                    introduced = True
                    if "unavailable" in line:
                        return
            code = worker.process.wait()
            if current is None and code == 0:
                continue
            what = f"the process ended with status {code}"
            status = "failed"
        except TimeoutError:
            what = f"no answer within {limit if current else START_SECONDS:g} s"
            status = "hung"
        finally:
            worker.stop()
        if current is None:
            raise RuntimeError(f"{backend}: {what} before any probe began")
        left.remove(current)
        yield Result(current, kernels[current], status, what)
