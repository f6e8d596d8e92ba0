"""ResNet in plain torch: the readable oracle of `resnet_cuda.models.ResNet`.

Attribute names, state-dict keys, initialisation and the order in which random numbers are drawn are
torchvision's, so the same seed gives the same weights and checkpoints load both ways with `strict=True`.

Source: He et al., "Deep Residual Learning for Image Recognition", 2015, sec. 4.1 (ImageNet) and 4.2 (CIFAR-10).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from resnet_cuda.reference.blocks import NormLayer, check_shortcut, make_shortcut

STEMS = ("imagenet", "cifar")


class ResNet(nn.Module):
    """x [N, in_channels, H, W] -> logits [N, num_classes].

    Args:
        block: BasicBlock, Bottleneck or a class with torchvision's block signature.
        layers: number of blocks per stage.
        num_classes: width of the classifier.
        zero_init_residual: start each block's last gamma (of `bn3` or `bn2`) at zero (Goyal et al. 2017, sec. 5.1).
        groups, width_per_group: cardinality and width of the 3x3 convolutions of bottlenecks.
        replace_stride_with_dilation: per stage after the first, dilate instead of striding.
        norm_layer: makes a normalisation from a channel count; default nn.BatchNorm2d.
        shortcut: "A", "B", "C" or "none", a plain net (He et al. 2015, sec. 3.3).
        stride_in_1x1: bottlenecks stride in their first 1x1 convolution (the paper's "v1").
        stem: "imagenet" (7x7 stride 2, then 3x3 max-pool stride 2) or "cifar" (3x3 stride 1, no pool).
        planes: base channels per stage; the first is also the stem's.
        in_channels: channels of the images.

    Raises:
        ValueError: an option outside its accepted values, or lengths that do not match `layers`.
    """

    stage_class: ClassVar[type[nn.Sequential]] = nn.Sequential

    def __init__(
        self,
        block: type[nn.Module],
        layers: Sequence[int],
        num_classes: int = 1000,
        zero_init_residual: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        norm_layer: NormLayer | None = None,
        *,
        shortcut: str = "B",
        stride_in_1x1: bool = False,
        stem: str = "imagenet",
        planes: Sequence[int] = (64, 128, 256, 512),
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        norm_layer = norm_layer or nn.BatchNorm2d
        if replace_stride_with_dilation is None:
            replace_stride_with_dilation = [False] * (len(layers) - 1)
        _check_options(layers, planes, replace_stride_with_dilation, shortcut, stem)
        if zero_init_residual and shortcut == "none":
            raise ValueError(
                "zero_init_residual=True with shortcut='none': expected False, because a plain block without its last "
                "gamma is constant"
            )

        self._norm_layer = norm_layer
        self.inplanes = planes[0]
        self.dilation = 1
        self.groups = groups
        self.base_width = width_per_group
        self.shortcut = shortcut
        self.stride_in_1x1 = stride_in_1x1

        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, planes[0], 7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, planes[0], 3, stride=1, padding=1, bias=False)
        self.bn1 = norm_layer(planes[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if stem == "imagenet" else nn.Identity()

        self.stage_names = tuple(f"layer{i + 1}" for i in range(len(layers)))
        for i, name in enumerate(self.stage_names):
            stride = 1 if i == 0 else 2
            dilate = i > 0 and replace_stride_with_dilation[i - 1]
            self.add_module(name, self._make_layer(block, planes[i], layers[i], stride, dilate))

        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(self.inplanes, num_classes)
        initialise(self)
        if zero_init_residual:
            self._zero_last_gammas()

    def _zero_last_gammas(self) -> None:
        for name in self.stage_names:
            for block in getattr(self, name):
                last = getattr(block, "bn3", None) or getattr(block, "bn2", None)
                gamma = getattr(last, "weight", None)
                if isinstance(gamma, Tensor):
                    nn.init.constant_(gamma, 0)

    def _make_layer(
        self, block: type[nn.Module], planes: int, blocks: int, stride: int, dilate: bool
    ) -> nn.Sequential:
        previous_dilation = self.dilation
        if dilate:
            self.dilation *= stride
            stride = 1
        # Only blocks that know the option receive it: any class with torchvision's signature may stand here.
        options: dict[str, Any] = {"stride_in_1x1": True} if self.stride_in_1x1 else {}
        outplanes = planes * int(getattr(block, "expansion", 1))
        stage = []
        for i in range(blocks):
            block_stride = stride if i == 0 else 1
            # torchvision draws the projection's random numbers before the block's.
            downsample = make_shortcut(
                self.shortcut, self.inplanes, outplanes, block_stride, self._norm_layer
            )
            stage.append(
                block(
                    self.inplanes,
                    planes,
                    block_stride,
                    downsample,
                    self.groups,
                    self.base_width,
                    previous_dilation if i == 0 else self.dilation,
                    self._norm_layer,
                    **options,
                )
            )
            self.inplanes = outplanes
        return self.stage_class(*stage)

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stage_names:
            x = getattr(self, name)(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))

    def forward(self, x: Tensor) -> Tensor:
        return self._forward_impl(x)


def initialise(network: nn.Module) -> None:
    """Convolutions as He et al. (arXiv 1502.01852) draw them, in the order of `modules()`; norms at one and zero."""
    for m in network.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(m, (nn.BatchNorm2d, nn.GroupNorm)):
            for parameter, value in ((m.weight, 1.0), (m.bias, 0.0)):
                if parameter is not None:
                    nn.init.constant_(parameter, value)


def _check_options(
    layers: Sequence[int],
    planes: Sequence[int],
    replace_stride_with_dilation: Sequence[bool],
    shortcut: str,
    stem: str,
) -> None:
    if stem not in STEMS:
        raise ValueError(f"stem={stem!r}: expected one of {', '.join(STEMS)}")
    check_shortcut(shortcut)
    if not layers or len(planes) < len(layers):
        raise ValueError(
            f"planes={tuple(planes)}: expected one base width per stage, layers={tuple(layers)}"
        )
    if len(replace_stride_with_dilation) != len(layers) - 1:
        raise ValueError(
            f"replace_stride_with_dilation={list(replace_stride_with_dilation)}: expected None or "
            f"{len(layers) - 1} entries, one per stage after the first"
        )
