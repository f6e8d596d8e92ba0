"""The backends that run our kernels: on the GPU, and their own source on the CPU under the emulator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from resnet_cuda import _raw
from resnet_cuda.ops._interface import (
    Backend,
    BatchNormSpec,
    BatchNormTensors,
    ConvGeometry,
    Gradients,
    Needs,
    accumulator_dtype,
    cast_vector,
)
from resnet_cuda.ops._layout import as_channels_last
from resnet_cuda.ops._saved_gate import SavedGate, normalises_gradient_on_load, unpack_mask

if TYPE_CHECKING:
    from resnet_cuda.ops.conv_unit import ConvUnit

_ops = torch.ops.resnet_cuda


def _pixels(y: Tensor) -> int:
    return y.shape[0] * y.shape[2] * y.shape[3]


def _running_affine(
    bn: BatchNormTensors, eps: float, acc: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(mean, invstd, scale, bias) [K] of a batch norm with its running statistics; no views of the
    buffers."""
    assert bn.running_mean is not None and bn.running_var is not None
    mean = bn.running_mean.to(acc, copy=True)
    invstd = torch.rsqrt(bn.running_var.to(acc) + eps)
    scale = invstd.clone() if bn.gamma is None else bn.gamma.to(acc) * invstd
    bias = (
        -mean * scale if bn.beta is None else torch.addcmul(bn.beta.to(acc), mean, scale, value=-1)
    )
    return mean, invstd, scale, bias


