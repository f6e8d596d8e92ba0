"""What a network is made of, found by following its tensors: chains, counts, projections, blocks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_cuda import reference
from resnet_cuda.bench.layers import Elementwise, Layer, Network, Pool, network, trace
from resnet_cuda.testing.problems import ConvProblem


def traced(module: nn.Module, shape: tuple[int, ...]) -> Network:
    return trace(module.to("meta"), shape)


def test_a_basic_block_is_two_chains_and_a_projection_of_its_own() -> None:
    parts = traced(reference.BasicBlock(8, 16, stride=2), (2, 8, 8, 8))
    first = ConvProblem(2, 8, 8, 8, 16, 3, 3, 2, 1)
    second = ConvProblem(2, 16, 4, 4, 16, 3, 3, 1, 1)
    projection = ConvProblem(2, 8, 8, 8, 16, 1, 1, 2)
    assert set(parts.convolutions) == {
        Layer(first, batch_norm=True, relu=True, input_gradient=False),
        Layer(second, batch_norm=True, residual=True, relu=True),
        Layer(projection, batch_norm=True, input_gradient=False),
    }
    shape = (2, 16, 4, 4)
    assert set(parts.batch_norms) == {
        Elementwise(shape),
        Elementwise(shape, relu=True),
        Elementwise(shape, residual=True, relu=True),
    }
    assert parts.additions == [Elementwise(shape, residual=True, relu=True)]


def test_a_bottleneck_s_projection_belongs_to_the_launch_that_adds_it() -> None:
    parts = traced(reference.Bottleneck(8, 4, stride=2), (2, 8, 8, 8))
    projection = ConvProblem(2, 8, 8, 8, 16, 1, 1, 2)
    (expand,) = parts.expanding(projection=True)
    assert expand.conv == ConvProblem(2, 4, 4, 4, 16, 1, 1) and expand.projection == projection
    assert parts.expanding(projection=False) == []
    narrow = ConvProblem(2, 8, 8, 8, 4, 1, 1)
    assert {layer.conv for layer in parts.reducing()} == {narrow, projection}
    halved = expand.at_batch(1)
    assert halved.conv.N == 1 and halved.projection is not None and halved.projection.N == 1


def test_an_identity_is_added_without_a_projection() -> None:
    parts = traced(reference.Bottleneck(16, 4), (2, 16, 8, 8))
    (expand,) = parts.expanding(projection=False)
    assert expand.residual and expand.projection is None and str(expand).endswith("+ residual")


def test_what_follows_a_convolution_without_batch_norm_is_not_its_own() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.conv(x) + x)

    (layer,) = traced(Bare(), (1, 4, 2, 2)).convolutions
    assert not (layer.batch_norm or layer.residual or layer.relu or layer.input_gradient)


def test_equal_parts_are_one_with_a_count() -> None:
    blocks = nn.Sequential(*(reference.BasicBlock(8, 8) for _ in range(3)))
    parts = traced(blocks, (1, 8, 4, 4))
    counts = {(layer.residual, layer.input_gradient): layer.count for layer in parts.convolutions}
    assert counts == {(False, False): 1, (False, True): 2, (True, True): 3}
    assert [(str(block), block.count) for block in parts.blocks] == [
        ("BasicBlock n1-8x4x4-8-8 identity", 3)
    ]


def test_groups_strides_and_pools_are_seen() -> None:
    block = reference.Bottleneck(32, 8, stride=2, groups=2, base_width=64)
    parts = traced(nn.Sequential(block), (1, 32, 8, 8))
    assert {layer.conv.groups for layer in parts.convolutions} == {1, 2}
    assert str(parts.blocks[0]).endswith("projection s2 g2")
    found = network("resnet18", 2, 32)
    assert found.max_pools == [Pool((2, 64, 16, 16), 3, 2, 1)]
    assert found.max_pools[0].output == (2, 64, 8, 8)
    (stem,) = found.stems
    assert stem.layer.conv.R == 7 and stem.output == (2, 64, 8, 8)
    assert found.pooled_stems() == [stem]
    assert found.average_pools == [Pool((2, 512, 1, 1))]
    assert found.average_pools[0].output == (2, 512, 1, 1)


@pytest.mark.parametrize("count", [1, 4])
def test_a_few_layers_are_the_first_and_fewer_of_the_rest(count: int) -> None:
    whole = network("resnet18", 1, 32)
    few = whole.first(count)
    assert few.convolutions == whole.convolutions[:count] and few.blocks == whole.blocks[:count]
    assert few.additions == whole.additions[: -(-count // 3)]
    assert whole.first(None) is whole


def test_tracing_leaves_the_module_as_it_was() -> None:
    module = reference.BasicBlock(8, 8).to("meta").train()
    trace(module, (1, 8, 4, 4))
    assert module.training and not module._forward_pre_hooks
    assert torch.is_grad_enabled()
