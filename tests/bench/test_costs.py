"""What one perfect kernel must do, against figures worked out by hand."""

from __future__ import annotations

import pytest
import torch

from resnet_cuda.bench import costs
from resnet_cuda.bench.layers import Elementwise, Layer, Pool, Stem
from resnet_cuda.testing.problems import ConvProblem

BF16, F32, F64 = torch.bfloat16, torch.float32, torch.float64
# x 2x8x6x6 = 576, weight 4x8x3x3 = 288, y 2x4x6x6 = 288 elements; 288 * 72 multiply-adds.
CONV = ConvProblem(2, 8, 6, 6, 4, 3, 3, 1, 1)
# A strided 1x1 touches every fourth pixel: 2x8x3x3 = 144 of x, weight 32, y 2x4x3x3 = 72.
STRIDED = ConvProblem(2, 8, 6, 6, 4, 1, 1, 2)
GROUPED = ConvProblem(2, 8, 6, 6, 4, 3, 3, 1, 1, groups=4)


@pytest.mark.parametrize("dtype", [BF16, F32, F64])
def test_convolutions_move_each_operand_once(dtype: torch.dtype) -> None:
    size = dtype.itemsize
    for part in (costs.fprop(CONV, dtype), costs.dgrad(CONV, dtype), costs.wgrad(CONV, dtype)):
        assert part == (2 * 288 * 72, (576 + 288 + 288) * size)


def test_a_stride_skips_pixels_that_only_dgrad_must_write() -> None:
    assert costs.fprop(STRIDED, F32) == (2 * 72 * 8, (144 + 32 + 72) * 4)
    assert costs.wgrad(STRIDED, F32) == (2 * 72 * 8, (144 + 32 + 72) * 4)
    assert costs.dgrad(STRIDED, F32) == (2 * 72 * 8, (576 + 32 + 72) * 4)


def test_groups_divide_the_weight_and_the_arithmetic() -> None:
    assert costs.fprop(GROUPED, F32) == (2 * 288 * 18, (576 + 72 + 288) * 4)


@pytest.mark.parametrize(("dtype", "wide"), [(BF16, 4), (F32, 4), (F64, 8)])
def test_vectors_and_statistics_are_in_the_accumulator_s_dtype(
    dtype: torch.dtype, wide: int
) -> None:
    plain = costs.fprop(CONV, dtype)[1]
    assert costs.fprop(CONV, dtype, vectors=2)[1] - plain == 2 * 4 * wide
    assert costs.fprop(CONV, dtype, residual=True)[1] - plain == 288 * dtype.itemsize
    tiles = 2  # 72 pixels in tiles of 64
    assert costs.fprop(CONV, dtype, statistics=True)[1] - plain == tiles * 2 * 4 * wide


def test_a_relu_s_gate_is_a_mask_after_an_addition_else_two_vectors() -> None:
    shape = (2, 4, 6, 6)
    elements, mask, partials, vector = 288 * 2, 36, 2 * 2 * 4 * 4, 4 * 4
    none, gate, masked = (
        Elementwise(shape),
        Elementwise(shape, relu=True),
        Elementwise(shape, residual=True, relu=True),
    )
    assert (
        costs.bn_apply(none, BF16) == costs.bn_apply(gate, BF16) == (0, 2 * elements + 2 * vector)
    )
    assert costs.bn_apply(masked, BF16) == (0, 3 * elements + mask + 2 * vector)
    reduce = 2 * elements + partials
    assert costs.bn_backward_reduce(none, BF16) == (0, reduce + vector)
    assert costs.bn_backward_reduce(gate, BF16) == (0, reduce + 3 * vector)
    assert costs.bn_backward_reduce(masked, BF16) == (0, reduce + vector + mask)
    assert costs.bn_backward_apply(none, BF16) == (0, 3 * elements + 4 * vector)
    assert costs.bn_backward_apply(gate, BF16) == (0, 3 * elements + 6 * vector)
    assert costs.bn_backward_apply(masked, BF16) == (0, 4 * elements + 4 * vector + mask)


def test_a_stem_writes_what_it_has_pooled_alone() -> None:
    layer = Layer(ConvProblem(2, 3, 12, 12, 4, 7, 7, 2, 3), batch_norm=True, relu=True)
    stem = Stem(layer, Pool((2, 4, 6, 6), 3, 2, 1))
    bytes_ = (2 * 3 * 144 + 4 * 3 * 49 + 2 * 4 * 9) * 2 + 2 * 4 * 4
    assert costs.stem(stem, BF16) == (2 * layer.conv.macs, bytes_)


def test_pools_keep_a_byte_for_each_winner() -> None:
    pool = Pool((2, 4, 6, 6), 3, 2, 1)
    assert costs.max_pool(pool, BF16) == (0, (288 + 72) * 2 + 72)
    assert costs.max_pool(pool, BF16, winners=False) == (0, (288 + 72) * 2)
    assert costs.average_pool(Pool((2, 4, 6, 6)), BF16) == (0, (288 + 8) * 2)


def test_a_layer_is_one_pass_at_inference() -> None:
    layer = Layer(CONV, batch_norm=True, relu=True)
    assert costs.inference(layer, F32) == [costs.fprop(CONV, F32, vectors=2)]


def test_a_projection_adds_its_operands_to_one_pass_at_inference() -> None:
    expand = ConvProblem(2, 2, 3, 3, 4, 1, 1)
    layer = Layer(expand, batch_norm=True, residual=True, relu=True, projection=STRIDED)
    flops, size = costs.fprop(expand, F32, vectors=2)
    assert costs.inference(layer, F32) == [
        (flops + 2 * STRIDED.macs, size + (144 + 32) * 4 + 2 * 4 * 4)
    ]