class KernelBackend(Backend):
    """Saved by conv_bn: (y, mean, invstd, *gate), by bn: (mean, invstd, *gate).

    The gate is the bit mask (mask,) where a residual was added before the ReLU, (scale, bias)
    where it can be recomputed from y, and () without a ReLU.
    """

    fuses_projection = True
    pools_with_torch = False

    def _enter(self) -> None:
        """Called before the kernels of a pass."""

    def prepare(self, x: Tensor) -> Tensor:
        return as_channels_last(x)

    def _convolve(
        self,
        x: Tensor,
        weight: Tensor,
        geometry: ConvGeometry,
        launch: str,
        *,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        relu: bool = False,
        statistics: bool = False,
    ) -> tuple[Tensor, Tensor]:
        self._enter()
        weight = as_channels_last(weight)
        if launch == "reduce" and residual is None:
            return _ops._bottleneck_reduce.default(
                x, weight, scale, bias, geometry.stride[0], relu, statistics
            )
        if launch == "expand":
            return _ops._bottleneck_expand.default(
                x, weight, scale, bias, residual, None, None, None, 1, relu, statistics
            )
        g = geometry
        return _ops._conv_fprop.default(
            x,
            weight,
            None,
            None,
            scale,
            bias,
            residual,
            relu,
            g.stride,
            g.padding,
            g.dilation,
            g.groups,
            statistics,
        )

    def conv_bn_forward(
        self,
        x: Tensor,
        weight: Tensor,
        bn: BatchNormTensors,
        residual: Tensor | None,
        geometry: ConvGeometry,
        norm: BatchNormSpec,
        relu: bool,
        launch: str,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        y, partials = self._convolve(x, weight, geometry, launch, statistics=norm.training)
        z, saved = self._bn_forward(y, partials, bn, residual, norm, relu)
        return z, (y, *saved)

    def bn_forward(
        self,
        y: Tensor,
        bn: BatchNormTensors,
        residual: Tensor | None,
        norm: BatchNormSpec,
        relu: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        self._enter()
        partials = _ops._bn_statistics.default(y) if norm.training else None
        return self._bn_forward(y, partials, bn, residual, norm, relu)

    def _bn_forward(
        self,
        y: Tensor,
        partials: Tensor | None,
        bn: BatchNormTensors,
        residual: Tensor | None,
        norm: BatchNormSpec,
        relu: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        acc = accumulator_dtype(y.dtype)
        if norm.training:
            assert partials is not None
            mean, invstd, scale, bias = self._finalize(partials, _pixels(y), bn, norm, acc)
        else:
            mean, invstd, scale, bias = _running_affine(bn, norm.eps, acc)
        use_mask = relu and residual is not None
        z, mask = _ops._bn_apply.default(y, scale, bias, residual, relu, use_mask)
        if use_mask:
            return z, (mean, invstd, mask)
        return z, (mean, invstd, scale, bias) if relu else (mean, invstd)

    def _finalize(
        self,
        partials: Tensor,
        rows: int,
        bn: BatchNormTensors,
        norm: BatchNormSpec,
        acc: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        gamma, beta, running_mean, running_var = (cast_vector(vector, acc) for vector in bn)
        vectors = _ops._bn_finalize.default(
            partials, rows, gamma, beta, running_mean, running_var, norm.momentum, norm.eps
        )
        for given, updated in ((bn.running_mean, running_mean), (bn.running_var, running_var)):
            if given is not None and updated is not None and updated is not given:
                given.copy_(updated)
        return vectors

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
        self._enter()
        gate = SavedGate.of(saved)
        dz = as_channels_last(dz)
        gradients, coefficients = self._bn_reduce(dz, y, gamma, saved, gate, norm, needs)
        gated_residual = needs.residual and relu
        if coefficients is not None:
            dy, dresidual = _ops._bn_backward_apply.default(
                dz, y, *gate, coefficients, gated_residual
            )
            gradients = gradients._replace(x=dy)
            if gated_residual:
                gradients = gradients._replace(residual=dresidual)
        elif gated_residual:
            gradients = gradients._replace(residual=_ops._add_relu_backward.default(dz, gate.mask))
        return gradients

    def _bn_reduce(
        self,
        dz: Tensor,
        y: Tensor,
        gamma: Tensor | None,
        saved: Sequence[Tensor],
        gate: SavedGate,
        norm: BatchNormSpec,
        needs: Needs,
    ) -> tuple[Gradients, Tensor | None]:
        """The gradients of batch norm's vectors, and the coefficients [4, C] with which dz becomes
        y's gradient where that is needed."""
        mean, invstd = saved[:2]
        gradients = Gradients(residual=dz if needs.residual else None)
        if needs.gamma or needs.beta or (needs.x and norm.training):
            partials = _ops._bn_backward_reduce.default(dz, y, mean, *gate)
            dgamma, dbeta, coefficients = _ops._bn_backward_finalize.default(
                partials,
                _pixels(y),
                cast_vector(gamma, mean.dtype),
                mean,
                invstd,
                norm.training,
            )
            gradients = gradients._replace(
                gamma=dgamma if needs.gamma else None, beta=dbeta if needs.beta else None
            )
        elif needs.x:
            scale = invstd if gamma is None else gamma.to(mean.dtype) * invstd
            zero = torch.zeros_like(scale)
            coefficients = torch.stack((scale, zero, zero, zero))  # dy = scale * g
        return gradients, coefficients if needs.x else None

    def conv_bn_backward(
        self,
        dz: Tensor,
        x: Tensor,
        weight: Tensor,
        gamma: Tensor | None,
        z: Tensor | None,
        saved: Sequence[Tensor],
        geometry: ConvGeometry,
        norm: BatchNormSpec,
        relu: bool,
        needs: Needs,
    ) -> Gradients:
        y, *rest = saved
        inner = needs._replace(x=needs.x or needs.weight)
        on_load: dict[str, Tensor | None] = {}
        self._enter()
        if normalises_gradient_on_load(weight, geometry.groups, rest, needs):
            gate = SavedGate.of(rest)
            dz = as_channels_last(dz)
            gradients, coefficients = self._bn_reduce(dz, y, gamma, rest, gate, norm, inner)
            dy: Tensor | None = dz
            on_load = {
                "y": y,
                "coefficients": coefficients,
                "gate_scale": gate.scale,
                "gate_bias": gate.bias,
            }
        else:
            gradients = self.bn_backward(dz, y, gamma, z, rest, norm, relu, inner)
            dy = gradients.x
        dx, dweight = None, None
        g = geometry
        if needs.x:
            dx = _ops._conv_dgrad.default(
                dy,
                as_channels_last(weight),
                x.shape,
                None,
                None,
                None,
                None,
                None,
                g.stride,
                g.padding,
                g.dilation,
                g.groups,
                **on_load,
            )[0]
        if needs.weight:
            dweight = _ops._conv_wgrad.default(
                dy,
                x,
                weight.shape,
                None,
                None,
                g.stride,
                g.padding,
                g.dilation,
                g.groups,
                **on_load,
            )
        return gradients._replace(x=dx, weight=dweight)

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
    ) -> Tensor:
        _, _, scale, bias = _running_affine(bn, norm.eps, accumulator_dtype(x.dtype))
        return self._convolve(
            x,
            weight,
            geometry,
            launch,
            scale=scale,
            bias=bias,
            residual=residual,
            relu=relu,
        )[0]

    def expand_projection_inference(
        self,
        x: Tensor,
        weight: Tensor,
        bn: BatchNormTensors,
        residual: Tensor,
        projection: ConvUnit,
        eps: float,
    ) -> Tensor:
        self._enter()
        acc = accumulator_dtype(x.dtype)
        _, _, scale, bias = _running_affine(bn, eps, acc)
        _, _, projection_scale, projection_bias = _running_affine(
            projection.bn(), projection.eps, acc
        )
        stride = projection.call(relu=False).geometry.stride[0]
        return _ops._bottleneck_expand.default(
            x,
            as_channels_last(weight),
            scale,
            bias,
            residual,
            as_channels_last(projection.weight),
            projection_scale,
            projection_bias,
            stride,
            True,
            False,
        )[0]

    def bn_inference(
        self, y: Tensor, bn: BatchNormTensors, residual: Tensor | None, eps: float, relu: bool
    ) -> Tensor:
        self._enter()
        _, _, scale, bias = _running_affine(bn, eps, accumulator_dtype(y.dtype))
        return _ops._bn_apply.default(y, scale, bias, residual, relu, False)[0]

    def statistics(self, saved: Sequence[Tensor], norm: BatchNormSpec) -> tuple[Tensor, Tensor]:
        return saved[0], saved[1]

    def gate(self, z: Tensor | None, y: Tensor, saved: Sequence[Tensor]) -> Tensor:
        _, _, *gate = saved
        if len(gate) == 1:
            return unpack_mask(gate[0], y.shape)
        scale, bias = (vector.view(1, -1, 1, 1) for vector in gate)
        return ~(y.to(scale.dtype) * scale + bias <= 0)

    def add_relu_forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        self._enter()
        z, mask = _ops._add_relu_forward.default(x, residual, True)
        return z, (mask,)

    def add_relu_gate(
        self, z: Tensor | None, saved: Sequence[Tensor], shape: Sequence[int]
    ) -> Tensor:
        return unpack_mask(saved[0], shape)

    def add_relu_backward(self, dz: Tensor, z: Tensor | None, saved: Sequence[Tensor]) -> Tensor:
        self._enter()
        return _ops._add_relu_backward.default(as_channels_last(dz), saved[0])

    def add_relu_inference(self, x: Tensor, residual: Tensor) -> Tensor:
        self._enter()
        return _ops._add_relu_forward.default(x, residual, False)[0]

    def max_pool_forward(
        self, x: Tensor, kernel: int, stride: int, padding: int, argmax: bool
    ) -> tuple[Tensor, Tensor]:
        self._enter()
        return _ops._max_pool_forward.default(x, kernel, stride, padding, argmax)

    def max_pool_backward(
        self,
        dy: Tensor,
        argmax: Tensor,
        input_size: list[int],
        kernel: int,
        stride: int,
        padding: int,
    ) -> Tensor:
        self._enter()
        return _ops._max_pool_backward.default(
            as_channels_last(dy), argmax, input_size, kernel, stride, padding
        )

    def global_avg_pool_forward(self, x: Tensor) -> Tensor:
        self._enter()
        return _ops._global_avg_pool_forward.default(x)

    def global_avg_pool_backward(self, dy: Tensor, input_size: list[int]) -> Tensor:
        self._enter()
        return _ops._global_avg_pool_backward.default(as_channels_last(dy), input_size)


class CudaBackend(KernelBackend):
    name = "cuda"

    def __init__(self) -> None:
        _raw.require_cuda()

    def prepare(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            _raw.require_code_for(x.device)
        return super().prepare(x)


class EmulatedBackend(KernelBackend):
    """Our kernels compiled for the host and run on CPU tensors; `selection` is which build of them, and which GPU
    it plays."""

    name = "emulated"

    def __init__(self, selection: _raw.Selection | None = None) -> None:
        self.selection = selection or _raw.Selection(_raw.emulator_library(checked=False))

    def _enter(self) -> None:
        if not torch.compiler.is_compiling():
            _raw.select_emulator(*self.selection)
