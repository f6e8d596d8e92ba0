"""What an op asks of the machine: memory of torch's allocator, launches on the current stream, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from resnet_cuda import _raw
from resnet_cuda.cli._check_cases import Case
from resnet_cuda.testing import emulated
from tests.citizen.public_ops import CASES, Call
from tests.faults import allocations
from tests.kernels.every_pass import every_pass

CSRC = Path(__file__).resolve().parents[2] / "csrc"
# All that the launch layer may ask of CUDA: none of these allocates, copies, or waits for the device.
RUNTIME = {
    "cudaDeviceGetAttribute",
    "cudaFuncGetAttributes",
    "cudaFuncSetAttribute",
    "cudaGetDevice",
    "cudaGetDriverEntryPointByVersion",
    "cudaGetErrorString",
    "cudaGetLastError",
    "cudaLaunchKernelEx",
}
DRIVER = {"cuTensorMapEncodeIm2col", "cuTensorMapEncodeTiled"}  # encode a map in host memory
# What a host asks of CUDA apart from ops: `info` counts devices.
BESIDE = {"csrc/host/module.cpp": {"cudaGetDeviceCount"}}
# Operations that make the host wait for a value of the device.
WAITING = re.compile(
    r"aten::(_local_scalar_dense|item|nonzero|masked_select|unique\w*|is_nonzero|equal|allclose)"
)


def sources() -> Iterator[Path]:
    """All that runs an op on a GPU; the emulator stands in for it."""
    for folder in ("bindings", "common", "host", "kernels", "launch", "ptx", "tile"):
        yield from (p for p in (CSRC / folder).rglob("*") if p.is_file())


def code(path: Path) -> str:
    """Without comments and strings."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text(), flags=re.S)
    return re.sub(r'"(\\.|[^"\\])*"', '""', text)


def calls_of(text: str, prefix: str) -> set[str]:
    return set(re.findall(rf"\b({prefix}[A-Z]\w*)\s*(?:<[^<>]*>)?\(", text))


def test_the_launch_layer_asks_cuda_for_nothing_but_launches() -> None:
    found: dict[str, set[str]] = {}
    for path in sources():
        name = f"csrc/{path.relative_to(CSRC)}"
        called = calls_of(code(path), "cuda") | calls_of(code(path), "cu")
        # Driver functions are handed on by their address and not called by name.
        called |= set(re.findall(r"decltype\((cu[A-Z]\w*)\)", code(path)))
        if other := called - RUNTIME - DRIVER - BESIDE.get(name, set()):
            found[name] = other
    assert not found, (
        f"ops may allocate through torch alone and never wait for the device: {found}; if a function does neither, "
        "name it here"
    )


def test_the_search_finds_what_it_is_for() -> None:
    text = "cudaMalloc(&p, n); // cudaFree(p)\ncudaMemcpyAsync (a, b); cudaStreamSynchronize(s); cuMemAlloc(&d, 1);"
    path = CSRC / "launch" / "launch_kernel.h"
    assert calls_of(re.sub(r"//[^\n]*", "", text), "cuda") == {
        "cudaMalloc",
        "cudaMemcpyAsync",
        "cudaStreamSynchronize",
    }
    assert "cuMemAlloc" in calls_of(text, "cu")
    assert "cudaLaunchKernelEx" in calls_of(code(path), "cuda")


@pytest.mark.skipif(shutil.which("nm") is None, reason="binutils is not installed")
def test_the_extension_imports_no_function_that_allocates_or_waits() -> None:
    """Also of a build with CUDA, whose runtime is linked statically: it then has its own cudaMalloc, which nothing
    of ours calls (the sources say so), and imports none."""
    library = Path(_raw.__file__).parent / "_C.abi3.so"
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", library], check=True, capture_output=True, text=True
    ).stdout
    imported = {line.split()[-1].split("@")[0] for line in listing.splitlines()}
    forbidden = {
        name
        for name in imported
        if re.match(r"cu(da)?[A-Z]", name)
        or re.match(r"aoti_torch_(item|empty|cuda_caching|synchronize|copy_)\w*", name)
        or re.match(r"torch_(synchronize|stream_synchronize)\w*", name)
    }
    assert not forbidden, f"the extension would allocate or wait by {sorted(forbidden)}"
    assert "torch_call_dispatcher" in imported, "the symbols are not those of the extension"


class _Watch(TorchDispatchMode):
    """Notes every operation; refuses what would make the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name
        self.operations.append(name)
        assert not WAITING.match(name), f"{name} makes the host wait for a value of the device"
        kwargs = kwargs or {}
        devices = {a.device for a in (*args, *kwargs.values()) if isinstance(a, Tensor)}
        target = kwargs.get("device")
        assert target is None or torch.device(target) in devices or not devices, (
            f"{name} goes from {devices} to {target}"
        )
        return func(*args, **kwargs)


@pytest.mark.parametrize("wait", [Tensor.item, Tensor.nonzero, bool])
def test_waiting_is_noticed(wait: Callable[[Tensor], object]) -> None:
    with _Watch(), pytest.raises(AssertionError, match="makes the host wait"):
        wait(torch.ones(1))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_op_waits_for_a_value_of_the_device(case: Case) -> None:
    call = Call(case)
    with emulated(), _Watch() as watch:
        call.backward(call.forward())
    assert any(name.startswith("resnet_cuda::") for name in watch.operations), "no kernel was asked"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_pass_touches_only_memory_of_tensors(dtype: torch.dtype) -> None:
    """Under the emulator a kernel faults outside of what the bindings staged; that must all be tensors: arguments,
    and what aten::empty gave, each of which has a name in the launch's record."""
    for name, run in every_pass(dtype):
        asked: list[int] = []
        with emulated(count=True) as emulation:
            with allocations(lambda size, _, asked=asked: asked.append(size)):
                run()
            launches = emulation.launches()
        assert launches, f"{name} launched nothing"
        assert any(asked), f"{name} got its results from elsewhere than aten::empty"
        for launch in launches:
            touched = sum(stored for _, stored in launch["tensors"].values())
            stored = launch["counters"]["distinct_store_bytes"]
            assert touched == stored, (
                f"{name}: {launch['kernel']} stored {stored} bytes, {touched} of them in tensors"
            )
