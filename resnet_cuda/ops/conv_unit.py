"""The units of a residual branch as descriptions: relu?(bn(conv(x))), which is also a call, and relu(bn(x))."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.distributed import ProcessGroup

from resnet_cuda.ops import _validate
from resnet_cuda.ops._folding import FoldedConv
from resnet_cuda.ops._interface import BatchNormSpec, BatchNormTensors, ConvGeometry, Pair
from resnet_cuda.ops._synchronised import group_of
from resnet_cuda.ops._unit_call import run_unit


class _BatchNormed:
    """What the descriptions with a batch norm share."""

    gamma: Tensor | None
    beta: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    training: bool
    momentum: float
    eps: float
    process_group: ProcessGroup | None

    def bn(self) -> BatchNormTensors:
        """The batch norm's tensors [K]."""
        return BatchNormTensors(self.gamma, self.beta, self.running_mean, self.running_var)

    def spec(self) -> BatchNormSpec:
        """Its numbers."""
        return BatchNormSpec(self.training, self.momentum, self.eps, self.group())

    def group(self) -> ProcessGroup | None:
        """Over whose ranks the batch statistics go; None where they are this rank's, or constants."""
        return group_of(self.process_group, self.training)


@dataclass
class ConvUnit(_BatchNormed):
    """relu?(bn(conv(x))): tensors and numbers of one convolution (without bias) and its batch
    norm, as in `conv_bn_relu`.

    training means batch statistics, over all ranks of `process_group` where one is given, updating
    the running ones where there are any. `folded` is the CPU inference cache of the module that owns
    the weights.

    Inside `residual_branch` a unit may drop elements behind its ReLU, each with probability
    `dropout`, the others growing by 1 / (1 - dropout) (Srivastava et al. 2014; Zagoruyko and
    Komodakis 2016, sec. 2.4), and the last unit and the projection may be convolutions alone
    (batch_norm=False, with None for the vectors), as in pre-activation blocks.
    """

    weight: Tensor
    gamma: Tensor | None
    beta: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    stride: int | Pair = (1, 1)
    padding: int | Pair = (0, 0)
    dilation: int | Pair = (1, 1)
    groups: int = 1
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5
    relu: bool = True
    folded: FoldedConv | None = field(default=None, repr=False)
    process_group: ProcessGroup | None = None
    batch_norm: bool = True
    dropout: float = 0.0

    def geometry(self) -> ConvGeometry:
        """The convolution's checked numbers."""
        return _validate.geometry(self.stride, self.padding, self.dilation, self.groups)

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


def check_unit(unit: Any, name: str) -> None:
    """Raises TypeError unless it is a ConvUnit with a weight."""
    if not isinstance(unit, ConvUnit):
        raise TypeError(f"{name} is a {type(unit).__name__}; accepted: a ConvUnit")
    if not isinstance(unit.weight, Tensor):
        raise TypeError(
            f"{name}.weight is a {type(unit.weight).__name__}; accepted: a Tensor [K, C / groups, R, S]"
        )


@dataclass
class NormUnit(_BatchNormed):
    """relu(bn(x)): tensors [C] and numbers of a batch norm, as in `bn_relu`."""

    gamma: Tensor | None
    beta: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5
    process_group: ProcessGroup | None = None


def conv_unit(x: Tensor, unit: ConvUnit, residual: Tensor | None = None) -> Tensor:
    """relu?(bn(conv(x)) + residual) for one unit: x [N, C, H, W], residual [N, K, P, Q] or None ->
    [N, K, P, Q].

    Raises:
        TypeError, ValueError: as `conv_bn_relu`; ValueError for a unit without batch norm or with
            dropout, which only `residual_branch` takes.
    """
    check_unit(unit, "unit")
    if not unit.batch_norm or unit.dropout:
        raise ValueError(
            f"unit has batch_norm={unit.batch_norm} and dropout={unit.dropout}; accepted here: "
            "batch_norm=True and dropout=0 (`residual_branch` takes the others)"
        )
    return run_unit(x, unit, residual, unit.relu, launch="conv")
