"""Processes of one `torch.distributed` group, for tests of what ranks compute together."""

from __future__ import annotations

import io
import multiprocessing
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

COLLECTIVE_SECONDS = 60
ANSWER_SECONDS = 120


class Ranks:
    """`size` processes that wait for functions to run; a rank that fails or hangs ends them all, and
    the next call starts new ones."""

    def __init__(self, folder: Path, size: int = 2) -> None:
        self.folder, self.size = folder, size
        self._started = 0
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """function(rank, *args) of every rank, in their order; the function is one of a module's.

        Raises:
            AssertionError: a rank failed, with its traceback, or gave no answer in time.
        """
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send_bytes(_packed((function, args)))
        answers, failures = [], []
        for rank, pipe in enumerate(self._pipes):
            try:
                answer, failure = self._answer(pipe)
            except EOFError:
                answer, failure = None, "the process died"
            answers.append(answer)
            failures += [] if failure is None else [f"rank {rank}: {failure}"]
        if failures:
            self.stop()
            raise AssertionError("\n".join(failures))
        return answers

    def _answer(self, pipe: Connection) -> Any:
        if not pipe.poll(ANSWER_SECONDS):
            return None, f"no answer in {ANSWER_SECONDS} s"
        return _unpacked(pipe.recv_bytes())

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._pipes = [], []

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._started += 1
        meeting_point = self.folder / f"group{self._started}"
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, rank, self.size, meeting_point), daemon=True
            )
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)


def _serve(pipe: Connection, rank: int, size: int, meeting_point: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=meeting_point.as_uri(),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=COLLECTIVE_SECONDS),
    )
    while True:
        function, args = _unpacked(pipe.recv_bytes())
        torch.manual_seed(0)
        try:
            answer = (function(rank, *args), None)
        except Exception:
            answer = (None, traceback.format_exc())
        pipe.send_bytes(_packed(answer))


def _packed(value: Any) -> bytes:
    """Tensors by value: they need not outlive the process."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(packed: bytes) -> Any:
    return torch.load(io.BytesIO(packed), weights_only=False)
