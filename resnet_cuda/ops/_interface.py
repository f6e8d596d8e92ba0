"""What a backend computes: the passes from which every op is composed, and the small types they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from resnet_cuda.ops._branch import (
        BranchGradients,
        BranchNeeds,
        BranchSpec,
        BranchTensors,
        Statistics,
        ZeroPad,
    )
    from resnet_cuda.ops._folding import FoldedConv
    from resnet_cuda.ops.conv_unit import ConvUnit, NormUnit

Pair = tuple[int, int]


class ConvGeometry(NamedTuple):
    """How a convolution walks over its input."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def of_taps(self, weight: Tensor) -> ConvGeometry:
        """The same without a dilation where there is one tap: oneDNN's float16 kernels (torch 2.13) end the process
        for some of these."""
        if self.dilation == (1, 1):
            return self
        vertical, horizontal = (1 if weight.shape[2 + i] == 1 else self.dilation[i] for i in (0, 1))
        return self._replace(dilation=(vertical, horizontal))


class BatchNormSpec(NamedTuple):
    """training: batch statistics, and running statistics move by `momentum` towards them.

    process_group: the batch is that of all its ranks (`_synchronised`); None: that of this rank.
    """

    training: bool
    momentum: float
    eps: float
    process_group: ProcessGroup | None = None


class BatchNormTensors(NamedTuple):
    """Per-channel tensors [K] of one batch norm; any of them may be missing."""

    gamma: Tensor | None
    beta: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None


class Needs(NamedTuple):
    """Which gradients a backward pass is asked for."""

    x: bool
    weight: bool
    gamma: bool
    beta: bool
    residual: bool


