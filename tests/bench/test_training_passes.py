"""A training step's passes as parts of a floor, against figures worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from resnet_cuda import _raw, reference
from resnet_cuda.bench import training_passes
from resnet_cuda.bench.layers import Layer
from resnet_cuda.testing.problems import ConvProblem
from resnet_cuda.trace import FORWARD, Trace
from resnet_cuda.trace.passes import TORCH

BF16 = torch.bfloat16
# A bottleneck of 8 channels on 2x32x8x8: Y is 2x8x8x8 in bfloat16, X and Z are four times that, bits a sixteenth of Z.
Y = 2 * 8 * 8 * 8 * 2
X = Z = 4 * Y
BITS = Z // 16


@pytest.fixture(autouse=True)
def _built() -> None:
    if not _raw.is_built():
        pytest.skip("resnet_cuda._C is not built: run `make build`")


def of_block(block: nn.Module, dtype: torch.dtype) -> Trace:
    (traced,) = training_passes.of_module(block, (2, 32, 8, 8), dtype, True)
    return traced


def activations(traced: Trace) -> list[tuple[str, int, int]]:
    """(pass, read, written) of all that touch activations."""
    return [
        (one.name, one.reads.activations, one.writes.activations)
        for one in traced.passes
        if one.bytes.activations
    ]


def test_a_bottleneck_in_closed_form_moves_what_its_passes_need() -> None:
    assert activations(of_block(reference.Bottleneck(32, 8), BF16)) == [
        ("conv_fprop", X, Y),
        ("conv_fprop", Y, Y),
        ("bottleneck_gram", Y, 0),
        ("conv_fprop", Y + X, Z + BITS),
        ("bottleneck_expand_wgrad", Z + BITS + Y, 0),
        ("bottleneck_expand_dgrad", Z + BITS + Y, Y),
        ("bn_backward_apply", 2 * Y, Y),
        ("conv_wgrad", 2 * Y, 0),
        ("conv_dgrad", 2 * Y, Y),
        ("conv_wgrad", 2 * Y + X, 0),
        ("conv_dgrad", 2 * Y + Z + BITS, X),
    ]


def test_torch_launches_little_for_a_bottleneck_in_closed_form() -> None:
    """34 operations in a training step, on vectors of all its batch norms and on matrices of a weight's size."""
    traced = of_block(reference.Bottleneck(32, 8), BF16)
    of_torch = [one for one in traced.passes if one.name == TORCH]
    assert sum(one.operations for one in of_torch) <= 34, [
        (one.phase, one.unit, one.operations) for one in of_torch
    ]


def test_weights_gradients_and_small_matrices_are_counted_apart() -> None:
    passes = {one.name: one for one in of_block(reference.Bottleneck(32, 8), BF16).passes}
    assert passes["bottleneck_gram"].writes.matrices == 8 * 8 * 8, "the Gram matrix, float64"
    assert passes["bottleneck_gram"].writes.small == 8 * 8, "the sums, float64"
    assert passes["bottleneck_expand_wgrad"].writes.matrices == 32 * 8 * 8
    assert passes["conv_wgrad"].writes.matrices == 32 * 8 * 2, "conv1's gradient"
    assert passes["conv_dgrad"].reads.matrices == 32 * 8 * 2


def test_a_strided_projection_reads_the_pixels_that_it_samples() -> None:
    projection = ConvProblem(2, 32, 8, 8, 64, 1, 1, stride=2)
    traced = training_passes.of_layer(Layer(projection, batch_norm=True), BF16)
    passes = {one.name: one for one in traced.passes}
    assert passes["conv_fprop"].reads.activations == X // 4
    assert passes["conv_dgrad"].writes.activations == X, "the skipped pixels' zeros are written"


def test_the_forward_pass_alone_is_part_of_the_step() -> None:
    layer = Layer(ConvProblem(2, 32, 8, 8, 8, 1, 1), batch_norm=True, residual=True, relu=True)
    traced = training_passes.of_layer(layer, torch.float32)
    forward, step = training_passes.parts(traced, FORWARD), training_passes.parts(traced)
    assert step[: len(forward)] == forward and len(step) > len(forward)
    flops = 2 * 2 * 8 * 8 * 8 * 32
    assert sum(part[0] for part in forward) == flops
    assert sum(part[0] for part in step) == 3 * flops


def test_images_need_no_gradient() -> None:
    block = reference.Bottleneck(32, 8)
    ours = {
        wanted: training_passes.of_module(block, (2, 32, 8, 8), BF16, wanted)[0]
        for wanted in (True, False)
    }
    dgrads = {w: sum(p.name == "conv_dgrad" for p in t.passes) for w, t in ours.items()}
    assert dgrads == {True: 2, False: 1}
