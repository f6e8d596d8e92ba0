"""What the build records about compiled kernels, and the occupancy that follows from it."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from resnet_cuda import _raw
from resnet_cuda.bench import resources, tables
from resnet_cuda.bench.resources import Kernel, Missing, Resources, occupancy
from resnet_cuda.cli import main
from resnet_cuda.testing import emulated

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "cmake"))
import compile_cuda  # noqa: E402
import merge_resources  # noqa: E402

# cudaOccMaxActiveBlocksPerMultiprocessor of cuda_occupancy.h (CUDA 13.0) for block size, registers and dynamic shared
# memory, with 1 KiB reserved per block (on sm_75 none) and shared memory preferred.
CUDA_OCCUPANCY = [
    # architecture, threads, registers, shared, blocks
    ("sm_75", 32, 16, 0, 16),
    ("sm_75", 32, 16, 8448, 7),
    ("sm_75", 96, 80, 0, 8),
    ("sm_75", 256, 80, 8448, 3),
    ("sm_75", 256, 128, 16896, 2),
    ("sm_75", 256, 168, 16896, 1),
    ("sm_75", 256, 64, 32768, 2),
    ("sm_75", 256, 64, 33024, 1),
    ("sm_75", 512, 64, 0, 2),
    ("sm_75", 128, 255, 0, 2),
    ("sm_75", 128, 40, 65536, 1),
    ("sm_80", 32, 16, 0, 32),
    ("sm_80", 32, 16, 8448, 17),
    ("sm_80", 96, 80, 0, 8),
    ("sm_80", 256, 80, 8448, 3),
    ("sm_80", 256, 128, 16896, 2),
    ("sm_80", 256, 168, 16896, 1),
    ("sm_80", 256, 40, 49152, 3),
    ("sm_80", 384, 168, 0, 1),
    ("sm_80", 1024, 64, 0, 1),
    ("sm_80", 1024, 80, 0, 0),
    ("sm_80", 128, 32, 166912, 1),
    ("sm_90a", 32, 40, 200000, 1),
    ("sm_90a", 256, 255, 166912, 1),
    ("sm_90a", 32, 168, 0, 12),
    ("sm_90a", 256, 32, 66560, 3),
    ("sm_90a", 128, 16, 16896, 13),
    ("sm_90a", 384, 128, 16896, 1),
    ("sm_90a", 384, 168, 160000, 1),
    ("sm_90a", 64, 40, 232448, 1),
]


# By hand: 100 KiB of shared memory, 16 (sm_86) or 24 (sm_89) blocks, 48 warps.
SMALL_GPUS = [
    ("sm_86", 128, 255, 65536, 1),
    ("sm_86", 128, 255, 49152, 2),
    ("sm_86", 256, 80, 16896, 3),
    ("sm_86", 64, 32, 0, 16),
    ("sm_89", 64, 32, 0, 24),
    ("sm_89", 1024, 64, 0, 1),
]


@pytest.mark.parametrize(
    ("architecture", "threads", "registers", "shared", "blocks"), CUDA_OCCUPANCY + SMALL_GPUS
)
def test_occupancy_is_that_of_cudas_calculator(
    architecture: str, threads: int, registers: int, shared: int, blocks: int
) -> None:
    found = occupancy(architecture, threads, registers, shared)
    assert found is not None
    assert found.blocks == blocks
    assert found.warps == blocks * (threads // 32)


def test_occupancy_says_what_limits_it() -> None:
    assert occupancy("sm_80", 256, 80, 0).limits == ("registers",)  # type: ignore[union-attr]
    assert occupancy("sm_80", 128, 16, 49152).limits == ("shared memory",)  # type: ignore[union-attr]
    assert occupancy("sm_90", 1024, 16, 0).limits == ("threads",)  # type: ignore[union-attr]
    assert occupancy("sm_90", 32, 16, 0).limits == ("blocks",)  # type: ignore[union-attr]


def test_the_occupancy_of_an_unknown_architecture_is_unknown() -> None:
    assert occupancy("sm_42", 256, 32, 0) is None


PTXAS = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Zone' for 'sm_80'
ptxas info    : Function properties for _Zhelper
    64 bytes stack frame, 9 bytes spill stores, 9 bytes spill loads
ptxas info    : Function properties for _Zone
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 512 bytes smem, 440 bytes cmem[0], 8 bytes cmem[2]
ptxas info    : Compile time = 12.5 ms
ptxas info    : Compiling entry function '_Zone' for 'sm_90a'
ptxas info    : Function properties for _Zone
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers
"""


