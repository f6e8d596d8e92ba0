"""Networks of a few channels, registered like the real ones, and a plan that measures them in no time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from resnet_cuda import nn as fused_nn
from resnet_cuda.bench.plan import Plan
from resnet_cuda.bench.timing import Effort
from resnet_cuda.bench.workload import Result
from resnet_cuda.models import ResNet, _registry

TINY, TINY_BOTTLENECK, MISSING = "tiny", "tiny_bottleneck", "not_there_yet"
PLAN = Plan(
    levels=("model",),
    dtypes=(torch.float32,),
    batch=2,
    image_size=32,
    networks=(TINY,),
    sweep=(),
    effort=Effort(seconds=0.0, min_rounds=2),
    compile=False,
)


def tiny(**options: Any) -> ResNet:
    return ResNet(fused_nn.BasicBlock, [1, 1], planes=(8, 16), num_classes=10, **options)


def tiny_bottleneck(**options: Any) -> ResNet:
    return ResNet(fused_nn.Bottleneck, [1, 1], planes=(8, 16), num_classes=10, **options)


@contextmanager
def registered() -> Iterator[None]:
    """`create_model` knows them inside."""
    before = dict(_registry._models)
    try:
        for function in (tiny, tiny_bottleneck):
            _registry.register_model(function)
        yield
    finally:
        _registry._models.clear()
        _registry._models.update(before)


def by_candidate(results: list[Result], pass_name: str) -> dict[str, Result]:
    return {r.candidate: r for r in results if r.pass_name == pass_name}
