"""The 2x rule in TF32 for every distinct layer of ResNet-50, ResNeXt-50 32x4d and WRN-28-10: the checks of the TF32
kernels over their shapes."""

from __future__ import annotations

import pytest
from passes import Conv
from test_layer_shapes import LAYERS
from test_tf32_kernels import (  # their `conv` is this file's: pytest collects them here once more
    device,  # noqa: F401
    test_dgrad_adds_gates_and_reduces,  # noqa: F401
    test_fprop_epilogue_scales_adds_and_activates,  # noqa: F401
    test_fprop_normalises_on_load_and_pads_after_the_activation,  # noqa: F401
    test_wgrad_is_the_weight_gradient,  # noqa: F401
)


def is_in_pieces(layer: Conv) -> bool:
    return layer.c // layer.groups % 4 == 0


@pytest.fixture(params=filter(is_in_pieces, LAYERS), ids=str)
def conv(request: pytest.FixtureRequest) -> Conv:
    return request.param
