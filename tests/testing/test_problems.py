"""The layer tables against known totals, and the pairwise generator against its promise."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from resnet_cuda.bench.layers import network
from resnet_cuda.testing.problems import (
    ConvProblem,
    adversarial_problems,
    make_inputs,
    pairwise,
    resnet_layers,
    wide_resnet_layers,
)


@pytest.mark.parametrize(
    ("depth", "convolutions", "macs"),
    [
        (18, 20, 1_814_073_344),
        (34, 36, 3_663_761_408),
        (50, 53, 4_089_184_256),
        (101, 104, 7_801_405_440),
        (152, 155, 11_513_626_624),
    ],
)
def test_the_layers_add_up_to_the_networks(depth: int, convolutions: int, macs: int) -> None:
    layers = resnet_layers(depth)
    classifier = (512 if depth < 50 else 2048) * 1000
    assert sum(layer.count for layer in layers) == convolutions
    assert sum(layer.count * layer.macs for layer in layers) + classifier == macs
    assert len(set(layers)) == len(layers)


def test_resnext_s_layers_are_those_of_the_model() -> None:
    traced = network("resnext50_32x4d", 2, 96).convolutions
    count: dict[ConvProblem, int] = {}
    for layer in traced:
        count[layer.conv] = count.get(layer.conv, 0) + layer.count
    layers = resnet_layers(50, 2, 96, groups=32, group_width=4)
    assert {replace(layer, count=1): layer.count for layer in layers} == count


def test_wide_resnet_s_layers_have_the_network_s_weights() -> None:
    layers = wide_resnet_layers(28, 10)
    batch_norms, classifier = 2 * 8976, 640 * 10 + 10
    weights = sum(layer.count * layer.K * layer.C * layer.R * layer.S for layer in layers)
    assert weights + batch_norms + classifier == 36_479_194
    assert sum(layer.count for layer in layers) == 28, "25 in the blocks' paths, 3 projections"
    assert len(set(layers)) == len(layers)


def test_pairwise_covers_every_valid_pair() -> None:
    factors = {"a": (1, 2, 3), "b": "xyz", "c": (False, True), "d": (0, 1)}
    rows = pairwise(factors, lambda row: not (row["a"] == 3 and row["c"]))
    seen = {(p, row[p], q, row[q]) for row in rows for p, q in itertools.combinations(factors, 2)}
    for p, q in itertools.combinations(factors, 2):
        for i, j in itertools.product(factors[p], factors[q]):
            assert ((p, i, q, j) in seen) == ((p, i, q, j) != ("a", 3, "c", True))
    assert len(rows) < 18, "not fewer rows than half of all combinations"


def test_adversarial_problems_cover_what_they_promise() -> None:
    problems = adversarial_problems()
    assert {p.R for p in problems} == {1, 3, 5, 7}
    assert {p.stride for p in problems} == {1, 2, 3}
    assert {p.padding for p in problems} == {0, 1, 2, 3}
    assert {p.dilation for p in problems} == {1, 2}
    assert {1, 2} < {p.groups for p in problems}
    assert any(p.groups == p.C > 2 for p in problems)
    assert any(p.H == p.W == 1 for p in problems) and any(p.N == 1 for p in problems)
    assert any(p.C % 2 for p in problems)


def test_sizes_are_torchs() -> None:
    for problem in [*adversarial_problems(), ConvProblem(2, 3, 9, 8, 4, 3, 5, 2, 1)]:
        inputs = make_inputs(problem, torch.float32)
        y = torch.conv2d(inputs.x, inputs.weight, **problem.geometry())
        assert list(y.shape) == [problem.N, problem.K, problem.P, problem.Q]
        assert inputs.residual.shape == y.shape
