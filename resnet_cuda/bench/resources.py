"""What the compiler made of the shipped kernels: registers, shared memory, spills, code, and the occupancy they allow.

The build leaves kernel_resources.json in the package (cmake/RncKernelResources.cmake), so nothing here needs a
compiler, a disassembler or a GPU.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from resnet_cuda import _raw
from resnet_cuda.bench.tables import BAD, Cell, Table

SCHEMA = 2
PATH = _raw.PACKAGE / "kernel_resources.json"

_WARP = 32
_DTYPES = {
    "double": "float64",
    "float": "float32",
    "__nv_bfloat16": "bfloat16",
    "__half": "float16",
}
_DTYPE = re.compile(rf"\b({'|'.join(_DTYPES)})\b")


class Missing(RuntimeError):
    """This build has no record of compiled kernels; the message says why."""


@dataclass(frozen=True)
class Multiprocessor:
    """What the blocks of one multiprocessor share.

    Registers are given out to warps in units of `register_unit`, separately in each of `partitions`; shared memory in
    units of `shared_unit` bytes, and `shared_reserved` bytes more than a block asks for.
    """

    threads: int
    blocks: int
    registers: int
    shared: int
    register_unit: int = 256
    shared_unit: int = 128
    shared_reserved: int = 1024
    partitions: int = 4


# CUDA C++ Programming Guide, "Compute Capabilities", table "Technical Specifications per Compute Capability".
MULTIPROCESSORS = {
    "sm_75": Multiprocessor(
        threads=1024,
        blocks=16,
        registers=65536,
        shared=64 * 1024,
        shared_unit=256,
        shared_reserved=0,
    ),
    "sm_80": Multiprocessor(threads=2048, blocks=32, registers=65536, shared=164 * 1024),
    "sm_86": Multiprocessor(threads=1536, blocks=16, registers=65536, shared=100 * 1024),
    "sm_89": Multiprocessor(threads=1536, blocks=24, registers=65536, shared=100 * 1024),
    "sm_90": Multiprocessor(threads=2048, blocks=32, registers=65536, shared=228 * 1024),
}
# GPUs that run the machine code of another architecture as it is.
GUESTS = {"sm_80": ("sm_86", "sm_89")}


@dataclass(frozen=True)
class Occupancy:
    """Blocks and warps that fit on one multiprocessor, and what stops another block."""

    blocks: int
    warps: int
    fraction: float  # of the warps that the multiprocessor can hold
    limits: tuple[str, ...]


def occupancy(architecture: str, threads: int, registers: int, shared: int) -> Occupancy | None:
    """By the rules of CUDA's occupancy calculator (cuda_occupancy.h of the toolkit), shared memory preferred to L1.

    Args:
        architecture: "sm_90a"; None is returned for one that MULTIPROCESSORS lacks.
        threads, shared: of a block, shared in bytes, static and dynamic.
        registers: of a thread.
    """
    sm = MULTIPROCESSORS.get(architecture.rstrip("af"))
    if sm is None:
        return None
    warps = -(-threads // _WARP)
    per_warp = _round_up(registers * _WARP, sm.register_unit)
    # The hardware checks a block as if its warps came in multiples of the partitions.
    fits = per_warp * _round_up(warps, sm.partitions) <= sm.registers
    warps_by_registers = sm.registers // sm.partitions // max(per_warp, 1) * sm.partitions
    shared_taken = _round_up(shared + sm.shared_reserved, sm.shared_unit)
    room = {
        "registers": warps_by_registers // warps if fits else 0,
        "threads": sm.threads // _WARP // warps,
        "blocks": sm.blocks,
    }
    if shared_taken:
        room["shared memory"] = sm.shared // shared_taken
    blocks = min(room.values())
    limits = tuple(name for name, count in room.items() if count == blocks)
    return Occupancy(blocks, blocks * warps, blocks * warps * _WARP / sm.threads, limits)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


@dataclass(frozen=True)
class Kernel:
    """One instantiation on one architecture; units as in cmake/compile_cuda.py."""

    source: str
    symbol: str
    name: str
    architecture: str
    registers: int
    threads: int | None
    static_shared: int
    dynamic_shared: int
    stack: int
    spill_stores: int
    spill_loads: int
    constant: int
    code: int
    stages: int = 0

    @cached_property
    def instantiation(self) -> str:
        """The template's name and arguments without namespaces and dtype:
        "implicit_gemm_kernel<PixelRows<Identity>, FilterRows, StorePartial>"."""
        text = _DTYPE.sub("", self._template.replace("rnc::", ""))
        text = re.sub(r"<\s*,\s*", "<", re.sub(r"\s+>", ">", text))
        return re.sub(r"<>", "", text)

    @cached_property
    def dtype(self) -> str:
        """Of the tensors (of the accumulators, for a kernel that sees only those)."""
        found = _DTYPE.search(self._template)
        return _DTYPES[found[1]] if found else ""

    @cached_property
    def pass_name(self) -> str:
        """As in csrc/launch/kernel_library.h where the kernel has a pass of its own, else its source's stem."""
        stem = self.instantiation.partition("<")[0].removesuffix("_kernel")
        return stem if stem in _passes() else self.source

    @property
    def title(self) -> str:
        return f"{self.pass_name}: {self.instantiation} {self.dtype}"

    @property
    def shared(self) -> int:
        """Bytes of a block, static and dynamic."""
        return self.static_shared + self.dynamic_shared

    @cached_property
    def occupancy(self) -> Occupancy | None:
        """None where the architecture's limits or the block's size are unknown."""
        return self.occupancy_on(self.architecture)

    def occupancy_on(self, architecture: str) -> Occupancy | None:
        """The same of a GPU that runs this code (see GUESTS)."""
        if self.threads is None:
            return None
        return occupancy(architecture, self.threads, self.registers, self.shared)

    @cached_property
    def _template(self) -> str:
        """The demangled name without return type and parameters."""
        depth = 0
        for i, letter in enumerate(self.name):
            depth += (letter == "<") - (letter == ">")
            if letter == "(" and depth == 0:
                return self.name[:i].removeprefix("void ")
        return self.name


