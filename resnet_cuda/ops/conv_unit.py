"""One unit of a residual branch, relu?(bn(conv(x))), as a description and as a call."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from resnet_cuda.ops import _validate
from resnet_cuda.ops._folding import FoldedConv
from resnet_cuda.ops._interface import BatchNormSpec, BatchNormTensors, Pair
from resnet_cuda.ops._synchronised import group_of
from resnet_cuda.ops.conv_bn_relu import ConvBnCall, apply_conv_bn


@dataclass
class ConvUnit:
    """relu?(bn(conv(x))): tensors and numbers of one convolution (without bias) and its batch
    norm, as in `conv_bn_relu`.

    training means batch statistics, over all ranks of `process_group` where one is given, updating
    the running ones where there are any. `folded` is the CPU inference cache of the module that owns
    the weights.
    """

    weight: Tensor
    gamma: Tensor | None
    beta: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5
    relu: bool = True
    folded: FoldedConv | None = field(default=None, repr=False)
    process_group: ProcessGroup | None = None

    def bn(self) -> BatchNormTensors:
        """The batch norm's tensors [K]."""
        return BatchNormTensors(self.gamma, self.beta, self.running_mean, self.running_var)

    def call(self, relu: bool, launch: str = "conv") -> ConvBnCall:
        """The checked numbers, with the ReLU flag and kernels that the caller chooses."""
        geometry = _validate.geometry(self.stride, self.padding, self.dilation, self.groups)
        norm = BatchNormSpec(self.training, self.momentum, self.eps, self.group())
        return ConvBnCall(geometry, norm, relu, launch)

    def group(self) -> ProcessGroup | None:
        """Over whose ranks the batch statistics go; None where they are this rank's, or constants."""
        return group_of(self.process_group, self.training)

    @property
    def is_pointwise(self) -> bool:
        """Whether this is a 1x1 convolution without padding or groups and with equal strides."""
        stride = self.stride
        return (
            self.groups == 1
            and self.weight.dim() == 4
            and self.weight.shape[2] == 1
            and self.weight.shape[3] == 1
            and self.padding in (0, (0, 0))
            and (isinstance(stride, int) or stride[0] == stride[1])
        )


def conv_unit(x: Tensor, unit: ConvUnit, residual: Tensor | None = None) -> Tensor:
    """relu?(bn(conv(x)) + residual) for one unit: x [N, C, H, W], residual [N, K, P, Q] or None ->
    [N, K, P, Q].

    Raises:
        TypeError, ValueError: as `conv_bn_relu`.
    """
    return run_unit(x, unit, residual, unit.relu)


def run_unit(
    x: Tensor,
    unit: ConvUnit,
    residual: Tensor | None,
    relu: bool,
    *,
    launch: str = "conv",
    donate_residual: bool = False,
    widened_from: torch.dtype | None = None,
) -> Tensor:
    """A unit with the ReLU flag, kernels and inference privileges that its caller chooses (see
    `apply_conv_bn`)."""
    return apply_conv_bn(
        x,
        unit.weight,
        unit.bn(),
        residual,
        unit.call(relu, launch),
        folded=unit.folded,
        donate_residual=donate_residual,
        widened_from=widened_from,
    )
