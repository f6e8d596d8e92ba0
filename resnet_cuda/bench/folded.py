"""Peers that take a convolution with its batch norm folded into weight and bias: cuDNN's and oneDNN's fused calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
    """relu?(conv(x) + bias + residual?) in one call; weight and bias in x's dtype.

    `owned`: nobody else reads the residual, so the result may be written over it.
    """

    weight: Tensor
    bias: Tensor
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    @property
    def _padding_first(self) -> tuple[list[int], list[int], list[int], int]:
        return [self.padding] * 2, [self.stride] * 2, [self.dilation] * 2, self.groups

    def cudnn(self, x: Tensor, residual: Tensor | None, relu: bool, owned: bool = False) -> Tensor:
        """cuDNN has a fused call only with a ReLU at the end."""
        padding, stride, dilation, groups = self._padding_first
        geometry = (stride, padding, dilation, groups)
        if not relu:
            z = torch.conv2d(x, self.weight, self.bias, *geometry)
            return z if residual is None else z.add_(residual)
        if residual is None:
            return torch.cudnn_convolution_relu(x, self.weight, self.bias, *geometry)
        return torch.cudnn_convolution_add_relu(x, self.weight, residual, 1.0, self.bias, *geometry)

    def onednn(self, x: Tensor, residual: Tensor | None, relu: bool, owned: bool = False) -> Tensor:
        mkldnn = torch.ops.mkldnn
        operands = (self.weight, self.bias, *self._padding_first)
        if residual is None:
            activation = "relu" if relu else "none"
            return mkldnn._convolution_pointwise.default(x, *operands, activation, [], "")
        addition: tuple[Any, ...] = ("add", 1.0, "relu" if relu else None, [], None)
        if owned:
            return mkldnn._convolution_pointwise_.binary(residual, x, *operands, *addition)
        return mkldnn._convolution_pointwise.binary(x, residual, *operands, *addition)

    def packed(self, shape: Sequence[int]) -> Folded:
        """With the weight in oneDNN's own layout for inputs of `shape`."""
        weight = torch.ops.mkldnn._reorder_convolution_weight(
            self.weight, *self._padding_first, shape
        )
        return replace(self, weight=weight)


def fold(weight: Tensor, scale: Tensor, bias: Tensor, geometry: Mapping[str, int]) -> Folded:
    """scale conv(x) + bias, per channel, as a convolution. geometry: stride, padding, dilation, groups."""
    folded = weight.to(scale.dtype) * scale.view(-1, 1, 1, 1)
    return Folded(folded.to(weight.dtype), bias.to(weight.dtype), **geometry)


@dataclass(frozen=True)
class Library:
    """The one that has fused calls for the device; on a dry run that of a GPU, which is absent."""

    device: Device

    def name(self, residual: bool) -> str:
        if self.device.kind == "cpu":
            return "oneDNN fused"
        return "cudnn_convolution_add_relu" if residual else "cudnn_convolution_relu"

    def prepare(self, folded: Folded, shape: Sequence[int]) -> Callable[..., Tensor]:
        """(x, residual or None, relu, owned) -> z for x of `shape` (see Folded).

        Raises:
            Absent: there is no such library here.
        """
        if self.device.kind == "cpu":
            if not torch.backends.mkldnn.is_available():
                raise Absent("this torch was built without oneDNN")
            _require_onednn(folded.weight.dtype)
            return folded.packed(shape).onednn
        if self.device.torch_device.type != "cuda" or not torch.backends.cudnn.is_available():
            raise Absent("there is no cuDNN here")
        return folded.cudnn


def _require_onednn(dtype: torch.dtype) -> None:
    mkldnn: Any = torch.ops.mkldnn
    probes = {
        torch.float32: lambda: True,
        torch.bfloat16: mkldnn._is_mkldnn_bf16_supported,
        torch.float16: mkldnn._is_mkldnn_fp16_supported,
    }
    if dtype not in probes or not probes[dtype]():
        raise Absent(f"oneDNN has no convolutions in {dtype} on this CPU")


def layer_ways(device: Device, layer: Layer) -> list[Way]:
    """The library's fused call for a layer, and one for the projection where it has one; cuDNN's has a ReLU."""
    library = Library(device)
    if not layer.relu and device.kind != "cpu":
        return []

    def folded(given: Given, conv: ConvProblem, prefix: str = "") -> Folded:
        return fold(given[prefix + "weight"], *affine(given, prefix), conv.geometry())

    def prepare(given: Given) -> Callable[[], object]:
        x, residual = given["x"], given.get("residual")
        call = library.prepare(folded(given, layer.conv), x.shape)
        if layer.projection is None:
            return lambda: call(x, residual, layer.relu)
        assert residual is not None
        project = library.prepare(folded(given, layer.projection, "projection_"), residual.shape)
        return lambda: call(x, project(residual, None, False), layer.relu, True)

    return [Way(library.name(layer.residual), prepare)]
