"""Bytes without running anything are those of a run, and floors those that `explain` tells."""

from __future__ import annotations

import pytest
import torch

from resnet_cuda import _raw, explain, models, unfuse
from resnet_cuda.bench import traffic
from resnet_cuda.bench.complexity import movement
from resnet_cuda.testing import emulated
from resnet_cuda.trace.gpus import GPUS, H200

needs_emulator = pytest.mark.skipif(not _raw.is_built(), reason="the extension is not built")
NAME, BATCH, SIZE = "cifar_resnet20", 2, 8


@needs_emulator
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_bytes_are_those_of_a_run(training: bool) -> None:
    found = movement(NAME, BATCH, SIZE, torch.bfloat16, training, H200)
    model = models.create_model(NAME).to(torch.bfloat16, memory_format=torch.channels_last)
    model.train(training)
    x = torch.randn(BATCH, 3, SIZE, SIZE).to(torch.bfloat16, memory_format=torch.channels_last)
    assert found.plain == sum(o.operand_bytes for o in traffic.operations(unfuse(model), x))
    with emulated():
        assert found.fused == sum(o.operand_bytes for o in traffic.operations(model, x))
    report = explain(model, x)
    assert (found.flops, found.floor_us) == (report.flops, report.floor_us)
    assert found.fused < found.plain


def test_a_floor_is_the_longer_of_arithmetic_and_traffic() -> None:
    flops, size = 10**12, 10**6
    gpu = GPUS["A100"]
    assert gpu.floor_us(flops, size, torch.float32) == pytest.approx(1e18 / 19.5e12)
    assert gpu.floor_us(flops, size, torch.float32, is_tf32=True) == pytest.approx(1e18 / 156e12)
    assert gpu.floor_us(0, size, torch.float32) == pytest.approx(1e12 / 2.039e12)
