"""Memory over many calls and at its peak: what is allocated goes back, nothing waits for the garbage collector."""

from __future__ import annotations

import gc
import itertools
import resource
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import resnet_cuda
from resnet_cuda import nn as fused_nn
from resnet_cuda import reference
from resnet_cuda.cli._check_cases import Case
from resnet_cuda.testing import emulated
from tests.citizen.public_ops import CASES, Call

CALLS = 10_000
_PAGE = resource.getpagesize()


class Storages(TorchDispatchMode):
    """Counts the bytes of storages that are made inside and still there: what torch's allocator has given out."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = {id_of(t) for t in _tensors((args, kwargs or {}))}
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            if id_of(tensor) not in given:
                self._watch(tensor)
        return out

    def _watch(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), id_of(tensor)
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)

        def freed() -> None:
            self.alive -= size
            self._known.discard(key)

        weakref.finalize(storage, freed)

    def assert_free(self) -> None:
        assert self.peak > 0, "no memory was seen"
        assert self.alive == 0, f"{self.alive} bytes of tensors wait for the collector"


def id_of(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, (tuple, list)):
        for one in found:
            yield from _tensors(one)
    elif isinstance(found, dict):
        yield from _tensors(tuple(found.values()))


@contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def resident() -> int:
    """Bytes of the process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


# A tensor that is lost with every call of one case in twenty has 200 bytes in C++ alone: 100 KB, and its data.
_MAY_GROW = 1 << 20
_WARM_UP = 2000  # Python's own pools fill


def assert_no_growth(
    calls: Sequence[Callable[[], object]], total: int = CALLS, warm_up: int = _WARM_UP
) -> None:
    """Makes them in turn. An object that one of them loses every other time is noticed."""

    def run(count: int) -> None:
        for call in itertools.islice(itertools.cycle(calls), count):
            call()
        gc.collect()

    run(warm_up)
    objects, memory = sys.getallocatedblocks(), resident()
    run(total)
    grown = sys.getallocatedblocks() - objects
    assert grown < total / len(calls) / 2, f"{total} calls left {grown} Python objects"
    grown = resident() - memory
    assert grown < _MAY_GROW, f"{total} calls left {grown} bytes of the process in memory"


def step_of(case: Case) -> Callable[[], None]:
    """Forward and backward."""
    call = Call(case)

    def run() -> None:
        call.backward(call.forward())

    return run


def training_step(module: nn.Module, *inputs: Tensor) -> Callable[[], None]:
    def run() -> None:
        module(*inputs).sum().backward()
        module.zero_grad()

    return run


def images(channels: int, pixels: int) -> Tensor:
    x = torch.randn(4, channels, pixels, pixels)
    return x.contiguous(memory_format=torch.channels_last)


def test_ten_thousand_calls_of_the_ops_leave_nothing() -> None:
    with resnet_cuda.use_backend("cpu"):
        assert_no_growth([step_of(case) for case in CASES])


def test_ten_thousand_calls_of_kernels_leave_nothing() -> None:
    """Of those ops whose emulated passes take no time; the others' memory is looked at below, call by call."""
    quick = [c for c in CASES if c.name.startswith(("add_relu", "bn_relu", "max_pool", "global"))]
    with emulated() as emulation:

        def forgotten(step: Callable[[], None]) -> Callable[[], None]:
            def run() -> None:
                step()
                emulation.clear()  # the emulator's own records of its launches

            return run

        assert_no_growth([forgotten(step_of(case)) for case in quick])


def test_ten_thousand_training_steps_of_a_module_leave_nothing() -> None:
    module = fused_nn.ConvBNReLU(8, 8, 3).train()
    with resnet_cuda.use_backend("cpu"):
        assert_no_growth([training_step(module, images(8, 4))])


def test_a_leak_is_noticed() -> None:
    kept: list[Tensor] = []
    with pytest.raises(AssertionError, match="calls left .* Python objects"):
        assert_no_growth([lambda: kept.append(torch.zeros(1))], 1000, 10)
    buffer = bytearray()
    with pytest.raises(AssertionError, match="calls left .* bytes of the process in memory"):
        assert_no_growth([lambda: buffer.extend(bytes(1 << 18))], 100, 50)
    with pytest.raises(AssertionError, match="bytes of tensors wait"), Storages() as storages:
        kept.append(torch.zeros(10))
        storages.assert_free()
    with (
        pytest.raises(AssertionError, match="reference cycles: .* of .*'list'"),
        without_collector(),
    ):
        cycle: list[object] = []
        cycle.append(cycle)
        del cycle
        assert_no_cycles()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["cpu", "emulated"], indirect=True)
def test_a_call_leaves_no_storage_and_no_reference_cycle(backend: str, case: Case) -> None:
    call = Call(case)
    call.backward(call.forward())  # what is made once: caches, imports
    with without_collector(), Storages() as storages:
        call.backward(call.forward())
        storages.assert_free()
        assert_no_cycles()


MODULES = ("BasicBlock", "Bottleneck", "PreActBasicBlock", "ConvBNReLU", "BNReLU", "AddReLU")


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("backend", ["cpu", "emulated"], indirect=True)
def test_a_module_leaves_no_reference_cycle(backend: str, name: str, training: bool) -> None:
    size = {"Bottleneck": (8, 2), "BNReLU": (8,), "AddReLU": (), "ConvBNReLU": (8, 8, 3)}
    module = getattr(fused_nn, name)(*size.get(name, (8, 8))).train(training)
    arguments = [torch.randn(2, 8, 4, 4) for _ in range(2 if name == "AddReLU" else 1)]

    def use(module: nn.Module) -> None:
        with torch.set_grad_enabled(training):
            z = module(*arguments)
        if z.requires_grad:
            z.sum().backward()
            module.zero_grad()

    use(module)
    with without_collector():
        use(module)
        assert_no_cycles()
        del module
        assert_no_cycles("the module itself is in a reference cycle")


def assert_no_cycles(what: str = "a call leaves reference cycles") -> None:
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        found = gc.collect()
        kinds = sorted({type(o).__name__ for o in gc.garbage})
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert found == 0, f"{what}: {found} objects of {kinds}"


def peak_of(step: Callable[[], object]) -> int:
    step()
    with without_collector(), Storages() as storages:
        step()
    return storages.peak


# Of torch's own modules' peak, memory="save" and "recompute"; measured, and rounded up in the second place.
PEAKS = {"cpu": (1.0, 0.71), "emulated": (0.91, 0.63)}


@pytest.mark.parametrize("kind", ["BasicBlock", "Bottleneck"])
@pytest.mark.parametrize("backend", ["cpu", "emulated"], indirect=True)
def test_the_peak_of_a_training_step_is_at_most_torch_s(backend: str, kind: str) -> None:
    """Of a row of blocks: of all tensors that are alive at a time, what one pass needs inside of itself apart."""
    arguments = {"BasicBlock": (16, 16), "Bottleneck": (64, 16)}[kind]

    def row(make: Callable[..., nn.Module], **options: str) -> nn.Module:
        blocks = [make(*arguments, **options) for _ in range(4)]
        return nn.Sequential(*blocks).to(memory_format=torch.channels_last)

    x = images(arguments[0], 16)
    torch_s = peak_of(training_step(row(getattr(reference, kind)), x))
    for memory, most in zip(("save", "recompute"), PEAKS[backend], strict=True):
        ours = peak_of(training_step(row(getattr(fused_nn, kind), memory=memory), x))
        assert ours <= most * torch_s, (
            f"memory={memory!r}: {ours} bytes at the peak, {ours / torch_s:.3f} of torch's; {most} is allowed"
        )
