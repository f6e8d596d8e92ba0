"""Other packages' networks by name: the whole one for its report, a shallow and narrow one to compute with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from unittest import mock

import torch
from torch import nn

from resnet_cuda import fuse_report

TORCHVISION_CLASSIFIERS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
TORCHVISION_SEGMENTATION = (
    "fcn_resnet50",
    "fcn_resnet101",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
)
TORCHVISION_DETECTION = (
    *("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "fcos_resnet50_fpn"),
    *("keypointrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"),
    *("retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"),
)
TORCHVISION = TORCHVISION_CLASSIFIERS + TORCHVISION_SEGMENTATION + TORCHVISION_DETECTION
# timm's files whose models are residual networks with a batch norm behind every convolution.
TIMM_FILES = ("resnet", "senet", "resnest", "sknet")


def timm_names(timm: ModuleType) -> list[str]:
    """All of timm's names in `TIMM_FILES`."""
    return sorted(name for file in TIMM_FILES for name in timm.list_models(module=file))


@contextmanager
def without_initialisation() -> Iterator[None]:
    """Parameters keep what their memory holds: random numbers take most of the time in which a network is made."""
    names = ("kaiming_uniform_", "kaiming_normal_", "uniform_", "normal_", "trunc_normal_")
    with mock.patch.multiple(nn.init, **{name: lambda tensor, *_, **__: tensor for name in names}):
        yield


def whole(package: ModuleType, name: str) -> nn.Module:
    """The network without memory."""
    with torch.device("meta"):
        return _create(package, name)


def small(package: ModuleType, name: str) -> nn.Module:
    """The network with one or two blocks per stage, in float64, with random parameters and statistics."""
    with without_initialisation():
        model = _first_possible(package, name)
    return shallow(model)


def shallow(model: nn.Module) -> nn.Module:
    """What `small` makes of a network."""
    for parent in list(model.modules()):
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            blocks = getattr(parent, stage, None)
            if isinstance(blocks, nn.Sequential):
                setattr(parent, stage, blocks[: 2 if stage == "layer2" else 1])
    return filled(model.double())


def _first_possible(package: ModuleType, name: str) -> nn.Module:
    """The narrowest that there is: some take no widths, or have groups that these do not divide into."""
    for widths in () if name.endswith("_pruned") else ((16, 32, 48, 64), (64, 64, 128, 128)):
        try:
            return _create(package, name, num_classes=5, channels=widths, layers=(1, 2, 1, 1))
        except (TypeError, ValueError):
            pass
    return _create(package, name, num_classes=5)


def _create(package: ModuleType, name: str, **options: object) -> nn.Module:
    if hasattr(package, "get_model"):
        if name not in TORCHVISION_CLASSIFIERS:
            options["weights_backbone"] = None
        model: nn.Module = package.get_model(name, weights=None, **options)
        return model
    created: nn.Module = package.create_model(name, **options)
    return created


def filled(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)

    def normal(tensor: torch.Tensor, deviation: float, mean: float = 0.0) -> None:
        tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * deviation + mean)

    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            normal(module.weight, (2.0 / module.weight[0].numel()) ** 0.5)
            if module.bias is not None:
                normal(module.bias, 0.1)
        elif hasattr(module, "running_mean"):  # a frozen one, too
            for vector, mean in ((module.weight, 1.0), (module.bias, 0.0)):
                normal(vector, 0.2, mean)
            normal(module.running_mean, 0.1)
            normal(module.running_var, 0.1, 1.0)
    return model


def summary(model: nn.Module) -> dict[str, dict[str, int]]:
    """The report of `fuse`, with equal notes counted; names inside a model do not count."""
    report = fuse_report(model)
    return {
        "fused": _counted(f"{entry.kind}: {entry.note}" for entry in report.fused),
        "left": _counted(f"{entry.kind}: {entry.note}" for entry in report.left),
    }


def _counted(notes: Iterator[str]) -> dict[str, int]:
    return dict(
        sorted(
            Counter(
                re.sub(r"[\w.]+ is shared with [\w.]+", "is shared", note) for note in notes
            ).items()
        )
    )
