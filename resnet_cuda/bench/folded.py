"""Peers that take a convolution with its batch norm folded into weight and bias: cuDNN's and oneDNN's fused calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from resnet_cuda.bench.computation import Way, affine
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Layer
from resnet_cuda.bench.rule import Given
from resnet_cuda.bench.workload import Absent
from resnet_cuda.testing.problems import ConvProblem


@dataclass(frozen=True)
class Folded:
    """relu?(conv(x) + bias + residual?) in one call; weight and bias in x's dtype."""

    conv: ConvProblem
    weight: Tensor
    bias: Tensor

    @property
    def _geometry(self) -> tuple[list[int], list[int], list[int]]:
        c = self.conv
        return [c.padding] * 2, [c.stride] * 2, [c.dilation] * 2

    def cudnn(self, x: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
        """Only what cuDNN has a fused call for is fused: with a ReLU at the end."""
        padding, stride, dilation = self._geometry
        geometry = (stride, padding, dilation, self.conv.groups)
        if not relu:
            z = torch.conv2d(x, self.weight, self.bias, *geometry)
            return z if residual is None else z.add_(residual)
        if residual is None:
            return torch.cudnn_convolution_relu(x, self.weight, self.bias, *geometry)
        return torch.cudnn_convolution_add_relu(x, self.weight, residual, 1.0, self.bias, *geometry)

    def onednn(self, x: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
        op = torch.ops.mkldnn._convolution_pointwise
        geometry = (*self._geometry, self.conv.groups)
        activation = "relu" if relu else "none"
        if residual is None:
            return op.default(x, self.weight, self.bias, *geometry, activation, [], "")
        return op.binary(
            x,
            residual,
            self.weight,
            self.bias,
            *geometry,
            "add",
            1.0,
            "relu" if relu else None,
            [],
            None,
        )

    def packed(self) -> Folded:
        """With the weight in oneDNN's own layout for these sizes."""
        c = self.conv
        shape = (c.N, c.C, c.H, c.W)
        weight = torch.ops.mkldnn._reorder_convolution_weight(
            self.weight, *self._geometry, c.groups, shape
        )
        return Folded(c, weight, self.bias)


def fold(conv: ConvProblem, given: Given, prefix: str = "") -> Folded:
    """The batch norm's running statistics and affine parameters as part of the weight."""
    weight = given[prefix + "weight"]
    scale, bias = affine(given, prefix)
    wide = weight.to(scale.dtype) * scale.view(-1, 1, 1, 1)
    return Folded(conv, wide.to(weight.dtype), bias.to(weight.dtype))


Call = Callable[[Folded, Tensor, Tensor | None, bool], Tensor]


def library(device: Device, residual: bool) -> tuple[str, Call, Callable[[Folded], Folded]]:
    """(candidate's name, its call, how weights are prepared) of the device's own library.

    A dry run has a GPU's candidates; there they are absent.
    """
    if device.kind == "cpu":
        return "oneDNN fused", Folded.onednn, Folded.packed
    name = "cudnn_convolution_add_relu" if residual else "cudnn_convolution_relu"
    return name, Folded.cudnn, lambda folded: folded


def require(device: Device) -> None:
    """Raises Absent where the device's library is missing."""
    if device.kind == "cpu":
        if not torch.backends.mkldnn.is_available():
            raise Absent("this torch was built without oneDNN")
    elif not device.torch_device.type == "cuda" or not torch.backends.cudnn.is_available():
        raise Absent("there is no cuDNN here")


def layer_ways(device: Device, layer: Layer) -> list[Way]:
    """The library's fused call for a layer with a ReLU, without a projection."""
    if not layer.relu or layer.projection:
        return []
    name, call, pack = library(device, layer.residual)

    def prepare(given: Given) -> Callable[[], object]:
        require(device)
        folded = pack(fold(layer.conv, given))
        x, residual = given["x"], given.get("residual")
        return lambda: call(folded, x, residual, layer.relu)

    return [Way(name, prepare)]