def _passes() -> Sequence[str]:
    try:
        from resnet_cuda import _host
    except ImportError:
        return ()
    return _host.passes


@dataclass(frozen=True)
class Resources:
    """user_seconds: CPU time of the compiler by source, which depends on the machine and on what else it does;
    objects: how many were compiled; ptx: bytes of PTX on the way to them."""

    nvcc: str
    user_seconds: Mapping[str, float]
    objects: int
    ptx: int
    kernels: Sequence[Kernel]

    @property
    def architectures(self) -> list[str]:
        return sorted({kernel.architecture for kernel in self.kernels})

    @property
    def guests(self) -> list[tuple[str, str]]:
        """(GPU, the architecture whose code it runs) of GPUs that have no code of their own."""
        return [
            (guest, host)
            for host in self.architectures
            for guest in GUESTS.get(host, ())
            if guest not in self.architectures
        ]

    def instantiations(self) -> dict[str, int]:
        """{pass: distinct kernels}, each once whatever it is compiled for."""
        return {
            name: len({(kernel.source, kernel.symbol) for kernel in group})
            for name, group in by_pass(self.kernels)
        }


def by_pass(kernels: Iterable[Kernel]) -> Iterator[tuple[str, list[Kernel]]]:
    ordered = sorted(kernels, key=lambda k: (k.pass_name, k.instantiation, _dtype_order(k)))
    for name, group in groupby(ordered, lambda kernel: kernel.pass_name):
        yield name, list(group)


def _dtype_order(kernel: Kernel) -> int:
    names = list(_DTYPES.values())
    return names.index(kernel.dtype) if kernel.dtype in names else len(names)


