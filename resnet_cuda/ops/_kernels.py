"""The backends that run our kernels: on the GPU, and their own source on the CPU under the emulator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from resnet_cuda import _fakes, _raw, _selection
from resnet_cuda.ops import _branch_passes, _kernel_norms
from resnet_cuda.ops._branch import (
    BranchGradients,
    BranchNeeds,
    BranchSpec,
    BranchTensors,
    Statistics,
    ZeroPad,
)
from resnet_cuda.ops._interface import (
    Backend,
    BatchNormSpec,
    BatchNormTensors,
    ConvGeometry,
    Gradients,
    Needs,
    accumulator_dtype,
)
from resnet_cuda.ops._layout import as_channels_last
from resnet_cuda.ops._saved_gate import SavedGate, unpack_mask

if TYPE_CHECKING:
    from resnet_cuda.ops.conv_unit import ConvUnit

_ops = torch.ops.resnet_cuda


class KernelBackend(Backend):
    """Saved by bn: (mean, invstd, *gate).

    The gate is the bit mask (mask,) where a residual was added before the ReLU, (scale, bias)
    where it can be recomputed from y, and () without a ReLU.
    """

    fuses_projection = True
    fuses_next_reduce = True
    fuses_block = True
    normalises_on_load = True
    fuses_max_pool = True
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
        pad: ZeroPad | None = None,
    ) -> Tensor:
        self._enter()
        weight = as_channels_last(weight)
        if launch == "reduce" and residual is None:
            return _ops._bottleneck_reduce.default(
                x, weight, scale, bias, geometry.stride[0], relu, False
            )[0]
        if launch == "expand" and pad is None:
            return _ops._bottleneck_expand.default(
                x, weight, scale, bias, residual, None, None, None, 1, relu, False
            )[0]
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
            False,
            residual_stride=1 if pad is None else pad.stride,
        )[0]

    def branch_forward(
        self, branch: BranchSpec, tensors: BranchTensors
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        self._enter()
        with _fakes.no_pixels(tensors.x):
            return _branch_passes.forward(branch, tensors)

    def branch_backward(
        self,
        branch: BranchSpec,
        dz: Tensor,
        z: Tensor | None,
        tensors: BranchTensors,
        saved: Sequence[Tensor],
        needs: BranchNeeds,
    ) -> BranchGradients:
        self._enter()
        with _fakes.no_pixels(tensors.x):
            return _branch_passes.backward(branch, dz, tensors, saved, needs)

    def branch_statistics(
        self, branch: BranchSpec, tensors: BranchTensors, saved: Sequence[Tensor]
    ) -> list[Statistics | None]:
        return _branch_passes.statistics(branch, tensors, saved)

    def bn_forward(
        self,
        y: Tensor,
        bn: BatchNormTensors,
        residual: Tensor | None,
        norm: BatchNormSpec,
        relu: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        self._enter()
        with _fakes.no_pixels(y):
            return self._bn_forward(y, bn, residual, norm, relu)

    def _bn_forward(
        self,
        y: Tensor,
        bn: BatchNormTensors,
        residual: Tensor | None,
        norm: BatchNormSpec,
        relu: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if norm.training:
            partials = _ops._bn_statistics.default(y)
            mean, invstd, scale, bias = _kernel_norms.of_batch(partials, y, bn, norm)
        else:
            mean, invstd, scale, bias = _kernel_norms.of_running_statistics(
                bn, norm.eps, accumulator_dtype(y.dtype)
            )
        use_mask = relu and residual is not None
        z, mask = _ops._bn_apply.default(y, scale, bias, residual, relu, use_mask)
        if use_mask:
            return z, (mean, invstd, mask)
        return z, (mean, invstd, scale, bias) if relu else (mean, invstd)

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
        with _fakes.no_pixels(y):
            return self._bn_backward(as_channels_last(dz), y, gamma, saved, norm, relu, needs)

    def _bn_backward(
        self,
        dz: Tensor,
        y: Tensor,
        gamma: Tensor | None,
        saved: Sequence[Tensor],
        norm: BatchNormSpec,
        relu: bool,
        needs: Needs,
    ) -> Gradients:
        gate = SavedGate.of(saved)
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
            dgamma, dbeta, coefficients = _kernel_norms.backward_of_batch(
                partials, y, gamma, mean, invstd, norm
            )
            gradients = gradients._replace(
                gamma=dgamma if needs.gamma else None, beta=dbeta if needs.beta else None
            )
        elif needs.x:
            scale = invstd if gamma is None else gamma.to(mean.dtype) * invstd
            zero = torch.zeros_like(scale)
            coefficients = torch.stack((scale, zero, zero, zero))  # dy = scale * g
        return gradients, coefficients if needs.x else None

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
        _, _, scale, bias = _kernel_norms.of_running_statistics(
            bn, norm.eps, accumulator_dtype(x.dtype)
        )
        if launch == "max_pool":
            self._enter()
            return _ops._conv_max_pool.default(x, as_channels_last(weight), scale, bias, *geometry)
        return self._convolve(
            x,
            weight,
            geometry,
            launch,
            scale=scale,
            bias=bias,
            residual=residual,
            relu=relu,
            pad=pad,
        )

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
        _, _, scale, bias = _kernel_norms.of_running_statistics(bn, eps, acc)
        _, _, projection_scale, projection_bias = _kernel_norms.of_running_statistics(
            projection.bn(), projection.eps, acc
        )
        stride = projection.geometry().stride[0]
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

    def expand_reduce_inference(
        self, x: Tensor, expand: ConvUnit, residual: Tensor, reduce: ConvUnit
    ) -> tuple[Tensor, Tensor]:
        self._enter()
        acc = accumulator_dtype(x.dtype)
        (_, _, *norm), (_, _, *next_norm) = (
            _kernel_norms.of_running_statistics(unit.bn(), unit.eps, acc)
            for unit in (expand, reduce)
        )
        weight, next_weight = as_channels_last(expand.weight), as_channels_last(reduce.weight)
        return _ops._bottleneck_expand_reduce.default(
            x, weight, *norm, residual, next_weight, *next_norm
        )

    def has_block_kernel(self, x: Tensor, reduced: int) -> bool:
        # The plan is the compiled host module's, which no graph can call.
        return not torch.compiler.is_compiling() and _selection.has_block_kernel(
            tuple(x.shape), reduced, x.dtype, _selection.capability_of(x.device)
        )

    def bottleneck_block_inference(
        self, x: Tensor, reduce: ConvUnit, convolve: ConvUnit, expand: ConvUnit
    ) -> Tensor:
        self._enter()
        acc = accumulator_dtype(x.dtype)
        arguments = []
        for unit in (reduce, convolve, expand):
            _, _, *norm = _kernel_norms.of_running_statistics(unit.bn(), unit.eps, acc)
            arguments += [as_channels_last(unit.weight), *norm]
        return _ops._bottleneck_block.default(x, *arguments)

    def bn_inference(
        self, y: Tensor, bn: BatchNormTensors, residual: Tensor | None, eps: float, relu: bool
    ) -> Tensor:
        self._enter()
        _, _, scale, bias = _kernel_norms.of_running_statistics(bn, eps, accumulator_dtype(y.dtype))
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
        if torch.cuda.is_available():
            _raw.require_cuda()
        else:  # tensors without values alone
            _raw.require()

    def prepare(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            _raw.require_code_for(x.device)
        return super().prepare(x)


class EmulatedBackend(KernelBackend):
    """Our kernels compiled for the host and run on CPU tensors; `selection` is which build of them, and which GPU
    it plays."""

    name = "emulated"

    def __init__(self, selection: _selection.Selection | None = None) -> None:
        self.selection = selection or _selection.Selection(
            _selection.emulator_library(checked=False)
        )

    def _enter(self) -> None:
        if not torch.compiler.is_compiling():
            _selection.select_emulator(*self.selection)
