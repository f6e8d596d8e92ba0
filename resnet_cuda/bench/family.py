"""The networks that the papers compare, with what they cost here and the errors that the papers report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import nn

from resnet_cuda.bench.complexity import Counts, count, count_model
from resnet_cuda.bench.tables import Cell, Table

# Simonyan and Zisserman 2014 (arXiv 1409.1556), table 1, D and E: convolutions per stage; each ends with a max-pool.
VGG_STAGES = {"VGG-16": (2, 2, 3, 3, 3), "VGG-19": (2, 2, 4, 4, 4)}
_VGG_CHANNELS = (64, 128, 256, 512, 512)


def vgg(name: str) -> nn.Sequential:
    """The plain network before residual ones, for images [N, 3, 224, 224] -> logits [N, 1000]. Only to be counted."""
    modules: list[nn.Module] = []
    channels = 3
    for depth, width in zip(VGG_STAGES[name], _VGG_CHANNELS, strict=True):
        for _ in range(depth):
            modules += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        modules.append(nn.MaxPool2d(2))
    modules.append(nn.Flatten())
    widths = (channels * 7 * 7, 4096, 4096, 1000)
    for i in range(3):
        modules += [nn.Linear(widths[i], widths[i + 1]), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


@dataclass(frozen=True)
class Entry:
    """A network of a table.

    label: as the paper calls it. model: its name in `resnet_cuda.models`, "" for VGG. error: the paper's, in percent.
    """

    label: str
    model: str
    error: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def call(self) -> str:
        """How to make it."""
        if not self.model:
            return "-"
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{self.model}({options})"

    @property
    def counts(self) -> Counts:
        return count_model(self.model, **self.options) if self.model else _count_vgg(self.label)


@dataclass(frozen=True)
class Family:
    """A table. Costs are relative to the entry `base`. errors: what its errors are, and where they come from."""

    title: str
    entries: tuple[Entry, ...]
    errors: str
    base: str
    notes: tuple[str, ...] = ()


@cache
def _count_vgg(name: str) -> Counts:
    with torch.device("meta"):
        return count(vgg(name), 224)


_A, _C, _V1 = {"shortcut": "A"}, {"shortcut": "C"}, {"stride_in_1x1": True}

FAMILIES = (
    Family(
        "Plain and residual networks, ImageNet",
        (
            Entry("plain-18", "plain18", "27.94"),
            Entry("ResNet-18 A", "resnet18", "27.88", _A),
            Entry("ResNet-18 B", "resnet18"),
            Entry("plain-34", "plain34", "28.54"),
            Entry("ResNet-34 A", "resnet34", "25.03", _A),
        ),
        "top-1 on ImageNet's validation set, 10 crops; He et al. 2015, table 2",
        "plain-18",
        (
            "Shortcut A costs nothing: what differs between plain and residual networks is the addition alone.",
        ),
    ),
    Family(
        "Deeper, yet cheaper than VGG, ImageNet",
        (
            Entry("VGG-16", ""),
            Entry("VGG-19", ""),
            Entry("ResNet-34 B", "resnet34", "21.84 / 5.71"),
            Entry("ResNet-34 C", "resnet34", "21.53 / 5.60", _C),
            Entry("ResNet-50", "resnet50", "20.74 / 5.25", _V1),
            Entry("ResNet-101", "resnet101", "19.87 / 4.60", _V1),
            Entry("ResNet-152", "resnet152", "19.38 / 4.49", _V1),
            Entry("ResNet-50 v1.5", "resnet50"),
            Entry("ResNet-101 v1.5", "resnet101"),
            Entry("ResNet-152 v1.5", "resnet152"),
        ),
        "top-1 / top-5 of single models on ImageNet's validation set; He et al. 2015, table 4",
        "VGG-19",
        (
            "The paper's bottlenecks stride in their first 1x1 (v1); the default here, as in torchvision, is v1.5.",
        ),
    ),
    Family(
        "Cardinality and width, ImageNet",
        (
            Entry("ResNet-50 v1.5", "resnet50", "23.9"),
            Entry("ResNeXt-50 32x4d", "resnext50_32x4d", "22.2"),
            Entry("WRN-50-2", "wide_resnet50_2"),
            Entry("ResNet-101 v1.5", "resnet101"),
            Entry("ResNeXt-101 32x4d", "resnext101_32x4d"),
            Entry("ResNeXt-101 64x4d", "resnext101_64x4d"),
            Entry("ResNeXt-101 32x8d", "resnext101_32x8d"),
            Entry("WRN-101-2", "wide_resnet101_2"),
        ),
        "top-1 on ImageNet's validation set, one crop; Xie et al. 2017, table 3",
        "ResNet-50 v1.5",
    ),
    Family(
        "Depth, CIFAR-10",
        (
            *(Entry(f"plain-{d}", f"cifar_plain{d}") for d in (20, 32, 44, 56)),
            Entry("ResNet-20", "cifar_resnet20", "8.75"),
            Entry("ResNet-32", "cifar_resnet32", "7.51"),
            Entry("ResNet-44", "cifar_resnet44", "7.17"),
            Entry("ResNet-56", "cifar_resnet56", "6.97"),
            Entry("ResNet-110", "cifar_resnet110", "6.43"),
            Entry("ResNet-1202", "cifar_resnet1202", "7.93"),
        ),
        "on CIFAR-10's test set; He et al. 2015, table 6",
        "ResNet-20",
    ),
    Family(
        "Width, CIFAR-10",
        (
            Entry("ResNet-110", "cifar_resnet110", "6.43"),
            Entry("ResNet-1202", "cifar_resnet1202", "7.93"),
            Entry("WRN-40-4", "wrn_40_4"),
            Entry("WRN-16-8", "wrn_16_8"),
            Entry("WRN-28-10", "wrn_28_10", "4.00"),
            Entry("WRN-28-10, dropout 0.3", "wrn_28_10", "3.89", {"dropout": 0.3}),
        ),
        "on CIFAR-10's test set; He et al. 2015, table 6, and Zagoruyko and Komodakis 2016",
        "ResNet-110",
        ("On CIFAR-100, WRN-28-10 has 19.25, with dropout 18.85.",),
    ),
)


def tables(exact: bool = False) -> Iterator[Table]:
    """Every family. exact: to the unit and with the call that makes each network; else in millions and 10^9."""
    for family in FAMILIES:
        base = next(entry for entry in family.entries if entry.label == family.base).counts
        rows = [
            [
                Cell(entry.label),
                *([Cell(entry.call)] if exact else []),
                *(Cell(text) for text in _texts(entry.counts, exact)),
                Cell(f"{entry.counts.macs / base.macs:.2f}"),
                Cell(entry.error or "-"),
            ]
            for entry in family.entries
        ]
        counts = ["parameters", "MACs", "activations"]
        if not exact:
            counts = ["parameters, M", "MACs, G", "activations, M"]
        header = ["", *(["call"] if exact else []), *counts, f"MACs / {family.base}", "error, %"]
        notes = [*family.notes, f"error: {family.errors}"]
        yield Table(family.title, header, rows, notes, prose=2 if exact else 1)


def _texts(counts: Counts, exact: bool) -> tuple[str, str, str]:
    if exact:
        return f"{counts.parameters:,}", f"{counts.macs:,}", f"{counts.activations:,}"
    return (
        f"{counts.parameters / 1e6:.2f}",
        f"{counts.macs / 1e9:.3f}",
        f"{counts.activations / 1e6:.2f}",
    )
