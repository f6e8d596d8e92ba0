"""A stage's process: its lines with a time limit, and an end for it and for everything it started."""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_MARKER = "RNC_HARDWARE_STAGE"
_MAX_WAITING = 1000  # lines
_MAX_LINE = 2**22  # characters; longer ones are cut into several
_DEATH_SECONDS = 10.0  # what a driver in trouble may keep a killed process for
_LINGER_SECONDS = 1.0  # for lines in a pipe that something else still holds open

_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """Nothing outlives the conductor, however that ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A command under way; stdout and stderr are one stream of lines."""

    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        environment = os.environ if environment is None else environment
        self._token = uuid.uuid4().hex
        self._popen = subprocess.Popen(
            command,
            cwd=folder,
            # Appended: what it starts belongs to whoever started this process, too.
            env={**environment, _MARKER: environment.get(_MARKER, "") + self._token},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        # Bounded, so that a process that prints without end waits for us instead of filling the memory.
        self._lines: queue.Queue[str | None] = queue.Queue(_MAX_WAITING)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._popen.stdout
        with self._popen.stdout as stream:
            while line := stream.readline(_MAX_LINE):
                self._lines.put(line)
        self._lines.put(None)

    def line(self, seconds: float) -> str | None:
        """The next line, or None when the process has ended; raises TimeoutError, without `seconds` also where there
        are lines: a process that prints all the time is no reason to wait for ever."""
        if seconds <= 0:
            raise TimeoutError
        end = time.monotonic() + seconds
        ended: float | None = None
        while True:
            try:
                return self._lines.get(timeout=0.1)
            except queue.Empty:
                now = time.monotonic()
                if self._popen.poll() is not None:
                    ended = ended or now
                    if now - ended > _LINGER_SECONDS:
                        return None
                if now > end:
                    raise TimeoutError from None

    def ask_to_end(self) -> None:
        """SIGTERM: it may still say what it has."""
        try:
            self._popen.terminate()
        except ProcessLookupError:
            pass

    def end(self, grace: float = 5.0) -> int:
        """Waits up to `grace` seconds, then kills it and what it started; its exit status (-N: by signal N)."""
        try:
            self._popen.wait(timeout=grace)
        except subprocess.TimeoutExpired:
            pass
        return self.kill()

    def kill(self) -> int:
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            status = self._popen.wait(timeout=_DEATH_SECONDS)
        except subprocess.TimeoutExpired:  # it hangs in the driver; the others must not wait for it
            status = -signal.SIGKILL
        for pid in _marked(self._token):
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        return status


def _marked(token: str) -> list[int]:
    """Processes that inherited the token: also those with a session of their own or without a living parent."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = path.read_bytes().split(b"\0")
            if any(v.startswith(_MARKER.encode()) and token.encode() in v for v in variables):
                found.append(int(path.parent.name))
        except OSError:  # gone, or not ours
            continue
    return found


def how_it_ended(status: int) -> str:
    """For people: "ended with status 1", "was ended by SIGKILL"."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