class Gradients(NamedTuple):
    """What a backward pass returns, in `Needs`' order; None where nothing was asked."""

    x: Tensor | None = None
    weight: Tensor | None = None
    gamma: Tensor | None = None
    beta: Tensor | None = None
    residual: Tensor | None = None


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of per-channel vectors and of accumulation: float64 for float64 activations, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def cast_vector(vector: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A per-channel vector as contiguous `dtype`; the tensor itself where it already is."""
    if vector is None or (vector.dtype == dtype and vector.is_contiguous()):
        return vector
    return vector.to(dtype).contiguous()


class Backend:
    """The passes of the ops. No autograd here: the ops' autograd functions call these.

    Activations are [N, C, H, W] tensors. `saved` is what a forward hands to its own backward,
    apart from the op's inputs and (where `gate_is_output`) its output.
    """

    name: str
    gate_is_output = False  # the ReLU gate of the backward is read off the forward's output
    is_composite = False  # ops run as plain differentiable torch
    fuses_projection = False  # has expand_projection_inference
    fuses_next_reduce = False  # has expand_reduce_inference
    fuses_block = False  # has bottleneck_block_inference
    normalises_on_load = False  # convolutions normalise and activate what they read
    fuses_max_pool = False  # conv_bn_inference takes the launch "max_pool"
    pools_with_torch = True  # pooling is torch's own, with its autograd

    def prepare(self, x: Tensor) -> Tensor:
        """`x` in the memory layout that the passes want; differentiable."""
        return x

    def uses_torch_autograd(self, *groups: ProcessGroup | None) -> bool:
        """Whether a call whose batch norms go over these groups is differentiated by torch itself, through
        `conv_bn_composed`, `bn_composed` and what computes "as it is": where nothing is fused, an autograd function is
        only a cost."""
        return False

    def unit_as_it_is(
        self,
        x: Tensor,
        unit: ConvUnit,
        residual: Tensor | None,
        numbers: Sequence[Any],
        relu: bool,
    ) -> Tensor:
        """relu?(bn(conv(x)) + residual) of a unit that needs no cast and no copy (`CheckedUnit.as_it_is`), and is in
        training or not differentiated; numbers: as `CheckedUnit.numbers`."""
        raise NotImplementedError

    def norm_as_it_is(
        self, y: Tensor, unit: NormUnit, residual: Tensor | None, relu: bool
    ) -> Tensor:
        """relu?(bn(y) + residual) of such a batch norm."""
        raise NotImplementedError

    def conv_bn_composed(
        self,
        x: Tensor,
        weight: Tensor,
        bn: BatchNormTensors,
        residual: Tensor | None,
        geometry: ConvGeometry,
        norm: BatchNormSpec,
        relu: bool,
    ) -> Tensor:
        """relu?(bn(conv(x)) + residual), differentiable; running statistics move in training."""
        raise NotImplementedError

    def bn_composed(
        self,
        y: Tensor,
        bn: BatchNormTensors,
        residual: Tensor | None,
        norm: BatchNormSpec,
        relu: bool,
    ) -> Tensor:
        """relu?(bn(y) + residual), differentiable; running statistics move in training."""
        raise NotImplementedError

    def branch_forward(
        self, branch: BranchSpec, tensors: BranchTensors
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The branch's output z, and what its backward needs; running statistics move in training."""
        raise NotImplementedError

    def branch_backward(
        self,
        branch: BranchSpec,
        dz: Tensor,
        z: Tensor | None,
        tensors: BranchTensors,
        saved: Sequence[Tensor],
        needs: BranchNeeds,
    ) -> BranchGradients:
        """Where `tensors.source` is None, the shortcut starts at x, and its gradient is part of x's."""
        raise NotImplementedError

    def branch_statistics(
        self, branch: BranchSpec, tensors: BranchTensors, saved: Sequence[Tensor]
    ) -> list[Statistics | None]:
        """(mean, invstd) [K] of every batch norm, in the order of `branch.norms`."""
        raise NotImplementedError

    def conv_bn_inference(
        self,
        x: Tensor,
        weight: Tensor,
        bn: BatchNormTensors,
        residual: Tensor | None,
        geometry: ConvGeometry,
        norm: BatchNormSpec,
        relu: bool,
        launch: str,
        pad: ZeroPad | None,
    ) -> Tensor:
        """relu?(bn(conv(x)) + residual) with running statistics and nothing saved. `launch` is "conv",
        "reduce", "expand", or "max_pool": then the result is pooled. A residual that does not have the
        output's shape is read as `pad` says."""
        raise NotImplementedError

    def folded_inference(
        self,
        x: Tensor,
        weight: Tensor,
        bn: BatchNormTensors,
        residual: Tensor | None,
        geometry: ConvGeometry,
        eps: float,
        relu: bool,
        folded: FoldedConv,
        donate_residual: bool,
        pad: ZeroPad | None,
    ) -> Tensor | None:
        """conv_bn_inference on cached folded weights, where the backend has that; may write into a
        donated residual.

        The weight may have another dtype than x: it is rounded once, after folding.
        """
        return None

    def inference_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype in which folded inference of `dtype` activations computes, and is best handed on."""
        return dtype

    def bn_forward(
        self,
        y: Tensor,
        bn: BatchNormTensors,
        residual: Tensor | None,
        norm: BatchNormSpec,
        relu: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """relu?(bn(y) + residual) and what its backward needs apart from y."""
        raise NotImplementedError

    def bn_backward(
        self,
        dz: Tensor,
        y: Tensor,
        gamma: Tensor | None,
        z: Tensor | None,
        saved: Sequence[Tensor],
        norm: BatchNormSpec,
        relu: bool,
        needs: Needs,
    ) -> Gradients:
        """`needs.x` and the returned `x` are y's; `weight` is unused."""
        raise NotImplementedError

    def bn_inference(
        self, y: Tensor, bn: BatchNormTensors, residual: Tensor | None, eps: float, relu: bool
    ) -> Tensor:
        raise NotImplementedError

    def statistics(self, saved: Sequence[Tensor], norm: BatchNormSpec) -> tuple[Tensor, Tensor]:
        """(mean, invstd) [K] that the bn forward normalised with."""
        raise NotImplementedError

    def gate(self, z: Tensor | None, y: Tensor, saved: Sequence[Tensor]) -> Tensor:
        """Which elements the ReLU of a bn forward let through, as a bool tensor of the output's shape."""
        raise NotImplementedError

    def add_relu_forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        raise NotImplementedError

    def add_relu_gate(
        self, z: Tensor | None, saved: Sequence[Tensor], shape: Sequence[int]
    ) -> Tensor:
        """Which elements the ReLU of add_relu let through, as a bool tensor of `shape`."""
        raise NotImplementedError

    def add_relu_backward(self, dz: Tensor, z: Tensor | None, saved: Sequence[Tensor]) -> Tensor:
        raise NotImplementedError

    def add_relu_inference(self, x: Tensor, residual: Tensor) -> Tensor:
        raise NotImplementedError

    def expand_projection_inference(
        self,
        x: Tensor,
        weight: Tensor,
        bn: BatchNormTensors,
        residual: Tensor,
        projection: ConvUnit,
        eps: float,
    ) -> Tensor:
        """relu(bn(conv1x1(x)) + bn(conv1x1(residual))) with running statistics, in one launch."""
        raise NotImplementedError

    def expand_reduce_inference(
        self, x: Tensor, expand: ConvUnit, residual: Tensor, reduce: ConvUnit
    ) -> tuple[Tensor, Tensor]:
        """y = relu(bn(conv1x1(x)) + residual) and relu(bn(conv1x1(y))) with running statistics."""
        raise NotImplementedError

    def has_block_kernel(self, x: Tensor, reduced: int) -> bool:
        """Whether bottleneck_block_inference is one launch for such x and so many channels between its ends."""
        return False

    def bottleneck_block_inference(
        self, x: Tensor, reduce: ConvUnit, convolve: ConvUnit, expand: ConvUnit
    ) -> Tensor:
        """relu(bn(conv1x1(relu(bn(conv3x3(relu(bn(conv1x1(x)))))))) + x) with running statistics."""
        raise NotImplementedError

    def max_pool_forward(
        self, x: Tensor, kernel: int, stride: int, padding: int, argmax: bool
    ) -> tuple[Tensor, Tensor]:
        """(y, winners as uint8 r * kernel + s, or empty)."""
        raise NotImplementedError

    def max_pool_backward(
        self,
        dy: Tensor,
        argmax: Tensor,
        input_size: list[int],
        kernel: int,
        stride: int,
        padding: int,
    ) -> Tensor:
        raise NotImplementedError

    def global_avg_pool_forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def global_avg_pool_backward(self, dy: Tensor, input_size: list[int]) -> Tensor:
        raise NotImplementedError


class ReferenceBackend(Backend):
    """Marks the choice of `resnet_cuda.reference`: the ops call that instead of a backend's passes."""

    name = "reference"
    is_composite = True
