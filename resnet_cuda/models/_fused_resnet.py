"""The part of a ResNet outside its stages - stem, max-pool, average pool - as fused calls."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from resnet_cuda.nn._fused import FusedModule, is_traced
from resnet_cuda.nn._units import (
    batch_norm_blocker,
    conv_blocker,
    pool_window,
    run_pooled_unit,
    run_unit,
    touched,
)
from resnet_cuda.nn.fused_stage import FusedStage, ModuleRow, conv_runs
from resnet_cuda.ops import global_avg_pool, max_pool2d

_TIMM_FEATURES = (nn.Conv2d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.ReLU, nn.MaxPool2d)
_TORCHVISION_STAGES = ("layer1", "layer2", "layer3", "layer4")


class FusedStem(FusedModule):
    """A network that begins with `conv1`, `bn1`, an activation and `maxpool`."""

    stem_activation: ClassVar[str] = "relu"
    conv1: Any
    bn1: Any
    maxpool: Any

    @classmethod
    def blocker_of(cls, module: Any) -> str | None:
        activation = cls.stem_activation
        checks = (
            ("conv1", conv_blocker(_last_convolution(module.conv1))),
            ("bn1", batch_norm_blocker(module.bn1)),
            (activation, touched(getattr(module, activation), nn.ReLU)),
        )
        for name, reason in checks:
            if reason is not None:
                return f"{name} {reason}"
        return None

    @classmethod
    def parts_of(cls, module: Any) -> Iterable[nn.Module]:
        # What stands before a deep stem's last convolution is fused on its own.
        return [_last_convolution(module.conv1), module.bn1]

    @classmethod
    def note_of(cls, module: Any) -> str:
        pooled = pool_window(module.maxpool) is not None
        return "stem: conv1 + bn1 + relu" + (" + maxpool" if pooled else "")

    def run_stem(self, x: Tensor) -> Tensor:
        """maxpool(relu(bn1(conv1(x)))) for x [N, C, H, W], fused where the children allow it."""
        if is_traced(x):
            return self.maxpool(getattr(self, self.stem_activation)(self.bn1(self.conv1(x))))
        window = pool_window(self.maxpool)
        if self.blocker() is not None:
            z = getattr(self, self.stem_activation)(self.bn1(self.conv1(x)))
            return self.maxpool(z) if window is None else max_pool2d(z, *window)
        conv = _last_convolution(self.conv1)
        if isinstance(self.conv1, FusedStage):
            x = self.conv1.run_row(list(self.conv1)[:-1], x)
        elif conv is not self.conv1:
            for child in list(self.conv1)[:-1]:
                x = child(x)
        cache = partial(self.folded, "conv1")
        if window is None:
            return self.maxpool(run_unit(x, conv, self.bn1, True, cache))
        return run_pooled_unit(x, conv, self.bn1, cache, window)


class FusedResNet(FusedStem):
    """Mixin for torchvision's ResNet and this package's own."""

    avgpool: Any
    fc: Any

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.run_stem(x)
        for name in getattr(self, "stage_names", _TORCHVISION_STAGES):
            x = getattr(self, name)(x)
        x = run_global_pool(self.avgpool, x)
        return self.fc(torch.flatten(x, 1))


class FusedTimmResNet(FusedStem):
    """Mixin for timm's ResNet; its head has options of its own and stays as it is."""

    stem_activation = "act1"
    grad_checkpointing: bool

    def forward_features(self, x: Tensor) -> Tensor:
        if self.grad_checkpointing:
            features: Tensor = super().forward_features(x)  # type: ignore[misc]
            return features
        x = self.run_stem(x)
        for name in _TORCHVISION_STAGES:
            x = getattr(self, name)(x)
        return x


class FusedLayerRows(ModuleRow):
    """A module dictionary that calls its children in a row and returns the outputs of some."""

    return_layers: dict[str, str]

    @classmethod
    def blocker_of(cls, module: Any) -> str | None:
        runs = any(list(conv_runs(row)) for _, row in _returned_rows(module))
        return None if runs else "has no convolution followed by a batch norm"

    @classmethod
    def parts_of(cls, module: Any) -> Iterable[nn.Module]:
        for _, row in _returned_rows(module):
            for i, run in conv_runs(row):
                yield from row[i : i + run.length]

    @classmethod
    def note_of(cls, module: Any) -> str:
        count = sum(len(list(conv_runs(row))) for _, row in _returned_rows(module))
        return f"{count} conv + bn (+ relu (+ maxpool)) runs"

    def collect(self, x: Tensor) -> dict[str, Tensor]:
        """The outputs that are returned, by their names."""
        out: dict[str, Tensor] = OrderedDict()
        first = 0
        for name, row in _returned_rows(self):
            x = self.run_row(row, x, first)
            first += len(row)
            if name is not None:
                out[name] = x
        return out


class FusedLayerGetter(FusedLayerRows):
    """Mixin for torchvision's IntermediateLayerGetter."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out: dict[str, Tensor] = super().forward(x) if is_traced(x) else self.collect(x)
        return out


class FusedTimmFeatures(FusedLayerRows):
    """Mixin for timm's FeatureListNet and FeatureDictNet (features_only=True)."""

    grad_checkpointing: bool

    @classmethod
    def blocker_of(cls, module: Any) -> str | None:
        # Children of other networks return several tensors.
        stages = (nn.Sequential, *_TIMM_FEATURES)
        known = all(isinstance(child, stages) for child in module.children())
        return super().blocker_of(module) if known else "has children other than a ResNet's"

    def _collect(self, x: Tensor) -> dict[str, Tensor]:
        if is_traced(x) or self.grad_checkpointing or self.blocker() is not None:
            out: dict[str, Tensor] = super()._collect(x)  # type: ignore[misc]
            return out
        return self.collect(x)


def _returned_rows(getter: Any) -> Iterator[tuple[str | None, list[nn.Module]]]:
    """The children up to each that is returned, with its name in the output; and those behind, with None."""
    row: list[nn.Module] = []
    for name, child in getter.items():
        row.append(child)
        if name in getter.return_layers:
            yield getter.return_layers[name], row
            row = []
    if row:
        yield None, row


def _last_convolution(conv1: nn.Module) -> nn.Module:
    """A stem's convolution; of a deep one, an nn.Sequential, the last."""
    row = type(conv1) in (nn.Sequential, FusedStage) and touched(conv1, type(conv1)) is None
    children = list(conv1.children()) if row else []
    return children[-1] if children else conv1


def run_global_pool(pool: Any, x: Tensor) -> Tensor:
    """x [N, C, H, W] -> [N, C, 1, 1] where `pool` is a plain global average pool, else whatever `pool` does."""
    plain = touched(pool, nn.AdaptiveAvgPool2d) is None and pool.output_size in (1, (1, 1))
    return global_avg_pool(x) if plain and not is_traced(x) else pool(x)