def test_ptxas_words_are_read_per_kernel_and_architecture() -> None:
    found = compile_cuda.parse_ptxas(PTXAS)
    assert found["_Zone", "sm_80"] == {
        "stack": 16,
        "spill_stores": 4,
        "spill_loads": 8,
        "registers": 40,
        "static_shared": 512,
        "constant": 448,
    }
    assert found["_Zone", "sm_90a"]["registers"] == 32
    assert found["_Zone", "sm_90a"]["spill_stores"] == 0


def test_block_size_dynamic_shared_memory_and_stages_are_read_from_ptx() -> None:
    text = """
.extern .shared .align 1024 .b8 _ZN3rnc6detail15dynamic_smem_ofILm4096ELm3EEE[];
.visible .entry _Zone(
	.param .align 8 .b8 _Zone_param_0[152]
)
.maxntid 128, 2, 1
{
	mov.u32 	%r1, _ZN3rnc6detail15dynamic_smem_ofILm4096ELm3EEE;
}
.weak .entry _Ztwo(
)
{
}
"""
    assert compile_cuda.parse_ptx(text) == {
        "_Zone": {"threads": 256, "dynamic_shared": 4096, "stages": 3},
        "_Ztwo": {"threads": None, "dynamic_shared": 0, "stages": 0},
    }


