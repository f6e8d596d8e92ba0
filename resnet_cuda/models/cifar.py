"""The networks for images of 32x32 pixels: ResNets and plain nets, and wide residual networks.

Sources: He et al. 2015, sec. 4.2; Zagoruyko and Komodakis 2016, sec. 2 and table 1.
"""

from __future__ import annotations

from typing import Any

from resnet_cuda import nn as fused_nn
from resnet_cuda.models._fused_resnet import FusedPreActResNet
from resnet_cuda.models._registry import register_model
from resnet_cuda.models.resnet import ResNet
from resnet_cuda.reference import preact_resnet as plain


class PreActResNet(FusedPreActResNet, plain.PreActResNet):
    """Network of pre-activation blocks that runs fused; x [N, in_channels, H, W] -> logits [N, num_classes].

    Arguments, children, state-dict keys, initialisation and results are those of `resnet_cuda.reference.PreActResNet`;
    see there for the arguments. Pass blocks from `resnet_cuda.nn`.
    """

    plain_class = plain.PreActResNet
    stage_class = fused_nn.FusedStage
    final_class = fused_nn.BNReLU


def cifar_resnet(depth: int, **options: Any) -> ResNet:
    """ResNet of `depth` layers for CIFAR-10 (He et al. 2015, sec. 4.2): stages of 16, 32 and 64 channels, shortcut A.

    Args:
        depth: 6n + 2, for n blocks of two 3x3 convolutions per stage.
        options: the keyword arguments of `ResNet`.

    Raises:
        ValueError: another depth.
    """
    blocks = _blocks_per_stage(depth, 2)
    defaults = {"num_classes": 10, "shortcut": "A", "stem": "cifar", "planes": (16, 32, 64)}
    return ResNet(fused_nn.BasicBlock, [blocks] * 3, **{**defaults, **options})


def cifar_plain(depth: int, **options: Any) -> ResNet:
    """`cifar_resnet` without shortcuts (He et al. 2015, sec. 4.2)."""
    return cifar_resnet(depth, **{"shortcut": "none", **options})


def wide_resnet(depth: int, width: int, dropout: float = 0.0, **options: Any) -> PreActResNet:
    """WRN-depth-width (Zagoruyko and Komodakis 2016, table 1), stages of 16, 32 and 64 channels times `width`.

    Args:
        depth: 6n + 4, for n blocks of two 3x3 convolutions per stage.
        width: how many times wider than a ResNet.
        dropout: the probability with which an element between a block's convolutions is dropped in training.
        options: the keyword arguments of `PreActResNet`.

    Raises:
        ValueError: another depth, width below 1, dropout outside 0 to 1.
    """
    blocks = _blocks_per_stage(depth, 4)
    if width < 1:
        raise ValueError(f"width={width}: expected an integer of at least 1")
    planes = (16 * width, 32 * width, 64 * width)
    return PreActResNet(
        fused_nn.WideBasicBlock,
        [blocks] * 3,
        **{"planes": planes, "dropout": dropout, **options},
    )


def _blocks_per_stage(depth: int, others: int) -> int:
    """n of depth = 6n + others."""
    blocks, rest = divmod(depth - others, 6)
    if blocks < 1 or rest:
        near = [others + 6 * max(n, 1) for n in (blocks, blocks + 1)]
        raise ValueError(
            f"depth={depth}: expected 6n + {others} for n of at least 1, such as {near[0]} or {near[1]}"
        )
    return blocks


@register_model
def cifar_resnet20(**options: Any) -> ResNet:
    """`cifar_resnet` of 20 layers."""
    return cifar_resnet(20, **options)


@register_model
def cifar_resnet32(**options: Any) -> ResNet:
    """`cifar_resnet` of 32 layers."""
    return cifar_resnet(32, **options)


@register_model
def cifar_resnet44(**options: Any) -> ResNet:
    """`cifar_resnet` of 44 layers."""
    return cifar_resnet(44, **options)


@register_model
def cifar_resnet56(**options: Any) -> ResNet:
    """`cifar_resnet` of 56 layers."""
    return cifar_resnet(56, **options)


@register_model
def cifar_resnet110(**options: Any) -> ResNet:
    """`cifar_resnet` of 110 layers. Its paper starts it at a learning rate of 0.01."""
    return cifar_resnet(110, **options)


@register_model
def cifar_resnet1202(**options: Any) -> ResNet:
    """`cifar_resnet` of 1202 layers."""
    return cifar_resnet(1202, **options)


@register_model
def cifar_plain20(**options: Any) -> ResNet:
    """`cifar_plain` of 20 layers."""
    return cifar_plain(20, **options)


@register_model
def cifar_plain32(**options: Any) -> ResNet:
    """`cifar_plain` of 32 layers."""
    return cifar_plain(32, **options)


@register_model
def cifar_plain44(**options: Any) -> ResNet:
    """`cifar_plain` of 44 layers."""
    return cifar_plain(44, **options)


@register_model
def cifar_plain56(**options: Any) -> ResNet:
    """`cifar_plain` of 56 layers."""
    return cifar_plain(56, **options)


@register_model
def wrn_28_10(**options: Any) -> PreActResNet:
    """`wide_resnet` of 28 layers, 10 times as wide."""
    return wide_resnet(28, 10, **options)


@register_model
def wrn_40_4(**options: Any) -> PreActResNet:
    """`wide_resnet` of 40 layers, 4 times as wide."""
    return wide_resnet(40, 4, **options)


@register_model
def wrn_16_8(**options: Any) -> PreActResNet:
    """`wide_resnet` of 16 layers, 8 times as wide."""
    return wide_resnet(16, 8, **options)
