"""The machine code of the probes for GPUs: each wrapper becomes the instructions meant, and nothing spills.

Needs the libraries that CMake builds where there is nvcc, and no GPU.
"""

from __future__ import annotations

import re
from functools import cache

import pytest

from tests.device_library.library import library_path
from tests.device_library.sass import Kernel, kernels
from tests.probes.runner import LIBRARIES

EXPECT_ON_BARRIER = r"SYNCS\.ARRIVE\.TRANS64 "
LOAD_PHASES = (
    r"SYNCS\.EXCH\.64",
    r"SYNCS\.PHASECHK\.TRANS64\.TRYWAIT",
    r"FENCE\.VIEW\.ASYNC",
    "ELECT",
)
CLUSTER_BARRIER = ("UCGABAR_ARV", "UCGABAR_WAIT")


def access(kernel: str, suffix: str) -> tuple[str, tuple[str, ...]]:
    plain = rf"\.{suffix}" if suffix else ""
    return kernel, (rf"LDG\.E{plain} ", rf"LDG\.E{plain}\.CONSTANT ", rf"STG\.E{plain} ")


# Part of the kernel's mangled name, and patterns of which each must begin one instruction at least. Every kernel has
# exactly one row, but those of wgmma, whose names say all.
ROWS: list[tuple[str, tuple[str, ...]]] = [
    access("reverse_kernelIhE", "U8"),
    access("reverse_kernelItE", "U16"),
    access("reverse_kernelIjE", ""),
    access("reverse_kernelINS1_5BytesILm8EEE", "64"),
    access("reverse_kernelINS1_5BytesILm16EEE", "128"),
    ("shuffle_kernel", (r"SHFL\.IDX", r"SHFL\.UP", r"SHFL\.DOWN", r"SHFL\.BFLY")),
    ("vote_kernel", (r"VOTE\.ANY",)),
    ("atomic_kernel", (r"ATOMS\.ADD", r"ATOMS\.CAS", r"ATOMS\.MIN\.S32", r"REDG?\.E\.ADD")),
    ("arithmetic_kernel", ("POPC", r"FLO\.U32")),
    ("cp_async_kernelILi4E", (r"LDGSTS\.E\.ZFILL", "LDGDEPBAR", r"DEPBAR\.LE SB0, 0x0")),
    ("cp_async_kernelILi8E", (r"LDGSTS\.E\.64\.ZFILL", "LDGDEPBAR", r"DEPBAR\.LE SB0, 0x0")),
    (
        "cp_async_kernelILi16E",
        (r"LDGSTS\.E\.BYPASS\.128\.ZFILL", "LDGDEPBAR", r"DEPBAR\.LE SB0, 0x0"),
    ),
    (
        "cp_async_groups_kernel",
        (r"LDGSTS\.E\.BYPASS\.128", r"DEPBAR\.LE SB0, 0x2", r"DEPBAR\.LE SB0, 0x1"),
    ),
    *(
        (f"{name}_kernelILi{count}ELb{int(transposed)}E", (rf"{opcode}\.16\.{form}{suffix} ",))
        for name, opcode in (("ldmatrix", "LDSM"), ("stmatrix", "STSM"))
        for transposed, form in ((False, "M88"), (True, "MT88"))
        for count, suffix in ((1, ""), (2, r"\.2"), (4, r"\.4"))
    ),
    ("mma_kernelILNS_3ptx3MmaE0E", (r"HMMA\.16816\.F32\.BF16 ",)),
    ("mma_kernelILNS_3ptx3MmaE1E", (r"HMMA\.16816\.F32 ",)),
    ("mma_kernelILNS_3ptx3MmaE2E", (r"HMMA\.1688\.F32\.BF16 ",)),
    ("mma_kernelILNS_3ptx3MmaE3E", (r"HMMA\.1688\.F32\.TF32 ",)),
    ("mma_kernelILNS_3ptx3MmaE4E", (r"DMMA\.(884|8x8x4) ",)),
    ("mma_tile_kernelILNS_3ptx3MmaE0E", (r"HMMA\.16816\.F32\.BF16 ",)),
    ("mma_tile_kernelILNS_3ptx3MmaE4E", (r"DMMA\.(884|8x8x4) ",)),
    ("named_barrier_kernel", (r"BAR\.ARV", r"BAR\.SYNC")),
    (
        "mbarrier_kernel",
        (
            r"SYNCS\.EXCH\.64",
            r"SYNCS\.ARRIVE\.TRANS64\.A1T0",
            r"SYNCS\.PHASECHK\.TRANS64\.TRYWAIT",
            r"SYNCS\.CCTL\.IV",
        ),
    ),
    ("elect_kernel", ("ELECT",)),
    (
        "set_max_registers_kernel",
        (r"USETMAXREG\.DEALLOC\.CTAPOOL 0x28", r"USETMAXREG\.TRY_ALLOC\.CTAPOOL .*0xe8"),
    ),
    ("cluster_rank_kernel", (r"S2R R\d+, SR_CgaCtaId",)),
    ("cluster_exchange_kernel", (r"LD\.E ", r"ST\.E\.64 ", *CLUSTER_BARRIER)),
    ("remote_arrive_kernel", (r"SYNCS\.ARRIVE\.TRANS64\.RED\.A1T0", r"ST\.E ", *CLUSTER_BARRIER)),
    *(
        (
            f"tma_load_kernelILi{rank}E",
            (
                rf"UTMALDG\.{rank}D ",
                r"UTMACCTL\.PF",
                EXPECT_ON_BARRIER if rank % 2 == 0 else r"SYNCS\.ARRIVE\.TRANS64\.RED\.A0TR",
                *LOAD_PHASES,
            ),
        )
        for rank in range(1, 6)
    ),
    *(
        (
            f"tma_store_kernelILi{rank}E",
            (rf"UTMASTG\.{rank}D ", "UTMACMDFLUSH", r"DEPBAR\.LE SB0, 0x0", r"FENCE\.VIEW\.ASYNC"),
        )
        for rank in range(1, 6)
    ),
    (
        "tma_store_groups_kernel",
        (r"UTMASTG\.2D ", "UTMACMDFLUSH", r"DEPBAR\.LE SB0, 0x1", r"DEPBAR\.LE SB0, 0x0"),
    ),
    *(
        (
            f"tma_im2col_kernelILi{rank}E",
            (rf"UTMALDG\.{rank}D\.IM2COL ", EXPECT_ON_BARRIER, *LOAD_PHASES),
        )
        for rank in range(3, 6)
    ),
    *(
        (
            f"tma_multicast_kernelILi{rank}ELb{int(im2col)}E",
            (
                rf"UTMALDG\.{rank}D{'.IM2COL' * im2col}\.MULTICAST ",
                EXPECT_ON_BARRIER,
                *LOAD_PHASES,
                *CLUSTER_BARRIER,
            ),
        )
        for im2col in (False, True)
        for rank in range(3 if im2col else 1, 6)
    ),
    ("descriptor_kernel", (r"STG\.E ",)),
    ("wgmma_groups_kernel", (r"HGMMA\.64x32x16\.F32\.BF16 ", r"WARPGROUP\.DEPBAR\.LE gsb0, 0x1")),
]

