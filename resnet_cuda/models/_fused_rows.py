"""Other packages' module dictionaries that call a network's children in a row and return some of the outputs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from resnet_cuda.nn._fused import is_traced
from resnet_cuda.nn.fused_stage import ModuleRow, conv_runs

_TIMM_FEATURES = (nn.Conv2d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.ReLU, nn.MaxPool2d)


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
