"""Folded convolutions as peers: they compute the layer, on weights as the library likes them, or say why not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.fx.experimental import optimization as fx_optimization

from resnet_cuda import reference
from resnet_cuda.bench import eager
from resnet_cuda.bench.computation import Random, affine, convolution_inputs
from resnet_cuda.bench.device import CpuDevice, DryRunDevice
from resnet_cuda.bench.folded import Folded, Library, fold, layer_ways
from resnet_cuda.bench.layers import Layer
from resnet_cuda.bench.onednn import OneDnnConv, use_onednn
from resnet_cuda.bench.rule import Given
from resnet_cuda.bench.workload import Absent
from resnet_cuda.testing.problems import ConvProblem

CONV = ConvProblem(2, 8, 6, 6, 16, 3, 3, 1, 1)
EXPAND = ConvProblem(2, 4, 3, 3, 16, 1, 1)
PROJECTION = ConvProblem(2, 8, 6, 6, 16, 1, 1, 2)
LAYERS = [
    Layer(CONV, batch_norm=True),
    Layer(CONV, batch_norm=True, relu=True),
    Layer(CONV, batch_norm=True, residual=True, relu=True),
    Layer(replace(CONV, groups=4), batch_norm=True, relu=True),
    Layer(replace(CONV, stride=2), batch_norm=True, relu=True),
    Layer(EXPAND, batch_norm=True, residual=True, relu=True, projection=PROJECTION),
]


def inputs(layer: Layer, dtype: torch.dtype = torch.float32) -> Given:
    return convolution_inputs(layer, Random(torch.device("cpu"), dtype, 0))


def folded(layer: Layer) -> tuple[Given, Folded]:
    given = inputs(layer)
    return given, fold(given["weight"], *affine(given), layer.conv.geometry())


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_fused_call_computes_the_layer_again_and_again(layer: Layer) -> None:
    given = inputs(layer).sealed()
    (way,) = layer_ways(CpuDevice(), layer)
    call = way.prepare(given)
    for _ in range(2):
        torch.testing.assert_close(call(), eager.layer(given, layer), rtol=1e-4, atol=1e-4)
    assert given.written() == []


@pytest.mark.parametrize("layer", [LAYERS[1], LAYERS[3]], ids=str)
def test_weights_are_packed_beforehand(layer: Layer) -> None:
    given, unpacked = folded(layer)
    call = Library(CpuDevice()).prepare(unpacked, given["x"].shape)
    packed: Folded = call.__self__  # type: ignore[attr-defined]
    assert packed.weight.is_mkldnn and not unpacked.weight.is_mkldnn


def test_a_residual_is_overwritten_only_by_its_owner() -> None:
    given, conv = folded(LAYERS[2])
    x, residual = given["x"], given["residual"]
    expected = eager.layer(given, LAYERS[2])
    before = residual.clone()
    kept = conv.onednn(x, residual, True)
    assert torch.equal(residual, before) and kept.data_ptr() != residual.data_ptr()
    overwritten = conv.onednn(x, residual, True, owned=True)
    assert overwritten.data_ptr() == residual.data_ptr()
    for z in (kept, overwritten):
        torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-4)


def test_without_a_relu_there_is_none() -> None:
    given, conv = folded(LAYERS[0])
    plain = eager.layer(given, LAYERS[0])
    assert plain.min() < 0
    torch.testing.assert_close(conv.onednn(given["x"], None, False), plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(conv.cudnn(given["x"], None, False), plain, rtol=1e-4, atol=1e-4)


def test_cudnn_s_calls_get_what_they_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their arguments' order, tried with stand-ins: there is no cuDNN without a GPU."""

    def relu(x: Tensor, w: Tensor, b: Tensor, *geometry: object) -> Tensor:
        stride, padding, dilation, groups = geometry
        return torch.conv2d(x, w, b, stride, padding, dilation, groups).relu()  # type: ignore[call-overload]

    def add_relu(
        x: Tensor, w: Tensor, z: Tensor, alpha: float, b: Tensor, *geometry: object
    ) -> Tensor:
        stride, padding, dilation, groups = geometry
        y = torch.conv2d(x, w, b, stride, padding, dilation, groups)  # type: ignore[call-overload]
        return (y + alpha * z).relu()

    monkeypatch.setattr(torch, "cudnn_convolution_relu", relu)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", add_relu)
    for layer in (LAYERS[1], LAYERS[2], LAYERS[4]):
        given, conv = folded(layer)
        z = conv.cudnn(given["x"], given.get("residual"), True)
        torch.testing.assert_close(z, eager.layer(given, layer), rtol=1e-4, atol=1e-4)


def test_what_is_not_here_is_absent_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    given, conv = folded(LAYERS[1])
    shape = given["x"].shape
    with pytest.raises(Absent, match="there is no cuDNN here"):
        Library(DryRunDevice()).prepare(conv, shape)
    with pytest.raises(Absent, match=r"no convolutions in torch\.float64"):
        Library(CpuDevice()).prepare(replace(conv, weight=conv.weight.double()), shape)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(Absent, match="built without oneDNN"):
        Library(CpuDevice()).prepare(conv, shape)


def test_a_whole_network_s_grouped_convolutions_are_packed_and_fused_too() -> None:
    torch.manual_seed(0)
    module = reference.Bottleneck(32, 8, groups=2).eval()
    x = torch.randn(2, 32, 6, 6).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = module(x)
        fused = use_onednn(fx_optimization.fuse(module))
        torch.testing.assert_close(fused(x.clone()), expected, rtol=1e-4, atol=1e-4)
    calls = [m for m in fused.modules() if isinstance(m, OneDnnConv)]
    assert [call.conv.groups for call in calls] == [1, 2, 1]
    assert all(call._packed is not None and call._packed.is_mkldnn for call in calls)


def test_names_say_what_a_gpu_s_library_fuses() -> None:
    named = {
        str(layer): [w.name for w in layer_ways(DryRunDevice(), layer)] for layer in LAYERS[1:]
    }
    assert named[str(LAYERS[1])] == ["cudnn_convolution_relu"]
    assert named[str(LAYERS[2])] == ["cudnn_convolution_add_relu"]
    assert named[str(LAYERS[5])] == ["cudnn_convolution_add_relu"]
    assert layer_ways(DryRunDevice(), LAYERS[0]) == [], "cuDNN has a fused call only with a ReLU"
    assert [w.name for w in layer_ways(CpuDevice(), LAYERS[0])] == ["oneDNN fused"]