WGMMA = re.compile(
    r"(?P<kind>wgmma|width)?_?(?P<sides>ss|rs)_(?:width_)?kernelI(?P<type>13__nv_bfloat16|6__half|f)"
    r"Li(?P<n>\d+)E(?:Li(?P<steps>\d)E)?(?P<transposed>(?:Lb[01]E)*)E"
)
WGMMA_TYPES = {"13__nv_bfloat16": (16, r"\.BF16"), "6__half": (16, ""), "f": (8, r"\.TF32")}


def wgmma_pattern(match: re.Match[str]) -> tuple[str, int]:
    """The instruction that a kernel of wgmma_kernels.cuh must have, and how often."""
    depth, suffix = WGMMA_TYPES[match["type"]]
    flags = re.findall(r"Lb([01])E", match["transposed"])
    transposed_a = match["sides"] == "ss" and flags[:1] == ["1"]
    transposed_b = flags[-1:] == ["1"]
    tail = r"\.tnspA" * transposed_a + r"\.tnspB" * transposed_b
    registers = r"R\d+, " if match["sides"] == "rs" else ""
    pattern = (
        rf"HGMMA\.64x{match['n']}x{depth}\.F32{suffix} R\d+, {registers}gdesc\[UR\d+\]{tail}, "
    )
    return pattern, int(match["steps"] or 1)


@cache
def kernels_of(library: str) -> list[Kernel]:
    path = library_path(library, "cuda")
    if path is None:
        pytest.skip(
            f"lib{library}_cuda.so is not built: there was no nvcc, or not the CMake target probes"
        )
    return kernels(path)


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_probe_has_the_instructions_meant(library: str) -> None:
    wrong = []
    for kernel in kernels_of(library):
        what = f"{kernel.architecture} {kernel.name}"
        if match := WGMMA.search(kernel.name):
            pattern, times = wgmma_pattern(match)
            if kernel.count(pattern) != times or kernel.count("HGMMA") != times:
                wrong.append(f"{what}: not {times} times {pattern}")
            continue
        rows = [patterns for part, patterns in ROWS if part in kernel.name]
        if len(rows) != 1:
            wrong.append(f"{what}: {len(rows)} rows of ROWS say what it must contain")
            continue
        wrong += [f"{what}: no {pattern}" for pattern in rows[0] if not kernel.count(pattern)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", [*LIBRARIES, "reference_ampere", "reference_hopper"])
def test_nothing_is_spilled(library: str) -> None:
    """No stack, no local memory, and no instruction that would reach it."""
    found = kernels_of(library)
    assert found
    spilled = [
        f"{kernel.architecture} {kernel.name}: {kernel.stack_bytes} bytes of stack, "
        f"{kernel.local_bytes} of local memory, {kernel.count(r'(LDL|STL)')} accesses of it"
        for kernel in found
        if kernel.stack_bytes or kernel.local_bytes or kernel.count(r"(LDL|STL)\b")
    ]
    assert not spilled, "\n".join(spilled)


def test_every_row_is_about_a_kernel() -> None:
    names = [kernel.name for library in LIBRARIES for kernel in kernels_of(library)]
    idle = [part for part, _ in ROWS if not any(part in name for name in names)]
    assert not idle, f"no kernel is called {idle}"


def test_wgmma_of_every_width_is_there() -> None:
    """All N from 8 to 256, of every type, from shared memory and from registers."""
    widths: dict[tuple[str, str], set[int]] = {}
    for kernel in kernels_of("probes_hopper"):
        if match := WGMMA.search(kernel.name):
            widths.setdefault((match["type"], match["sides"]), set()).add(int(match["n"]))
    every = set(range(8, 257, 8))
    assert widths == {(type, sides): every for type in WGMMA_TYPES for sides in ("ss", "rs")}
