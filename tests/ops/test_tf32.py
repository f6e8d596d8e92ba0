"""Whether float32 convolutions may use TF32: torch's switch for a GPU, the caller of `emulated` under emulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from resnet_cuda import _raw, _selection, explain, ops
from resnet_cuda.testing import emulated
from resnet_cuda.testing.problems import ConvProblem, make_inputs

pytestmark = pytest.mark.skipif(
    not _raw.is_built(), reason="resnet_cuda._C is not built: run `make build`"
)
PROBLEM = ConvProblem(2, 8, 6, 6, 12, 3, 3, padding=1)
BACKENDS = torch.backends


@pytest.fixture(autouse=True)
def _torchs_switches() -> Iterator[None]:
    """Tests move torch's switches; the one for everything and those of cuDNN are put back."""
    before = BACKENDS.fp32_precision
    yield
    BACKENDS.fp32_precision = before
    BACKENDS.cudnn.fp32_precision = "none"
    BACKENDS.cudnn.allow_tf32 = False  # as tests/conftest.py leaves it


def training_step(call: Callable[..., Tensor] = ops.conv_bn_relu) -> list[Tensor]:
    inputs = make_inputs(PROBLEM, torch.float32, requires_grad=True)
    vectors = inputs.gamma, inputs.beta, inputs.running_mean, inputs.running_var
    z = call(inputs.x, inputs.weight, *vectors, padding=1, training=True)
    z.square().sum().backward()
    return [z.detach(), inputs.x.grad, inputs.weight.grad]


def convolutions(launches: list[dict[str, Any]]) -> list[str]:
    names = [launch["kernel"] for launch in launches]
    return [n for n in names if n.startswith("conv_") and not n.endswith("sum_splits")]


def kernels(generation: str) -> list[str]:
    return [f"conv_{name}_{generation}_im2col" for name in ("fprop", "wgrad", "dgrad")]


@pytest.mark.parametrize(
    ("moves", "allowed"),
    [
        ({"cudnn.allow_tf32": True}, True),
        ({"cudnn.allow_tf32": False}, False),
        ({"cudnn.conv.fp32_precision": "tf32"}, True),
        ({"cudnn.allow_tf32": True, "cudnn.conv.fp32_precision": "ieee"}, False),
        ({"cudnn.conv.fp32_precision": "none", "fp32_precision": "tf32"}, True),
        ({"cudnn.conv.fp32_precision": "ieee", "fp32_precision": "tf32"}, False),
        ({"cudnn.conv.fp32_precision": "none", "cudnn.fp32_precision": "tf32"}, True),
        ({"cudnn.conv.fp32_precision": "none", "fp32_precision": "ieee"}, False),
    ],
    ids=str,
)
def test_torchs_switch_is_read_as_torch_resolves_it(moves: dict[str, Any], allowed: bool) -> None:
    for name, value in moves.items():
        *path, attribute = name.split(".")
        holder: Any = BACKENDS
        for part in path:
            holder = getattr(holder, part)
        setattr(holder, attribute, value)
    assert (BACKENDS.cudnn.conv.fp32_precision == "tf32") == allowed
    assert _selection.allows_tf32() == allowed


def test_emulated_float32_is_exact_unless_tf32_is_asked_for() -> None:
    BACKENDS.cudnn.allow_tf32 = True  # only concerns GPUs
    with emulated() as emulation:
        exact = training_step()
        assert convolutions(emulation.launches()) == kernels("simt")
    with emulated(allow_tf32=True) as emulation:
        rounded = training_step()
        assert convolutions(emulation.launches()) == kernels("sm80")
    for a, b in zip(exact, rounded, strict=True):
        assert not torch.equal(a, b)
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_tf32_changes_no_other_dtype() -> None:
    for dtype, generation in ((torch.float64, "simt"), (torch.bfloat16, "sm80")):
        for allow_tf32 in (False, True):
            x, weight = (
                torch.ones(size, dtype=dtype).contiguous(memory_format=torch.channels_last)
                for size in ((1, 8, 4, 4), (8, 8, 3, 3))
            )
            with emulated(allow_tf32=allow_tf32) as emulation:
                ops.conv_bn_relu(x, weight, None, None, None, None, training=True)
                assert convolutions(emulation.launches()) == kernels(generation)[:1]


def test_the_backward_after_the_context_uses_the_forward_s_answer() -> None:
    inputs = make_inputs(PROBLEM, torch.float32, requires_grad=True)
    with emulated(allow_tf32=True) as emulation:
        z = ops.conv_bn_relu(inputs.x, inputs.weight, None, None, None, None, training=True)
        emulation.clear()
    z.sum().backward()
    assert convolutions(emulation.launches()) == kernels("sm80")[1:]


def test_an_inner_context_does_not_change_the_outer_one() -> None:
    with emulated() as outer:
        with emulated(allow_tf32=True):
            training_step()
        outer.clear()
        training_step()
        assert convolutions(outer.launches()) == kernels("simt")


def test_a_compiled_graph_follows_a_changed_answer() -> None:
    library = _selection.emulator_library(checked=False)
    with emulated() as emulation:
        compiled = torch.compile(ops.conv_bn_relu, fullgraph=True, backend="aot_eager")
        for allow_tf32, generation in ((False, "simt"), (True, "sm80"), (False, "simt")):
            _selection.select_emulator(library, allow_tf32)
            emulation.clear()
            training_step(compiled)
            assert convolutions(emulation.launches()) == kernels(generation), allow_tf32


def test_explain_plans_under_torchs_switch_and_says_so() -> None:
    x, weight = torch.zeros(2, 8, 6, 6), torch.zeros(12, 8, 3, 3)
    vectors = [torch.ones(12)] * 4

    def plan() -> Any:
        (unit,) = explain(ops.conv_bn_relu, x, weight, *vectors, padding=1).units
        return unit.passes[0]

    BACKENDS.cudnn.allow_tf32 = True
    allowed = plan()
    assert allowed.kernel == "conv_fprop_sm80_im2col"
    assert "TF32 is allowed" in allowed.why
    assert "torch.backends.cudnn.conv.fp32_precision is 'tf32'" in allowed.why
    BACKENDS.cudnn.allow_tf32 = False
    refused = plan()
    assert refused.kernel == "conv_fprop_simt_im2col"
    assert "TF32 is not allowed" in refused.why
    assert "torch.backends.cudnn.conv.fp32_precision is 'none'" in refused.why
