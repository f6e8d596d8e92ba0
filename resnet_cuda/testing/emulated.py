"""Running the CUDA kernels' own source on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from resnet_cuda import _backend, _raw, _selection

SCHEDULES = ("round_robin", "reversed", "random")
COMPLETIONS = ("late", "early", "random")


class Emulation:
    """What ran on the emulator since the context was entered."""

    def __init__(self, emulator: Any) -> None:
        self._emulator = emulator

    @property
    def checked(self) -> bool:
        """Whether races, out-of-bounds accesses and uninitialised reads are reported."""
        return bool(self._emulator.checked)

    def launches(self) -> list[dict[str, Any]]:
        """One dict per kernel launch: kernel, grid, block, cluster, shared_bytes, counters and
        tensors, {name: (distinct bytes loaded, stored)} (filled with count=True)."""
        return self._emulator.launches()

    def clear(self) -> None:
        """Forgets the launches so far."""
        self._emulator.clear()


@contextmanager
def emulated(
    checked: bool = False,
    schedule: str = "round_robin",
    seed: int = 1,
    count: bool = False,
    workers: int | None = None,
    cp_async: str = "late",
    tma: str = "late",
    wgmma: str = "late",
    allow_tf32: bool = False,
    capability: tuple[int, int] = (9, 0),
    multiprocessors: int = 132,
) -> Iterator[Emulation]:
    """Runs the enclosed ops, and the backward of what they return, on our kernels' source under the emulator.

    Args:
        checked: use the instrumented build, which raises RuntimeError naming kernel, block and
            thread on a race, an access out of bounds or a read of memory never written. Slower.
        schedule: the order in which a block's threads run: "round_robin", "reversed" or "random" (by `seed`).
        count: fill the launches' counters of memory traffic.
        workers: host threads; None keeps the emulator's setting.
        cp_async, tma, wgmma: when asynchronous operations of this family complete: "late" (not before
            a thread waits for them), "early" (when they are issued) or "random" (by `seed`).
        allow_tf32: let float32 convolutions use tensor cores in TF32. Unlike on a GPU, torch's own switch is
            not asked: it is on by default and does not concern CPU tensors, whose float32 is exact.
        capability: the compute capability of the GPU to play, (7, 5) or newer; kernels are chosen as on such a GPU.
        multiprocessors: of that GPU. Kernels whose blocks stay and compute tile after tile have more tiles for
            each where it has few.

    Raises:
        ValueError: the schedule or a completion is unknown, no kernels are compiled for such a GPU, or it has no
            multiprocessor.
        RuntimeError: the extension is not built.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule is {schedule!r}; accepted: {', '.join(map(repr, SCHEDULES))}")
    completions = {"cp_async": cp_async, "tma": tma, "wgmma": wgmma}
    for family, completion in completions.items():
        if completion not in COMPLETIONS:
            accepted = ", ".join(map(repr, COMPLETIONS))
            raise ValueError(f"{family} is {completion!r}; accepted: {accepted}")
    if capability < _raw.OLDEST_GPU:
        raise ValueError(f"capability is {capability}; accepted: {_raw.OLDEST_GPU} and newer")
    if multiprocessors < 1:
        raise ValueError(f"multiprocessors is {multiprocessors}; accepted: 1 and more")
    library = _selection.emulator_library(checked)
    selection = _selection.Selection(library, allow_tf32, capability, multiprocessors)
    from resnet_cuda import _host
    from resnet_cuda.ops._kernels import EmulatedBackend

    emulator = _host.Emulator(str(selection.library))
    options = emulator.options
    wanted = {"schedule": SCHEDULES.index(schedule), "seed": seed, "check": checked, "count": count}
    wanted["multiprocessors"] = multiprocessors
    wanted.update({name: COMPLETIONS.index(value) for name, value in completions.items()})
    if workers is not None:
        wanted["workers"] = workers
    before = {name: getattr(options, name) for name in wanted}
    previous = _backend.replace_instance("emulated", EmulatedBackend(selection))
    selected_before = _selection.selected_emulator()
    try:
        for name, value in wanted.items():
            setattr(options, name, int(value))
        emulator.clear()
        _selection.select_emulator(*selection)  # raw ops, too, run on it
        with _backend.use_backend("emulated"):
            yield Emulation(emulator)
    finally:
        for name, value in before.items():
            setattr(options, name, value)
        _backend.replace_instance("emulated", previous)
        _selection.select_emulator(*selected_before)
