"""What nvcc made of the shipped kernels: no spills, several blocks on a multiprocessor, the instructions meant.

Needs a build with nvcc, and no GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from resnet_cuda import _raw
from resnet_cuda.bench import resources
from resnet_cuda.bench.resources import Kernel, Resources
from tests.device_library import sass

AMPERE, HOPPER = re.compile(r"Sm80\w*?Mainloop"), re.compile(r"Sm90\w*?Mainloop")
BLOCKS, WARPS = 2, 8  # on a multiprocessor: fewer of both cannot hide the latency of memory
# Mangled dtype, and its product of 16 x 8 x 16 elements; in TF32 of 16 x 8 x 8.
PRODUCTS = {"13__nv_bfloat16": r"HMMA\.16816\.F32\.BF16 ", "6__half": r"HMMA\.16816\.F32 "}
TF32_PRODUCT = r"HMMA\.1688\.F32\.TF32 "
COPY, HALF_COPY = r"LDGSTS\.E\.BYPASS\.128", r"LDGSTS\.E\.64"
BITS_COPY = r"LDGSTS\.E(\.ZFILL)? "
STRAIGHT, TRANSPOSED = r"LDSM\.16\.M88\.4 ", r"LDSM\.16\.MT88\.4 "
# By a part of the kernel's mangled name: how its operands' depth lies in shared memory.
LOADS = {
    "FewChannels": (STRAIGHT,),
    "FilterRows": (STRAIGHT,),
    "FilterColumns": (STRAIGHT, TRANSPOSED),
    "Transposed": (TRANSPOSED,),
}


# Of Hopper's kernels: boxes of a matrix and of windows, those of a square's halo, products of a warpgroup, and the
# registers that the producing warps hand to those that multiply.
HOPPER_TILE = re.compile(r"Sm90Tile(?:<|ILi)(\d+)(?:, |ELi)(\d+)(?:, |ELi)(\d+)")
HOPPER_PRODUCTS = {
    "13__nv_bfloat16": r"HGMMA\.64x{}x16\.F32\.BF16 ",
    "6__half": r"HGMMA\.64x{}x16\.F32 ",
}
HOPPER_TF32_PRODUCT = r"HGMMA\.64x{}x8\.F32\.TF32 "
HOPPER_COPIES = r"UTMALDG\.2D", r"UTMALDG\.4D\.IM2COL"
HALO_COPIES = (r"UTMALDG\.4D ",)
# What TMA stores: rows whose statistics are taken, or squares; of an expand with the next reduce both results.
HOPPER_STORES, HALO_STORES = (r"UTMASTG\.3D",), (r"UTMASTG\.4D",)
CHAIN = re.compile(r"expand_reduce_kernel(?:I\w+?Li(\d+)E)?")
CHAIN_COPIES = r"UTMALDG\.2D", r"UTMALDG\.4D\.MULTICAST", r"UTMASTG\.2D"
WHOLE_BLOCK = re.compile(r"bottleneck_block_kernel")
BLOCK_COPIES = r"UTMALDG\.4D", r"UTMALDG\.5D", r"STSM\.16\.M88\.4", r"STG\.E\.128"
GPU_FENCE, CLUSTER_BARRIER = r"MEMBAR\.\w+\.GPU", "UCGABAR_ARV"
# Closed form's products in float64 on tensor cores.
DOUBLE_PRODUCT = r"DMMA\.(884|8x8x4) "
DOUBLE_TILE = re.compile(r"closed_form_product_kernel.*MmaWarpTile")
HANDED_REGISTERS = r"USETMAXREG\.TRY_ALLOC", r"USETMAXREG\.DEALLOC"


@pytest.fixture(scope="module")
def built() -> Resources:
    if not resources.PATH.exists():
        pytest.skip(resources.why_missing(_raw.build_info()))
    return resources.load()


def spilling(kernels: list[Kernel]) -> Iterator[str]:
    for kernel in kernels:
        if kernel.stack or kernel.spill_stores or kernel.spill_loads:
            yield (
                f"{kernel.title} {kernel.architecture}: {kernel.stack} bytes of local memory, "
                f"{kernel.spill_stores} spilled"
            )


def crowded_out(kernels: list[Kernel]) -> Iterator[str]:
    """Kernels of which too few blocks fit on a multiprocessor of some GPU that runs their code."""
    for kernel in kernels:
        code = kernel.architecture
        for gpu in (code, *resources.GUESTS.get(code, ())):
            fitting = kernel.occupancy_on(gpu)
            assert fitting is not None, f"the limits of {gpu} are not in MULTIPROCESSORS"
            if fitting.blocks < BLOCKS and fitting.warps < WARPS:
                yield f"{kernel.title} on {gpu}: {fitting.blocks} blocks of {fitting.warps} warps"


def copies_meant(name: str) -> tuple[str, ...]:
    """Main loops that go through registers need none; packed filters come in 8 bytes, and the bits of
    a piece in 4."""
    if "FewChannels" in name or "Gathered" in name:
        return ()
    if "BitGate" in name:
        return COPY, BITS_COPY
    return (COPY, HALF_COPY) if "PackedFilter" in name else (COPY,)


def without_instructions_meant(kernels: list[sass.Kernel]) -> Iterator[str]:
    for kernel in kernels:
        what = f"{kernel.architecture} {kernel.name}"
        products = (pattern for dtype, pattern in PRODUCTS.items() if dtype in kernel.name)
        product = next(products, TF32_PRODUCT)
        loads = next(patterns for part, patterns in LOADS.items() if part in kernel.name)
        if product == TF32_PRODUCT:  # no load transposes 32-bit elements
            loads = tuple(load for load in loads if load == STRAIGHT)
        copies = copies_meant(kernel.name)
        for pattern in (product, *copies, *loads):
            if not kernel.count(pattern):
                yield f"{what}: no {pattern}"
        if others := kernel.count("HMMA|DMMA|FFMA2") - kernel.count(product):
            yield f"{what}: {others} products of another kind"
        if narrow := kernel.count("LDGSTS") - sum(map(kernel.count, copies or (COPY,))):
            yield f"{what}: {narrow} copies of less than 16 bytes"
    yield from sass.spilling(kernels)


def hopper_tile(name: str) -> tuple[int, int, int]:
    """Rows, columns, and blocks that are to share a multiprocessor; mangled or not."""
    tile = HOPPER_TILE.search(name)
    assert tile is not None, f"no tile in {name}"
    rows, columns, blocks = map(int, tile.groups())
    return rows, columns, blocks


def columns_of_products(name: str) -> set[int]:
    if chain := CHAIN.search(name):
        return {64, int(chain[1])}
    if WHOLE_BLOCK.search(name):
        return {64}
    rows, columns, _ = hopper_tile(name)
    # Warpgroups of 64 rows each, one below the other, or two side by side.
    return {columns // 2 if rows == 64 else columns}


def product_of_hopper(name: str) -> str:
    of_16_bits = (pattern for dtype, pattern in HOPPER_PRODUCTS.items() if dtype in name)
    return next(of_16_bits, HOPPER_TF32_PRODUCT)


def copies_of_hopper(name: str) -> tuple[str, ...]:
    if CHAIN.search(name):
        return CHAIN_COPIES
    if WHOLE_BLOCK.search(name):
        return BLOCK_COPIES
    is_halo = "Halo" in name
    stores = HALO_STORES if is_halo else HOPPER_STORES
    loads = HALO_COPIES if is_halo else HOPPER_COPIES
    in_16_bits = product_of_hopper(name) != HOPPER_TF32_PRODUCT
    return (*loads, *(stores if "StoreWithBnStats" in name and in_16_bits else ()))


def without_hopper_s_instructions(kernels: list[sass.Kernel]) -> Iterator[str]:
    for kernel in kernels:
        product = product_of_hopper(kernel.name)
        products = map(product.format, columns_of_products(kernel.name))
        for pattern in (*products, *copies_of_hopper(kernel.name), *HANDED_REGISTERS):
            if not kernel.count(pattern):
                yield f"{kernel.architecture} {kernel.name}: no {pattern}"
        if others := kernel.count("HMMA|HGMMA|LDGSTS") - kernel.count(product.format(r"\d+")):
            yield f"{kernel.architecture} {kernel.name}: {others} products or copies of another kind"
        # A release of the cluster's scope is one: in a main loop, all warps would wait for it in every slice.
        if fences := kernel.count(GPU_FENCE) - kernel.count(CLUSTER_BARRIER):
            yield f"{kernel.architecture} {kernel.name}: {fences} fences of the GPU beside cluster barriers"
    yield from sass.spilling(kernels)


def lonely(kernels: list[Kernel]) -> Iterator[str]:
    """Kernels of which fewer blocks fit than their tile means. ptxas reports the registers that a block starts with."""
    for kernel in kernels:
        fitting, (*_, blocks) = kernel.occupancy, hopper_tile(kernel.instantiation)
        assert fitting is not None, f"the limits of {kernel.architecture} are not known"
        if fitting.blocks < blocks:
            limits = ", ".join(fitting.limits)
            yield f"{kernel.title}: {fitting.blocks} blocks fit, not {blocks}, by {limits}"


def test_no_kernel_spills_or_uses_local_memory(built: Resources) -> None:
    wrong = list(spilling(list(built.kernels)))
    assert not wrong, "\n".join(wrong)


def needs_tensor_cores(kernel: Kernel) -> bool:
    name = kernel.instantiation
    kinds = (AMPERE, HOPPER, CHAIN, WHOLE_BLOCK, DOUBLE_TILE)
    return any(of.search(name) is not None for of in kinds)


def has_tensor_cores(architecture: str) -> bool:
    """Whether they have what our kernels use: from sm_80 on."""
    return int(re.sub(r"\D", "", architecture)) >= 80


@pytest.mark.parametrize("tensor_cores", [True, False], ids=["tensor cores", "SIMT"])
def test_blocks_of_convolution_kernels_share_a_multiprocessor(
    built: Resources, tensor_cores: bool
) -> None:
    convolutions = [
        kernel
        for kernel in built.kernels
        if "Mainloop" in kernel.instantiation and not HOPPER.search(kernel.instantiation)
    ]
    kernels = [kernel for kernel in convolutions if needs_tensor_cores(kernel) == tensor_cores]
    wanted = {a for a in built.architectures if has_tensor_cores(a) or not tensor_cores}
    assert {kernel.architecture for kernel in kernels} == wanted
    wrong = list(crowded_out(kernels))
    assert not wrong, "\n".join(wrong)


def test_as_many_blocks_of_hopper_s_kernels_fit_as_their_tiles_mean(built: Resources) -> None:
    kernels = [kernel for kernel in built.kernels if HOPPER.search(kernel.instantiation)]
    assert {k.architecture for k in kernels} == {"sm_90a"} & set(built.architectures)
    wrong = list(lonely(kernels))
    assert not wrong, "\n".join(wrong)


def test_older_architectures_have_every_kernel_without_tensor_cores_and_no_other(
    built: Resources,
) -> None:
    older = [a for a in built.architectures if not has_tensor_cores(a)]
    if not older:
        pytest.skip(f"this build is for {' and '.join(built.architectures)} alone")
    wanted = {kernel.symbol for kernel in built.kernels if not needs_tensor_cores(kernel)}
    assert len(wanted) > 100, "the kernels without tensor cores are not in the record"
    for architecture in older:
        found = {k.symbol for k in built.kernels if k.architecture == architecture}
        assert found == wanted, architecture


def test_machine_code_for_older_architectures_has_no_tensor_core_instruction(
    machine_code: list[sass.Kernel],
) -> None:
    kernels = [kernel for kernel in machine_code if not has_tensor_cores(kernel.architecture)]
    if not kernels:
        pytest.skip("this build has code for sm_80 and newer alone")
    wrong = [k.name for k in kernels if k.count(r"[HDI]G?MMA|LDSM|LDGSTS|UTMA")]
    assert not wrong, "\n".join(wrong)
    assert not list(sass.spilling(kernels))


def test_tensor_core_kernels_have_the_instructions_meant(machine_code: list[sass.Kernel]) -> None:
    kernels = [kernel for kernel in machine_code if AMPERE.search(kernel.name)]
    assert len(kernels) > 20, "the convolution kernels are not in the extension"
    wrong = list(without_instructions_meant(kernels))
    assert not wrong, "\n".join(wrong)


def test_closed_form_s_products_run_on_tensor_cores(machine_code: list[sass.Kernel]) -> None:
    kernels = [kernel for kernel in machine_code if DOUBLE_TILE.search(kernel.name)]
    assert kernels, "closed form's products are not in the extension"
    wrong = [f"{k.architecture} {k.name}" for k in kernels if not k.count(DOUBLE_PRODUCT)]
    assert not wrong, "no double product in:\n" + "\n".join(wrong)
    assert not list(sass.spilling(kernels))


def test_hopper_s_kernels_have_the_instructions_meant(machine_code: list[sass.Kernel]) -> None:
    if "sm_90a" not in {kernel.architecture for kernel in machine_code}:
        pytest.skip("this build has no code for sm_90a")
    of_blocks = {CHAIN: 6, WHOLE_BLOCK: 2}
    kernels = [k for k in machine_code if any(of.search(k.name) for of in (HOPPER, *of_blocks))]
    for of, count in of_blocks.items():
        assert sum(of.search(k.name) is not None for k in kernels) == count, of.pattern
    assert len(kernels) > 20, "Hopper's convolution kernels are not in the extension"
    wrong = list(without_hopper_s_instructions(kernels))
    assert not wrong, "\n".join(wrong)


# ---------------------------------------------------------------- the checks themselves


def compiled(**changes: object) -> Kernel:
    figures = {"registers": 168, "threads": 128, "static_shared": 0, "dynamic_shared": 49152}
    figures |= dict.fromkeys(("stack", "spill_stores", "spill_loads", "constant", "code"), 0)
    name = "void implicit_gemm_kernel<Sm80Mainloop<float>>(int)"
    names = {"source": "conv_fprop", "symbol": "_Z", "name": name, "architecture": "sm_80"}
    return Kernel(**{**names, **figures, **changes})  # type: ignore[arg-type]


def test_a_spill_and_a_block_that_is_alone_are_found() -> None:
    assert not [*spilling([compiled()]), *crowded_out([compiled()])]
    assert "8 bytes of local memory" in next(spilling([compiled(stack=8)]))
    # 64 KiB fit twice into the 164 of sm_80, and once into the 100 of sm_86.
    alone = "\n".join(crowded_out([compiled(dynamic_shared=65536)]))
    assert re.findall(r" on (\w+): 1 blocks of 4 warps", alone) == ["sm_86", "sm_89"]


def test_twins_of_hopper_s_blocks_that_do_not_fit_are_found() -> None:
    twin = {
        "architecture": "sm_90a",
        "name": "void k<Sm90Mainloop<Sm90Tile<128, 64, 2>, float>>(int)",
        "threads": 384,
        "registers": 80,
        "dynamic_shared": 112640,
    }
    assert not list(lonely([compiled(**twin)]))
    assert "1 blocks fit, not 2, by registers" in next(
        lonely([compiled(**{**twin, "registers": 88})])
    )
    too_much = {**twin, "dynamic_shared": 116736}
    assert "not 2, by shared memory" in next(lonely([compiled(**too_much)]))


def test_a_missing_instruction_of_hopper_s_is_found() -> None:
    name = "_ZN3rnc12Sm90MainloopINS_8Sm90TileILi64ELi256ELi1EEENS_9TmaPixelsI6__halfEEE"
    good = [
        "HGMMA.64x128x16.F32 R24, gdesc[UR8], R24",
        "UTMALDG.2D [UR4], [UR6]",
        "UTMALDG.4D.IM2COL [UR4], [UR6], UR8",
        "USETMAXREG.TRY_ALLOC.CTAPOOL UP0, 0xe8",
        "USETMAXREG.DEALLOC.CTAPOOL 0x28",
    ]
    assert not list(without_hopper_s_instructions([sass.Kernel(name, "sm_90a", good)]))
    for missing in range(len(good)):
        rest = good[:missing] + good[missing + 1 :]
        (wrong,) = without_hopper_s_instructions([sass.Kernel(name, "sm_90a", rest)])
        assert re.match(r"sm_90a \S+: no ", wrong)
    extra = [*good, "HMMA.16816.F32 R1, R2", "STL [R1], R2"]
    wrong = list(without_hopper_s_instructions([sass.Kernel(name, "sm_90a", extra)]))
    assert len(wrong) == 2 and "1 products" in wrong[0] and "1 accesses" in wrong[1]
    fences = ["MEMBAR.ALL.GPU", "UCGABAR_ARV", "MEMBAR.ALL.GPU"]
    (wrong,) = without_hopper_s_instructions([sass.Kernel(name, "sm_90a", good + fences)])
    assert "1 fences" in wrong


def test_a_missing_instruction_is_found() -> None:
    name = "_ZN3rnc20implicit_gemm_kernelINS_12Sm80MainloopI13__nv_bfloat16NS_10FilterRowsEEE"
    good = ["HMMA.16816.F32.BF16 R1, R2", "LDGSTS.E.BYPASS.128 [R1]", "LDSM.16.M88.4 R1, [R2]"]
    assert not list(without_instructions_meant([sass.Kernel(name, "sm_80", good)]))
    for missing in range(len(good)):
        rest = good[:missing] + good[missing + 1 :]
        (wrong,) = without_instructions_meant([sass.Kernel(name, "sm_80", rest)])
        assert re.match(r"sm_80 \S+: no ", wrong)
    extra = [*good, "LDGSTS.E.64 [R1]", "STL [R1], R2"]
    wrong = list(without_instructions_meant([sass.Kernel(name, "sm_80", extra)]))
    assert len(wrong) == 2 and "1 copies" in wrong[0] and "1 accesses" in wrong[1]