def elf(sections: dict[str, int]) -> bytes:
    """A 64-bit ELF file of nothing but section headers; {name: size}."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in sections) + b".shstrtab\0"
    headers = [struct.pack("<IIQQQQ", 0, 0, 0, 0, 0, 0)]
    for name, size in {**sections, ".shstrtab": len(names)}.items():
        headers.append(
            struct.pack("<IIQQQQ", names.index(name.encode() + b"\0"), 1, 0, 0, 64, size)
        )
    table = b"".join(header.ljust(64, b"\0") for header in headers)
    head = bytearray(64)
    struct.pack_into("<Q", head, 0x28, 64 + len(names))
    struct.pack_into("<HHH", head, 0x3A, 64, len(headers), len(headers) - 1)
    return bytes(head) + names + table


def test_code_sizes_are_those_of_the_text_sections() -> None:
    cubin = elf({".nv.info": 10, ".text._Zone": 1280, ".text._Ztwo": 640})
    assert compile_cuda.code_sizes(cubin) == {"_Zone": 1280, "_Ztwo": 640}


# As nvcc names what it keeps of a.cu: a PTX of each architecture's own, one for both, one for both beside another's.
KEPT = {
    ("a.compute_80.ptx", "a.compute_90a.ptx"): ("a.compute_80.sm_80.cubin", "a.compute_90a.cubin"),
    ("a.ptx",): ("a.sm_80.cubin", "a.sm_90a.cubin"),
    ("a.compute_75.ptx", "a.compute_80.ptx"): (
        "a.compute_80.sm_80.cubin",
        "a.compute_80.sm_90a.cubin",
    ),
}


@pytest.mark.parametrize(("ptx", "cubins"), KEPT.items(), ids=lambda names: "+".join(names))
def test_machine_code_is_described_by_the_ptx_that_it_is_from(
    tmp_path: Path, ptx: tuple[str, ...], cubins: tuple[str, ...]
) -> None:
    for name in ptx:
        (tmp_path / name).write_text(".visible .entry _Zone(\n)\n.maxntid 128, 1, 1\n{\n}\n")
    for size, name in enumerate(cubins, start=1):
        (tmp_path / name).write_bytes(elf({".text._Zone": size}))
    found = compile_cuda.kernels(PTXAS, tmp_path)
    assert [
        (kernel["architecture"], kernel["registers"], kernel["threads"], kernel["code"])
        for kernel in found
    ] == [("sm_80", 40, 128, 1), ("sm_90a", 32, 128, 2)]


@pytest.mark.parametrize(
    "advice",
    [
        "ptxas info    : (C7510) Potential Performance Loss: serialized",
        "ptxas warning : Value of threads per SM for entry f is out of range. .minnctapersm will be ignored",
    ],
)
def test_the_launcher_still_refuses_ptxas_advice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], advice: str
) -> None:
    compiler = tmp_path / "nvcc"
    target = tmp_path / "a.o"
    compiler.write_text(f"#!/bin/sh\necho '{advice}'\ntouch {target}\n")
    compiler.chmod(0o755)
    for option in ([], ["--resources"]):
        assert compile_cuda.main([*option, str(compiler), "-o", str(target)]) == 1
        assert advice in capfd.readouterr().out
    assert not target.exists(), "an object without its record would not be compiled again"


def test_what_was_compiled_is_summed_over_objects(tmp_path: Path) -> None:
    for folder, ptx in (("simt", 300), ("sm80", 500)):
        (tmp_path / folder).mkdir()
        record = {"user_seconds": 2.0, "ptx": ptx, "kernels": [{"symbol": folder}]}
        (tmp_path / folder / "conv.cu.o.resources.json").write_text(json.dumps(record))
    objects = [str(tmp_path / folder / "conv.cu.o") for folder in ("simt", "sm80")]
    merge_resources.main(str(tmp_path / "out.json"), "13.0", *objects, "plan.cpp.o")
    merged = json.loads((tmp_path / "out.json").read_text())
    assert merged.pop("schema") == resources.SCHEMA
    assert merged == {
        "nvcc": "13.0",
        "user_seconds": {"conv": 4.0},
        "objects": 2,
        "ptx": 800,
        "kernels": [{"source": "conv", "symbol": name} for name in ("simt", "sm80")],
    }


def test_a_lost_record_of_an_object_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="delete .*a.cu.o and build again"):
        merge_resources.main(str(tmp_path / "out.json"), "13.0", str(tmp_path / "a.cu.o"))


def make(name: str, **figures: int) -> Kernel:
    known = dict.fromkeys(
        (
            "static_shared",
            "dynamic_shared",
            "stages",
            "stack",
            "spill_stores",
            "spill_loads",
            "constant",
        ),
        0,
    )
    known |= {"registers": 32, "threads": 256, "code": 128, **figures}
    return Kernel("conv_fprop", f"_Z{name}", name, "sm_80", **known)


GEMM = (
    "void rnc::implicit_gemm_kernel<rnc::PixelRows<__nv_bfloat16, rnc::ScaleBiasRelu<__nv_bfloat16> >, "
    "rnc::FilterRows<__nv_bfloat16>, rnc::StoreWithBnStats<__nv_bfloat16> >"
    "(rnc::ImplicitGemmParams<rnc::PixelRows<__nv_bfloat16, rnc::ScaleBiasRelu<__nv_bfloat16> > >)"
)


def test_kernels_have_readable_names() -> None:
    kernel = make(GEMM)
    expected = "implicit_gemm_kernel<PixelRows<ScaleBiasRelu>, FilterRows, StoreWithBnStats>"
    assert kernel.instantiation == expected
    assert (kernel.dtype, kernel.pass_name) == ("bfloat16", "conv_fprop")
    simple = make("void rnc::sum_splits_kernel<double>(rnc::SumSplitsParams<double>)")
    assert (simple.instantiation, simple.dtype) == ("sum_splits_kernel", "float64")


def test_tables_have_the_stages_of_those_that_have_some() -> None:
    kernels = [make(GEMM, stages=3), make(GEMM + "2", stages=5), make(GEMM + "3")]
    found = Resources("13.0", {"conv_fprop": 4.0}, 1, 900, kernels)
    column = resources.overview(found).header.index("stages")
    assert resources.overview(found).rows[0][column].text == "3-5"
    (row,) = resources.overview(replace(found, kernels=[make(GEMM)])).rows
    assert row[column].text == "-"


def test_tables_mark_spills() -> None:
    found = Resources("13.0", {"conv_fprop": 4.0}, 1, 900, [make(GEMM, spill_stores=12)])
    for table in (resources.overview(found), resources.details(found, "Pixel")):
        (row,) = table.rows
        assert row[-1].mood == tables.BAD and row[-1].text == "12"
    (row,) = resources.overview(replace(found, kernels=[make(GEMM)])).rows
    assert row[-1] == tables.Cell("-")
    assert not resources.details(found, "no such kernel").rows


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        ({}, "not built"),
        ({"cuda_compiled": False}, "built without nvcc"),
        ({"cuda_compiled": True}, "is missing"),
    ],
)
def test_a_missing_record_is_explained(build: dict[str, bool], reason: str) -> None:
    assert reason in resources.why_missing(build)


def test_info_says_why_there_is_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> Resources:
        raise Missing("built without nvcc")

    monkeypatch.setattr(resources, "load", missing)
    assert main(["info", "--kernels"]) == 2
    assert "built without nvcc" in capsys.readouterr().err


def test_a_record_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kernel_resources.json"
    path.write_text(json.dumps({"schema": 99}))
    with pytest.raises(ValueError, match="schema is 99; accepted: 2"):
        resources.load(path)


@pytest.fixture(scope="module")
def built() -> Iterator[Resources]:
    if not resources.PATH.exists():
        pytest.skip(resources.why_missing(_raw.build_info()))
    yield resources.load()


def test_info_lists_the_kernels_of_this_build(
    built: Resources, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "--kernels"]) == 0
    out = capsys.readouterr().out
    assert "conv_wgrad" in out and f"nvcc {built.nvcc}" in out
    assert main(["info", "--kernels", "StorePartial"]) == 0
    out = "".join(capsys.readouterr().out.split())
    assert "PixelRows" in out and "FilterRows" not in out
    assert main(["info", "--kernels", "no_such_kernel"]) == 2
    assert "passes: add_relu_backward" in capsys.readouterr().err


def test_the_record_holds_every_pass_on_every_architecture(built: Resources) -> None:
    from resnet_cuda import _host

    launched_by_others = {"bottleneck_reduce"}  # runs conv_fprop's kernels
    share_kernels = {"closed_form_finalize", "closed_form_backward_finalize"}
    passes = (set(_host.passes) - launched_by_others - share_kernels) | {"closed_form"}
    for architecture in built.architectures:
        found = {k.pass_name for k in built.kernels if k.architecture == architecture}
        of_tensor_cores = {"conv_max_pool"} if architecture == "sm_75" else set()
        of_hopper = (
            {"bottleneck_block", "bottleneck_expand_reduce"} if architecture != "sm_90a" else set()
        )
        assert found == passes - of_tensor_cores - of_hopper


def test_launches_have_the_block_and_shared_memory_that_the_record_says(built: Resources) -> None:
    """Both come from the compiled code; the launchers could ask for something else."""
    from tests.kernels.every_pass import every_pass

    known = {(k.pass_name, k.dtype, k.threads, k.shared) for k in built.kernels}
    known |= {("bottleneck_reduce", *rest) for name, *rest in known if name == "conv_fprop"}
    shared_passes = {name for name, *_ in known}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        accumulator = "float64" if dtype == torch.float64 else "float32"
        with emulated() as emulation:
            for _, run in every_pass(dtype):
                run()
            launches = emulation.launches()
        for launch in launches:
            stem = max((p for p in shared_passes if launch["kernel"].startswith(p)), key=len)
            x, y, z = launch["block"]
            seen = (x * y * z, launch["shared_bytes"])
            matches = {(stem, d, *seen) for d in (name, accumulator)} & known
            assert matches, f"{launch['kernel']} {name} is launched with {seen}, not in the record"
