"""Whole networks through the CUDA kernels' own source on the emulator."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from resnet_cuda import _raw, fuse, reference, testing
from tests.networks import assert_close, assert_same_pass, make_adversarial, randomise, run_pass

pytestmark = pytest.mark.skipif(
    not _raw.is_built(), reason="the compiled extension is not built: make build"
)

NETWORKS = {
    "basic": {"block": reference.BasicBlock, "layers": [1, 2]},
    "bottleneck": {"block": reference.Bottleneck, "layers": [1, 2]},
    "bottleneck v1, option A": {
        "block": reference.Bottleneck,
        "layers": [2, 1],
        "shortcut": "A",
        "stride_in_1x1": True,
    },
    "basic, option C": {"block": reference.BasicBlock, "layers": [1, 1], "shortcut": "C"},
    "imagenet stem": {"block": reference.BasicBlock, "layers": [1, 1], "stem": "imagenet"},
    "grouped": {
        "block": reference.Bottleneck,
        "layers": [1, 1],
        "groups": 2,
        "width_per_group": 64,
    },
}


def make_network(name: str) -> nn.Module:
    options = {"num_classes": 4, "planes": (4, 8), "stem": "cifar", **NETWORKS[name]}
    return reference.ResNet(**options).double()


@pytest.mark.parametrize("prepare", [randomise, make_adversarial])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NETWORKS)
def test_network_equals_plain_torch(name: str, training: bool, prepare: object) -> None:
    plain = prepare(make_network(name)).train(training)
    fused = fuse(plain)
    x = torch.randn(2, 3, 16, 14, dtype=torch.float64)
    expected = run_pass(plain, x)
    with testing.emulated() as emulation:
        actual = run_pass(fused, x)
        launched = {launch["kernel"] for launch in emulation.launches()}
        with torch.no_grad():
            inferred = fused.eval()(x)
    assert any("conv_fprop" in kernel for kernel in launched), "the kernels did not run"
    assert_same_pass(actual, expected)
    with torch.no_grad():
        assert_close(inferred, plain.eval()(x), "inference")
