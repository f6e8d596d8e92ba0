"""What benchmarks/guard.py compares with its baseline: figures of this working tree's build, by section and subject.

launches    of the kernels on the emulator, in fixed small problems, instrumented (tests/kernels/every_pass.py and
            what it leaves out): bytes and sectors that they ask for and touch, shared-memory wavefronts
kernels     of the compiled kernels, one by one: spills, local memory, warps that fit on a multiprocessor
passes      of all compiled kernels of a pass: how many, and their machine code
build       what sets the compiler's time: objects, and PTX on the way to them
ratios      of the CPU backend and plain torch, timed in turn
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnet_cuda import _raw, models, unfuse
from resnet_cuda.bench import resources
from resnet_cuda.bench.device import CpuDevice
from resnet_cuda.bench.timing import Effort, measure, ratio
from resnet_cuda.testing import emulated
from tests.kernels.every_pass import every_pass
from tests.kernels.passes import Conv, vector

Figures = dict[str, dict[str, dict[str, float]]]  # section, subject, metric

DTYPES = (torch.float32, torch.bfloat16)
RATIO_SECONDS = 10.0

_COUNTERS = {
    "bytes": ("global_load_bytes", "global_store_bytes"),
    "sectors": ("global_load_sectors", "global_store_sectors"),
    "distinct bytes": ("distinct_load_bytes", "distinct_store_bytes"),
    "distinct sectors": ("distinct_load_sectors", "distinct_store_sectors"),
    "shared wavefronts": ("shared_wavefronts",),
}


def environment() -> dict[str, Any]:
    """What the figures depend on besides the sources. Raises RuntimeError where nothing is built."""
    _raw.require()
    build = _raw.build_info()
    found = {
        "compiler": build["compiler"],
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__.partition("+")[0],
        "nvcc": None,
        "architectures": [],
    }
    try:
        compiled = resources.load()
    except resources.Missing:
        return found
    return {**found, "nvcc": compiled.nvcc, "architectures": compiled.architectures}


def figures() -> tuple[Figures, list[str]]:
    """All that can be measured here, and why the rest cannot."""
    found: Figures = {"launches": launches()}
    missing = []
    try:
        found.update(compiled(resources.load()))
    except resources.Missing as error:
        missing.append(f"compiled kernels: {error}")
    found["ratios"] = ratios()
    return found, missing


def launches() -> dict[str, dict[str, float]]:
    """{"problem dtype kernel": counters}, summed over the problem's launches of the kernel."""
    found: dict[str, dict[str, float]] = {}
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        for problem, run in problems(dtype):
            with emulated(checked=True, count=True) as emulation:
                run()
                records = emulation.launches()
            for record in records:
                counted = found.setdefault(f"{problem} {name} {record['kernel']}", {"launches": 0})
                counted["launches"] += 1
                for metric, counters in _COUNTERS.items():
                    value = sum(record["counters"][counter] for counter in counters)
                    counted[metric] = counted.get(metric, 0) + value
    return found


def problems(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each pass of the kernels, with every optional operand somewhere, and each plan of a convolution."""
    yield from every_pass(dtype)
    raw = torch.ops.resnet_cuda
    conv = Conv(2, 20, 6, 7, 70, 1, 1, padding=(0, 0))
    x, weight, dy = conv.random(dtype)
    none5 = (None,) * 5
    on_load: tuple[Tensor, ...] = (vector(20, dtype, 1), vector(20, dtype, 2))
    filters = [vector(70, dtype, seed) for seed in range(2)]
    yield (
        "pointwise fprop",
        lambda: raw._conv_fprop(x, weight, *on_load, None, None, None, False, *conv.geometry, True),
    )
    yield (
        "expand, identity",
        lambda: raw._bottleneck_expand(x, weight, *filters, dy, None, None, None, 1, True, False),
    )
    chained = Conv(2, 64, 6, 7, 128, 1, 1, padding=(0, 0))
    begun, widened, end = chained.random(dtype)
    narrowed = Conv(2, 128, 6, 7, 64, 1, 1, padding=(0, 0)).random(dtype)[1]
    norms = [vector(channels, dtype, seed) for channels in (128, 64) for seed in range(2)]
    yield (
        "expand and the next reduce",
        lambda: raw._bottleneck_expand_reduce(
            begun, widened, *norms[:2], end, narrowed, *norms[2:]
        ),
    )
    block = Conv(1, 64, 8, 24, 64)
    middle = block.random(dtype)[1]
    ends = [Conv(1, c, 8, 24, k, 1, 1, padding=(0, 0)) for c, k in ((256, 64), (64, 256))]
    (wide, narrowing, _), (_, widening, _) = (conv.random(dtype) for conv in ends)
    units = [
        t
        for filters, channels in ((narrowing, 64), (middle, 64), (widening, 256))
        for t in (filters, vector(channels, dtype, 0), vector(channels, dtype, 1))
    ]
    yield "bottleneck, identity", lambda: raw._bottleneck_block(wide, *units)
    stem = Conv(1, 3, 30, 34, 70, 7, 7, stride=(2, 2), padding=(3, 3))
    pixels, taps, _ = stem.random(dtype)
    yield "stem", lambda: raw._conv_fprop(pixels, taps, *none5, False, *stem.geometry, True)
    yield (
        "pointwise dgrad",
        lambda: raw._conv_dgrad(dy, weight, list(x.shape), *none5, *conv.geometry),
    )
    yield (
        "pointwise wgrad",
        lambda: raw._conv_wgrad(dy, x, list(weight.shape), *on_load, *conv.geometry),
    )


def compiled(found: resources.Resources) -> Figures:
    """The sections kernels, passes and build."""
    kernels: dict[str, dict[str, float]] = {}
    passes: dict[str, dict[str, float]] = {}
    for kernel in found.kernels:
        occupancy = kernel.occupancy
        kernels[f"{kernel.title} {kernel.architecture}"] = {
            "spilled bytes": kernel.spill_stores + kernel.spill_loads,
            "local bytes": kernel.stack,
            **({"warps": occupancy.warps} if occupancy else {}),
        }
        figures = passes.setdefault(
            f"{kernel.pass_name} {kernel.architecture}", {"kernels": 0, "code bytes": 0}
        )
        figures["kernels"] += 1
        figures["code bytes"] += kernel.code
    build = {"all kernels": {"objects": found.objects, "PTX bytes": found.ptx}}
    return {"kernels": kernels, "passes": passes, "build": build}


def _cpu_vendor() -> str:
    """Whose CPU this is: torch's and oneDNN's kernels for the same instructions differ with it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id"))
    return next(found, platform.machine())


def ratios(seconds: float = RATIO_SECONDS) -> dict[str, dict[str, float]]:
    """eager / ours of ResNet-50 at inference, float32, on one thread: the median over interleaved rounds."""
    torch.manual_seed(0)
    fused = models.create_model("resnet50").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fused = fused.eval()
    plain = unfuse(fused)
    x = torch.randn(1, 3, 64, 64).to(memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            timings = measure(
                CpuDevice(),
                {"eager": lambda: plain(x), "ours": lambda: fused(x)},
                Effort(seconds, max_rounds=100_000),
            )
    finally:
        torch.set_num_threads(threads)
    value = round(ratio(timings["eager"], timings["ours"]), 3)
    case = f"resnet50 inference float32 batch 1, 64x64, one thread, {_cpu_vendor()}"
    return {case: {"eager/ours": value}}
