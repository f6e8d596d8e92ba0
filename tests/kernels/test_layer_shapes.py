"""The 2x rule for every distinct layer of ResNet-50, ResNeXt-50 32x4d and WRN-28-10; only the images are smaller."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from pass_checks import (
    GENERATIONS,
    check_dgrad,
    check_fprop_epilogue,
    check_fprop_normalises_on_load,
    check_wgrad,
)
from passes import Conv, conv_of

from resnet_cuda import _host
from resnet_cuda.testing import problems

DTYPES = [torch.bfloat16, torch.float16]
OUTPUT = 9  # pixels along each side: two images fill one tile of 128 rows and part of another


def reduced_layers() -> Iterator[problems.ConvProblem]:
    for layer in (
        *problems.resnet_layers(50),
        *problems.resnet_layers(50, groups=32, group_width=4),
        *problems.wide_resnet_layers(28, 10),
    ):
        size = min(layer.P, OUTPUT) * layer.stride
        yield replace(layer, N=2, H=size, W=size, count=1)


LAYERS = [conv_of(layer) for layer in dict.fromkeys(reduced_layers())]


@pytest.fixture(params=GENERATIONS, ids=GENERATIONS.get)
def capability(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(params=LAYERS, ids=str)
def layer(request: pytest.FixtureRequest) -> Conv:
    return request.param


@pytest.mark.parametrize("op", ["fprop", "dgrad", "wgrad"])
def test_layers_without_groups_run_on_tensor_cores(op: str, capability: tuple[int, int]) -> None:
    for layer in LAYERS:
        if layer.groups > 1 or layer.c % 8:
            continue
        sizes = (layer.n, layer.c, layer.h, layer.w), (layer.k, layer.c, layer.r, layer.s)
        options = {"stride": layer.stride, "padding": layer.padding}
        plan = _host.conv_plan(op, "bfloat16", *sizes, **options, capability=capability)
        fills_boxes = (layer.k if op == "dgrad" else layer.c) % 64 == 0
        wanted = GENERATIONS[capability] if fills_boxes else "sm[89]0"
        assert re.search(f"_{wanted}_", plan["kernel"]), f"{layer}: {plan['kernel']}, {plan['why']}"


def test_fprop_normalises_on_load_and_takes_statistics(
    layer: Conv, dtype: torch.dtype, device: str
) -> None:
    check_fprop_normalises_on_load(layer, dtype, device, statistics=True)


def test_fprop_scales_adds_and_activates(layer: Conv, dtype: torch.dtype, device: str) -> None:
    check_fprop_epilogue(layer, dtype, device, relu=True)


def test_dgrad_adds_gates_and_reduces(layer: Conv, dtype: torch.dtype, device: str) -> None:
    check_dgrad(layer, dtype, device)


def test_wgrad_normalises_on_load(layer: Conv, dtype: torch.dtype, device: str) -> None:
    check_wgrad(layer, dtype, device, normalise=True)
