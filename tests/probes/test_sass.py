"""The machine code of the probes for GPUs: each wrapper becomes the instructions meant, and nothing spills.

Needs the libraries that CMake builds where there is nvcc, and no GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.device_library.library import library_path
from tests.device_library.sass import Kernel, kernels, spilling

EXPECT_ON_BARRIER = r"SYNCS\.ARRIVE\.TRANS64 "
LOAD_PHASES = (
    r"SYNCS\.EXCH\.64",
    r"SYNCS\.PHASECHK\.TRANS64\.TRYWAIT",
    r"FENCE\.VIEW\.ASYNC",
    "ELECT",
)
CLUSTER_BARRIER = ("UCGABAR_ARV", "UCGABAR_WAIT")


def matrix_rows(instruction: str, opcode: str) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (
            f"{instruction}_kernelILi{count}ELb{int(transposed)}E",
            (rf"{opcode}\.16\.{form}{suffix} ",),
        )
        for transposed, form in ((False, "M88"), (True, "MT88"))
        for count, suffix in ((1, ""), (2, r"\.2"), (4, r"\.4"))
    ]


def access(kernel: str, suffix: str) -> tuple[str, tuple[str, ...]]:
    plain = rf"\.{suffix}" if suffix else ""
    return kernel, (rf"LDG\.E{plain} ", rf"LDG\.E{plain}\.CONSTANT ", rf"STG\.E{plain} ")


def shared_access(kernel: str, suffix: str) -> tuple[str, tuple[str, ...]]:
    plain = rf"\.{suffix}" if suffix else ""
    return kernel, (rf"LDS{plain} ", rf"STS{plain} ")


# Part of the kernel's mangled name, and patterns of which each must begin one instruction at least. Every kernel has
# exactly one row, but those of wgmma, whose names say all.
Row = tuple[str, tuple[str, ...]]
AMPERE_ROWS: list[Row] = [
    access("reverse_kernelIhE", "U8"),
    access("reverse_kernelItE", "U16"),
    access("reverse_kernelIjE", ""),
    access("reverse_kernelINS1_5BytesILm8EEE", "64"),
    access("reverse_kernelINS1_5BytesILm16EEE", "128"),
    shared_access("reverse_in_shared_kernelIjE", ""),
    shared_access("reverse_in_shared_kernelINS1_5BytesILm8EEE", "64"),
    shared_access("reverse_in_shared_kernelINS1_5BytesILm16EEE", "128"),
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
    *matrix_rows("ldmatrix", "LDSM"),
    ("ldmatrix_tile_kernelILi2ELb1E", (r"LDSM\.16\.MT88\.2 ",)),
    ("ldmatrix_tile_kernelILi4ELb0E", (r"LDSM\.16\.M88\.4 ",)),
    ("mma_kernelILNS_3ptx3MmaE0E", (r"HMMA\.16816\.F32\.BF16 ",)),
    ("mma_kernelILNS_3ptx3MmaE1E", (r"HMMA\.16816\.F32 ",)),
    ("mma_kernelILNS_3ptx3MmaE2E", (r"HMMA\.1688\.F32\.BF16 ",)),
    ("mma_kernelILNS_3ptx3MmaE3E", (r"HMMA\.1688\.F32\.TF32 ",)),
    ("mma_kernelILNS_3ptx3MmaE4E", (r"DMMA\.(884|8x8x4) ",)),
    ("mma_tile_kernelILNS_3ptx3MmaE0E", (r"HMMA\.16816\.F32\.BF16 ",)),
    ("mma_tile_kernelILNS_3ptx3MmaE4E", (r"DMMA\.(884|8x8x4) ",)),
    # ptxas makes an addition of it, where the number is finite.
    ("tensor_float32_kernel", (r"FSETP\.GEU\.AND P\d, PT, \|R\d+\|, \+INF", r".* 0x1000\b")),
    ("maximum_kernel", (r"FMNMX\.NAN",)),
    ("named_barrier_kernel", (r"BAR\.ARV", r"BAR\.SYNC")),
]
HOPPER_ROWS: list[Row] = [
    *matrix_rows("stmatrix", "STSM"),
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
    ("stir_kernel", ("ACQBULK", "PREEXIT")),
    ("turn_kernel", ("ACQBULK", "PREEXIT", r"LDG\.E ")),
    ("compare_kernel", ("ACQBULK", r"LDG\.E ")),
    ("remote_arrive_kernel", (r"SYNCS\.ARRIVE\.TRANS64\.RED\.A1T0", r"ST\.E ", *CLUSTER_BARRIER)),
    *(
        (
            f"tma_load_kernelILi{rank}E",
            (
                rf"UTMALDG\.{rank}D ",
                EXPECT_ON_BARRIER if rank % 2 == 0 else r"SYNCS\.ARRIVE\.TRANS64\.RED\.A0TR",
                *LOAD_PHASES,
            ),
        )
        for rank in range(1, 6)
    ),
    ("tma_prefetch_kernel", (r"UTMACCTL\.PF", r"UTMALDG\.2D ")),
    ("prefetch_l2_kernel", (r"UBLKPF",)),
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

COPIES = (r"LDGSTS\.E\.BYPASS\.128", "LDGDEPBAR")
RING = (r"SYNCS\.PHASECHK\.TRANS64\.TRYWAIT", EXPECT_ON_BARRIER, "ELECT", r"WARPGROUP\.DEPBAR\.LE")
REFERENCE_ROWS: dict[str, list[Row]] = {
    "reference_ampere": [
        ("MmaE0E", (r"HMMA\.16816\.F32\.BF16 ", r"LDSM\.16\.M88\.4 ", *COPIES)),
        ("MmaE1E", (r"HMMA\.16816\.F32 ", r"LDSM\.16\.M88\.4 ", *COPIES)),
        ("MmaE3E", (r"HMMA\.1688\.F32\.TF32 ", r"LDSM\.16\.M88\.4 ", *COPIES)),
        ("MmaE4E", (r"DMMA\.(884|8x8x4) ", *COPIES)),
    ],
    "reference_hopper": [
        ("gemm_ss_kernel", (r"HGMMA\.\S+ R\d+, gdesc", r"UTMALDG\.2D ", "USETMAXREG", *RING)),
        (
            "gemm_rs_kernel",
            (r"HGMMA\.\S+ R\d+, R\d+, gdesc", r"LDSM\.16\.M88\.4 ", r"UTMALDG\.2D ", *RING),
        ),
        (
            "gemm_cluster_kernel",
            (r"HGMMA\.", r"UTMALDG\.2D\.MULTICAST ", r"SYNCS\.ARRIVE\.TRANS64\.RED\.A1T0", *RING),
        ),
        (
            "conv_kernel",
            (r"HGMMA\.", r"UTMALDG\.4D\.IM2COL ", r"STSM\.16\.M88\.4 ", r"UTMASTG\.2D ", *RING),
        ),
        ("wgrad_kernel", (r"HGMMA\..*\.tnspA\.tnspB, ", r"UTMALDG\.2D ", *RING)),
        ("add_parts_kernel", (r"LDG\.E", r"STG\.E")),
    ],
}

WGMMA = re.compile(
    r"(?P<sides>ss|rs)_(?:width_)?kernelI(?P<type>13__nv_bfloat16|6__half|f)"
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


def kernels_of(library: str) -> list[Kernel]:
    path = library_path(library, "cuda")
    if path is None:
        pytest.skip(
            f"lib{library}_cuda.so is not built: there was no nvcc, or no CMake target for it"
        )
    return kernels(path)


def without_instructions_meant(found: list[Kernel], table: list[Row]) -> Iterator[str]:
    for kernel in found:
        what = f"{kernel.architecture} {kernel.name}"
        if match := WGMMA.search(kernel.name):
            pattern, times = wgmma_pattern(match)
            if kernel.count(pattern) != times or kernel.count("HGMMA") != times:
                yield f"{what}: not {times} times {pattern}"
            continue
        rows = [patterns for part, patterns in table if part in kernel.name]
        if len(rows) != 1:
            yield f"{what}: {len(rows)} rows say what it must contain"
            continue
        yield from (f"{what}: no {pattern}" for pattern in rows[0] if not kernel.count(pattern))
    for part, _ in table:
        if not any(part in kernel.name for kernel in found):
            yield f"no kernel is called {part}"


# One test for each library: taking it apart takes seconds.
def test_ampere_probes_have_the_instructions_meant_and_spill_nothing() -> None:
    found = kernels_of("probes_ampere")
    assert {kernel.architecture for kernel in found} == {"sm_80", "sm_90a"}
    wrong = [*without_instructions_meant(found, AMPERE_ROWS), *spilling(found)]
    assert not wrong, "\n".join(wrong)


def test_hopper_probes_have_the_instructions_meant_and_spill_nothing() -> None:
    found = kernels_of("probes_hopper")
    wrong = [*without_instructions_meant(found, HOPPER_ROWS), *spilling(found)]
    assert not wrong, "\n".join(wrong)
    # wgmma is there for all N from 8 to 256, of every type, from shared memory and from registers.
    widths: dict[tuple[str, str], set[int]] = {}
    for kernel in found:
        if match := WGMMA.search(kernel.name):
            widths.setdefault((match["type"], match["sides"]), set()).add(int(match["n"]))
    every = set(range(8, 257, 8))
    assert widths == {(type, sides): every for type in WGMMA_TYPES for sides in ("ss", "rs")}


@pytest.mark.parametrize("library", REFERENCE_ROWS)
def test_reference_kernels_have_the_instructions_meant_and_spill_nothing(library: str) -> None:
    found = kernels_of(library)
    wrong = [*without_instructions_meant(found, REFERENCE_ROWS[library]), *spilling(found)]
    assert not wrong, "\n".join(wrong)


# ---------------------------------------------------------------- the checks themselves


def test_a_missing_instruction_and_a_spill_are_found() -> None:
    name = "_ZN3rnc6probes12elect_kernelENS0_11ProbeParamsE"
    rows: list[Row] = [("elect_kernel", ("ELECT",))]
    good = Kernel(name, "sm_90a", ["ELECT P0, URZ, PT", "EXIT"])
    assert not [*without_instructions_meant([good], rows), *spilling([good])]
    bad = Kernel(name, "sm_90a", ["VOTE.ANY R0, PT, P0", "STL [R1], R2"], stack_bytes=8)
    assert list(without_instructions_meant([bad], rows)) == [f"sm_90a {name}: no ELECT"]
    assert "8 bytes of stack, 0 of local memory, 1 accesses" in next(spilling([bad]))
    assert "0 rows say" in next(without_instructions_meant([good], []))
    transposed = (
        "_ZN3rnc6probes15wgmma_ss_kernelI13__nv_bfloat16Li64ELi1ELb0ELb1EEEvNS0_11ProbeParamsE"
    )
    plain = Kernel(transposed, "sm_90a", ["HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], R24, gsb0"])
    assert "not 1 times" in next(without_instructions_meant([plain], []))