def load(path: Path = PATH) -> Resources:
    """Raises Missing where there is no record, ValueError where it is of another version."""
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise Missing(why_missing(_raw.build_info())) from None
    if data.get("schema") != SCHEMA:
        raise ValueError(f"{path.name}: schema is {data.get('schema')!r}; accepted: {SCHEMA}")
    return Resources(
        data["nvcc"],
        data["user_seconds"],
        data["objects"],
        data["ptx"],
        [Kernel(**kernel) for kernel in data["kernels"]],
    )


def why_missing(build: Mapping[str, Any]) -> str:
    """`build` is _raw.build_info()."""
    if not build:
        return "the extension is not built, so there are no compiled kernels"
    if not build["cuda_compiled"]:
        return "the extension was built without nvcc, so there are no compiled kernels"
    return f"{PATH.name} is missing: the extension's binary was put here without it, or is older; build again"


def overview(resources: Resources) -> Table:
    """A line for each pass and dtype, its kernels' figures as ranges."""
    rows = []
    for name, kernels in by_pass(resources.kernels):
        for dtype in _DTYPES.values():
            if group := [kernel for kernel in kernels if kernel.dtype == dtype]:
                rows.append(_row(name, group, resources))
    return _table("compiled kernels by pass", rows, resources)


def details(resources: Resources, text: str) -> Table:
    """A line for each kernel whose title ("conv_fprop: implicit_gemm_kernel<...> float32") contains the text."""
    rows = []
    for _, kernels in by_pass(k for k in resources.kernels if text in k.title):
        for _, group in groupby(kernels, lambda kernel: kernel.title):
            same = list(group)
            rows.append(_row(f"{same[0].pass_name} {same[0].instantiation}", same, resources))
    return _table(f"compiled kernels with {text!r}", rows, resources)


def _table(title: str, rows: list[list[Cell]], resources: Resources) -> Table:
    header = [
        "pass",
        "dtype",
        "kernels",
        "threads",
        "shared B",
        "stages",
        *resources.architectures,
        *(guest for guest, _ in resources.guests),
        "spills B",
    ]
    notes = [
        "for an architecture: registers of a thread / blocks that fit on a multiprocessor / the part of its warps that "
        "they fill; stages: of operands in shared memory; spills: bytes that a thread of the worst kernel stores, on "
        "each architecture"
    ]
    notes += [f"{guest} runs the code for {host}" for guest, host in resources.guests]
    return Table(title, header, rows, notes)


def _row(title: str, kernels: list[Kernel], resources: Resources) -> list[Cell]:
    architectures = resources.architectures
    cells = [Cell(title), Cell(kernels[0].dtype)]
    cells.append(Cell(str(len({kernel.symbol for kernel in kernels}))))
    cells += [Cell(_range(k.threads for k in kernels)), Cell(_range(k.shared for k in kernels))]
    stages = [kernel.stages for kernel in kernels if kernel.stages]
    cells.append(Cell(_range(stages) if stages else "-"))
    for architecture in architectures:
        cells.append(_compiled([k for k in kernels if k.architecture == architecture]))
    for guest, host in resources.guests:
        cells.append(Cell(_fitting([k for k in kernels if k.architecture == host], guest) or "-"))
    spills = [
        max((k.spill_stores for k in kernels if k.architecture == architecture), default=0)
        for architecture in architectures
    ]
    text = " / ".join(map(str, spills))
    return [*cells, Cell(text, BAD) if any(spills) else Cell("-")]


def _compiled(kernels: list[Kernel]) -> Cell:
    if not kernels:
        return Cell("-")
    text = _range(kernel.registers for kernel in kernels)
    if fitting := _fitting(kernels, kernels[0].architecture):
        text += f" / {fitting}"
    return Cell(text)


def _fitting(kernels: list[Kernel], architecture: str) -> str:
    """ "blocks / part of the warps" on a multiprocessor; "" where nothing is known of it."""
    found = [o for kernel in kernels if (o := kernel.occupancy_on(architecture))]
    if not found:
        return ""
    return f"{_range(o.blocks for o in found)} / {_range(round(100 * o.fraction) for o in found)}%"


def _range(values: Iterable[int | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "?"
    low, high = min(known), max(known)
    return str(low) if low == high else f"{low}-{high}"
