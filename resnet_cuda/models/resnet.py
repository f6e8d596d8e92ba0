"""ResNet, ResNeXt and wide ResNet with fused blocks, and the functions that build them.

Sources: He et al. 2015 (ResNet), Xie et al. 2017 (ResNeXt), Zagoruyko and Komodakis 2016 (wide residual networks).
"""

from __future__ import annotations

from typing import Any

from resnet_cuda import nn as fused_nn
from resnet_cuda.models._fused_resnet import FusedResNet
from resnet_cuda.models._registry import register_model
from resnet_cuda.reference import resnet as plain


class ResNet(FusedResNet, plain.ResNet):
    """ResNet whose stem, blocks and pools run fused; x [N, in_channels, H, W] -> logits [N, num_classes].

    Arguments, children, state-dict keys, initialisation and results are those of `resnet_cuda.reference.ResNet` (and of
    torchvision's); see there for the arguments. Pass blocks from `resnet_cuda.nn`.
    """

    plain_class = plain.ResNet
    stage_class = fused_nn.FusedStage


@register_model
def resnet18(**options: Any) -> ResNet:
    """ResNet-18 (He et al. 2015, table 1). Options: the keyword arguments of `ResNet`."""
    return ResNet(fused_nn.BasicBlock, [2, 2, 2, 2], **options)


@register_model
def resnet34(**options: Any) -> ResNet:
    """ResNet-34 (He et al. 2015, table 1). Options: the keyword arguments of `ResNet`."""
    return ResNet(fused_nn.BasicBlock, [3, 4, 6, 3], **options)


@register_model
def plain18(**options: Any) -> ResNet:
    """ResNet-18 without shortcuts (He et al. 2015, sec. 4.1, table 2). Options: the keyword arguments of `ResNet`."""
    return resnet18(**{"shortcut": "none", **options})


@register_model
def plain34(**options: Any) -> ResNet:
    """ResNet-34 without shortcuts (He et al. 2015, sec. 4.1, table 2). Options: the keyword arguments of `ResNet`."""
    return resnet34(**{"shortcut": "none", **options})


@register_model
def resnet50(**options: Any) -> ResNet:
    """ResNet-50 (He et al. 2015, table 1). Options: the keyword arguments of `ResNet`."""
    return ResNet(fused_nn.Bottleneck, [3, 4, 6, 3], **options)


@register_model
def resnet101(**options: Any) -> ResNet:
    """ResNet-101 (He et al. 2015, table 1). Options: the keyword arguments of `ResNet`."""
    return ResNet(fused_nn.Bottleneck, [3, 4, 23, 3], **options)


@register_model
def resnet152(**options: Any) -> ResNet:
    """ResNet-152 (He et al. 2015, table 1). Options: the keyword arguments of `ResNet`."""
    return ResNet(fused_nn.Bottleneck, [3, 8, 36, 3], **options)


@register_model
def resnext50_32x4d(**options: Any) -> ResNet:
    """ResNeXt-50, 32 groups of width 4 (Xie et al. 2017, table 1). Options: the keyword arguments of `ResNet`."""
    return resnet50(**{"groups": 32, "width_per_group": 4, **options})


@register_model
def resnext101_32x4d(**options: Any) -> ResNet:
    """ResNeXt-101, 32 groups of width 4 (Xie et al. 2017). Options: the keyword arguments of `ResNet`."""
    return resnet101(**{"groups": 32, "width_per_group": 4, **options})


@register_model
def resnext101_32x8d(**options: Any) -> ResNet:
    """ResNeXt-101, 32 groups of width 8. Options: the keyword arguments of `ResNet`."""
    return resnet101(**{"groups": 32, "width_per_group": 8, **options})


@register_model
def resnext101_64x4d(**options: Any) -> ResNet:
    """ResNeXt-101, 64 groups of width 4 (Xie et al. 2017, table 4). Options: the keyword arguments of `ResNet`."""
    return resnet101(**{"groups": 64, "width_per_group": 4, **options})


@register_model
def wide_resnet50_2(**options: Any) -> ResNet:
    """ResNet-50 with 3x3 convolutions twice as wide (Zagoruyko and Komodakis 2016). Options: those of `ResNet`."""
    return resnet50(**{"width_per_group": 128, **options})


@register_model
def wide_resnet101_2(**options: Any) -> ResNet:
    """ResNet-101 with 3x3 convolutions twice as wide. Options: the keyword arguments of `ResNet`."""
    return resnet101(**{"width_per_group": 128, **options})
