"""The fused operations of residual networks as functions. Activations are [N, C, H, W];
channels_last memory is native."""

from resnet_cuda.ops._branch import Identity, ZeroPad
from resnet_cuda.ops._folding import FoldedConv
from resnet_cuda.ops.add_relu import add_relu
from resnet_cuda.ops.bn_relu import bn_relu
from resnet_cuda.ops.bottleneck import (
    bottleneck_block,
    bottleneck_expand,
    bottleneck_expand_reduce,
    bottleneck_reduce,
)
from resnet_cuda.ops.conv_bn_relu import conv_bn_relu
from resnet_cuda.ops.conv_bn_relu_max_pool2d import conv_bn_relu_max_pool2d
from resnet_cuda.ops.conv_unit import ConvUnit, NormUnit, conv_unit
from resnet_cuda.ops.global_avg_pool import global_avg_pool
from resnet_cuda.ops.max_pool2d import max_pool2d
from resnet_cuda.ops.residual_branch import residual_branch

__all__ = [
    "ConvUnit",
    "FoldedConv",
    "Identity",
    "NormUnit",
    "ZeroPad",
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
