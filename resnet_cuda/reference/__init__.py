"""The oracle: every op and module of `resnet_cuda` under the same name in plain, differentiable
torch, written to be read."""

from resnet_cuda.reference.add_relu import add_relu
from resnet_cuda.reference.blocks import (
    AddReLU,
    BasicBlock,
    BNReLU,
    Bottleneck,
    ConvBNReLU,
)
from resnet_cuda.reference.bn_relu import bn_relu
from resnet_cuda.reference.bottleneck import (
    bottleneck_block,
    bottleneck_expand,
    bottleneck_expand_reduce,
    bottleneck_reduce,
    conv_unit,
)
from resnet_cuda.reference.conv_bn_relu import conv_bn_relu
from resnet_cuda.reference.conv_bn_relu_max_pool2d import conv_bn_relu_max_pool2d
from resnet_cuda.reference.features import PreActResNetFeatures, ResNetFeatures
from resnet_cuda.reference.global_avg_pool import global_avg_pool
from resnet_cuda.reference.max_pool2d import max_pool2d
from resnet_cuda.reference.preact_resnet import PreActResNet
from resnet_cuda.reference.preactivation import (
    PreActBasicBlock,
    PreActBottleneck,
    WideBasicBlock,
)
from resnet_cuda.reference.residual_branch import residual_branch
from resnet_cuda.reference.resnet import FeatureInfo, ResNet

__all__ = [
    "AddReLU",
    "BNReLU",
    "BasicBlock",
    "Bottleneck",
    "ConvBNReLU",
    "FeatureInfo",
    "PreActBasicBlock",
    "PreActBottleneck",
    "PreActResNet",
    "PreActResNetFeatures",
    "ResNet",
    "ResNetFeatures",
    "WideBasicBlock",
    "add_relu",
    "bn_relu",
    "bottleneck_block",
    "bottleneck_expand",
    "bottleneck_expand_reduce",
    "bottleneck_reduce",
    "conv_bn_relu",
    "conv_bn_relu_max_pool2d",
    "conv_unit",
    "global_avg_pool",
    "max_pool2d",
    "residual_branch",
]
