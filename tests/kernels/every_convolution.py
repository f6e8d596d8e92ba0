"""The tests that every generation's convolutions pass, of whatever `conv` and `device` the file has that imports them:
pytest collects them there once more."""

from __future__ import annotations

import pytest
import torch
from pass_checks import (
    check_dgrad,
    check_fprop_and_its_statistics,
    check_fprop_epilogue,
    check_fprop_normalises_on_load,
    check_wgrad,
)
from passes import Conv

DTYPES = [torch.bfloat16, torch.float16]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def test_fprop_and_its_statistics(conv: Conv, dtype: torch.dtype, device: str) -> None:
    check_fprop_and_its_statistics(conv, dtype, device)


def test_fprop_normalises_on_load_and_pads_after_the_activation(
    conv: Conv, dtype: torch.dtype, device: str
) -> None:
    check_fprop_normalises_on_load(conv, dtype, device)


@pytest.mark.parametrize("relu", [False, True])
def test_fprop_epilogue_scales_adds_and_activates(
    conv: Conv, dtype: torch.dtype, device: str, relu: bool
) -> None:
    check_fprop_epilogue(conv, dtype, device, relu)


def test_dgrad_adds_gates_and_reduces(conv: Conv, dtype: torch.dtype, device: str) -> None:
    check_dgrad(conv, dtype, device)


@pytest.mark.parametrize("normalise", [False, True])
def test_wgrad_is_the_weight_gradient(
    conv: Conv, dtype: torch.dtype, device: str, normalise: bool
) -> None:
    check_wgrad(conv, dtype, device, normalise)
