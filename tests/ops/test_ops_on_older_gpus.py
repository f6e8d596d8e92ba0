"""Every op as a GPU older than sm_80 runs it: SIMT kernels alone, right by the 2x rule."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from resnet_cuda import _raw, _selection, explain, ops
from resnet_cuda.cli._check_cases import Case, cases
from resnet_cuda.cli.check import against_fp64
from resnet_cuda.testing import emulated
from resnet_cuda.testing.problems import ConvProblem, make_inputs

pytestmark = pytest.mark.skipif(
    not _raw.is_built(), reason="resnet_cuda._C is not built: run `make build`"
)
TURING = (7, 5)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
POINTWISE = ConvProblem(2, 64, 9, 9, 16, 1, 1)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{dtype} {case.name}")
        for dtype in DTYPES
        for case in cases(dtype, "cpu")
    ],
)
def test_every_op_is_as_right_as_on_newer_gpus(case: Case) -> None:
    with emulated(capability=TURING, allow_tf32=True) as emulation:
        against_fp64(case)
    kernels = {launch["kernel"] for launch in emulation.launches()}
    assert kernels and not [name for name in kernels if re.search("sm[89]0", name)]


def training_step() -> None:
    given = make_inputs(POINTWISE, torch.bfloat16, requires_grad=True)
    vectors = given.gamma, given.beta, given.running_mean, given.running_var
    z = ops.conv_bn_relu(given.x, given.weight, *vectors, training=True)
    z.square().sum().backward()


def test_a_gradient_is_stored_where_simt_kernels_would_load_two_tensors_for_every_column_tile() -> (
    None
):
    for capability, stored in ((TURING, True), ((8, 0), False)):
        with emulated(capability=capability) as emulation:
            training_step()
        kernels = [launch["kernel"] for launch in emulation.launches()]
        assert ("bn_backward_apply" in kernels) == stored, capability


def test_the_backward_after_the_context_runs_on_the_forward_s_gpu() -> None:
    given = make_inputs(POINTWISE, torch.bfloat16, requires_grad=True)
    selected = _selection.selected_emulator()
    with emulated(capability=TURING) as emulation:
        z = ops.conv_bn_relu(given.x, given.weight, None, None, None, None, training=True)
        emulation.clear()
    z.sum().backward()
    _selection.select_emulator(
        *selected
    )  # the backward has chosen again, and other tests plan for the GPU that is played
    kernels = [launch["kernel"] for launch in emulation.launches()]
    assert "conv_dgrad_simt_gemm" in kernels and "conv_wgrad_simt_gemm" in kernels


def test_explain_plans_for_the_gpu_that_is_played() -> None:
    given = make_inputs(POINTWISE, torch.bfloat16)
    vectors = given.gamma, given.beta, given.running_mean, given.running_var
    with emulated(capability=TURING):
        (unit,) = explain(ops.conv_bn_relu, given.x, given.weight, *vectors).units
    assert unit.passes[0].kernel == "conv_fprop_simt_gemm"
    assert "older than compute capability 8.0" in unit.passes[0].why


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 6), True)])
def test_tensor_cores_are_a_constant_to_the_compiler(
    capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_selection, "_selected", SimpleNamespace(capability=capability))
    torch.compiler.reset()

    @torch.compile(fullgraph=True, backend="eager")
    def call(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if _selection.has_tensor_cores(x.device) else x - 1

    assert call(torch.zeros(1)).item() == (1 if expected else -1)
