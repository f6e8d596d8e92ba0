"""What a change touches: the table of passes is what is launched, and files lead to the kernels that include them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.hardware import affected
from benchmarks.hardware.affected import (
    OF_INSTRUCTIONS,
    OF_KERNELS,
    OF_NETWORKS,
    PASSES_OF_OP,
    by_files,
    by_names,
    since,
)
from benchmarks.hardware.correctness import op_of
from resnet_cuda.cli._check_cases import cases
from resnet_cuda.cli.check import outcome
from resnet_cuda.testing import emulated

ROOT = Path(__file__).parents[2]


def pass_of(kernel: str) -> str:
    """The pass that a kernel's name begins with: conv_wgrad_sum_splits belongs to conv_wgrad."""
    every = {name for passes in PASSES_OF_OP.values() for name in passes}
    return max((name for name in every if kernel.startswith(name)), key=len)


def test_the_passes_of_each_op_are_those_that_it_launches() -> None:
    launched: dict[str, set[str]] = {}
    with emulated() as emulator:
        for case in (*cases(torch.float32, "cpu"), *cases(torch.bfloat16, "cpu")):
            emulator.clear()
            outcome(case, torch.ones_like)
            found = {pass_of(launch["kernel"]) for launch in emulator.launches()}
            launched.setdefault(op_of(case), set()).update(found)
    assert launched == {op: set(passes) for op, passes in PASSES_OF_OP.items()}


def test_every_pass_belongs_to_an_op() -> None:
    assert {name for passes in PASSES_OF_OP.values() for name in passes} == affected._every_pass()


@pytest.mark.parametrize(
    ("file", "passes"),
    [
        ("csrc/launch/max_pool.cu", {"max_pool_forward", "max_pool_backward"}),
        ("csrc/kernels/pool/max_pool.cuh", {"max_pool_forward", "max_pool_backward"}),
        (
            "csrc/kernels/conv/sum_splits.cuh",
            {
                *("conv_wgrad", "bottleneck_gram", "bottleneck_expand_wgrad"),
                *("closed_form_finalize", "closed_form_backward_reduce"),
                "closed_form_backward_finalize",
            },
        ),
        ("csrc/bindings/global_avg_pool.cpp", set(PASSES_OF_OP["global_avg_pool"])),
        ("csrc/launch/conv_fprop.cu", {"conv_fprop", "bottleneck_reduce", "bottleneck_expand"}),
        (
            "csrc/launch/sm80/conv_fprop.cu",
            {"conv_fprop", "bottleneck_reduce", "bottleneck_expand"},
        ),
        ("csrc/launch/simt/conv_dgrad.cu", {"conv_dgrad"}),
        ("csrc/launch/kernel_library.h", affected._every_pass()),
        ("csrc/bindings/stage.cpp", affected._every_pass()),
        ("csrc/ptx/memory.cuh", affected._every_pass()),
        ("CMakeLists.txt", affected._every_pass()),
    ],
)
def test_a_source_touches_the_passes_that_are_compiled_from_it(file: str, passes: set[str]) -> None:
    assert (ROOT / file).exists(), f"{file} has moved: name another file of its kind here"
    selection, reasons = by_files([file])
    assert selection.ops == affected.ops_of(passes)
    assert selection.stages is not None and OF_KERNELS <= selection.stages
    assert reasons and reasons[0].startswith(f"{file}: ")
    assert ("all kernels" in reasons[0]) == (passes == affected._every_pass())


def test_an_instruction_touches_its_probes() -> None:
    selection, _ = by_files(["csrc/ptx/wgmma.cuh"])
    assert selection.stages is not None and OF_INSTRUCTIONS <= selection.stages


@pytest.mark.parametrize(
    ("file", "ops"),
    [
        ("resnet_cuda/ops/max_pool2d.py", {"max_pool2d", "conv_bn_relu_max_pool2d"}),
        (
            "resnet_cuda/ops/bottleneck.py",
            {
                "bottleneck_block",
                "bottleneck_reduce",
                "bottleneck_expand",
                "bottleneck_expand_reduce",
                "residual_branch",
            },
        ),
        ("resnet_cuda/ops/_kernels.py", set(PASSES_OF_OP)),
        ("resnet_cuda/ops/_aten.py", None),
    ],
)
def test_a_python_file_touches_the_ops_that_import_it(file: str, ops: set[str] | None) -> None:
    assert (ROOT / file).exists(), f"{file} has moved: name another file of its kind here"
    assert by_files([file])[0].ops == ops


def test_a_network_touches_no_kernels() -> None:
    selection, _ = by_files(["resnet_cuda/models/resnet.py"])
    assert selection.stages == OF_NETWORKS | affected.CORRECTNESS
    assert selection.ops is None


def test_documents_and_other_tests_touch_nothing() -> None:
    selection, reasons = by_files(["README.md", "docs/emulator.md", "tests/ops/test_pooling.py"])
    assert selection.stages == frozenset() and reasons == []


def test_names_are_passes_ops_or_launchers() -> None:
    assert by_names(["max_pool"]).ops == {"max_pool2d", "conv_bn_relu_max_pool2d"}
    assert by_names(["conv_max_pool"]).ops == {"conv_bn_relu_max_pool2d"}
    assert by_names(["conv_wgrad"]).ops == {
        "conv_bn_relu",
        "bottleneck_block",
        "bottleneck_reduce",
        "bottleneck_expand",
        "bottleneck_expand_reduce",
        "residual_branch",
    }
    assert by_names(["bn_relu"]).ops == {"bn_relu"}
    assert by_names(["bn_relu"]).passes == set(PASSES_OF_OP["bn_relu"])
    networks = by_names(["add_relu"]).stages
    assert networks is not None and not OF_NETWORKS & networks, "networks do not call add_relu"
    with pytest.raises(
        ValueError, match="'conv_grad', which is no kernel and no op; accepted: add_relu"
    ):
        by_names(["conv_grad"])


def test_since_reads_the_changes_from_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True)

    git("init", "-q")
    (tmp_path / "one").write_text("")
    git("add", ".")
    git("commit", "-q", "-m", "Begin")
    (tmp_path / "one").write_text("changed")
    (tmp_path / "two").write_text("new")
    monkeypatch.setattr(affected, "ROOT", tmp_path)
    assert affected._changed_files("HEAD") == ["one", "two"]
    with pytest.raises(ValueError, match="--since is 'nowhere': git knows no such revision"):
        since("nowhere")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="--since is 'HEAD': git cannot be run"):
        since("HEAD")
