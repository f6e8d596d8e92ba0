"""Fused modules: drop-in classes with torchvision's signatures, children and state-dict keys."""

from __future__ import annotations

from resnet_cuda.nn.add_relu import AddReLU
from resnet_cuda.nn.basic_block import BasicBlock
from resnet_cuda.nn.bn_relu import BNReLU
from resnet_cuda.nn.bottleneck import Bottleneck
from resnet_cuda.nn.conv_bn_relu import ConvBNReLU
from resnet_cuda.nn.fused_stage import FusedStage
from resnet_cuda.nn.preactivation import PreActBasicBlock, PreActBottleneck, WideBasicBlock

__all__ = [
    "AddReLU",
    "BNReLU",
    "BasicBlock",
    "Bottleneck",
    "ConvBNReLU",
    "FusedStage",
    "PreActBasicBlock",
    "PreActBottleneck",
    "WideBasicBlock",
]
