"""The CPU backend: ATen in training at the cost of the unfused modules, oneDNN's fused
convolutions in inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from resnet_cuda.ops import _composed_branch, _onednn, _second_order, _synchronised
from resnet_cuda.ops._branch import (
    BranchGradients,
    BranchNeeds,
    BranchSpec,
    BranchTensors,
    ConvSpec,
    ConvTensors,
    Statistics,
    ZeroPad,
)
from resnet_cuda.ops._folding import FoldedConv
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

if TYPE_CHECKING:
    from resnet_cuda.ops.conv_unit import ConvUnit, NormUnit

_aten = torch.ops.aten


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, g: ConvGeometry) -> Tensor:
    return torch.conv2d(x, weight, bias, *g.of_taps(weight))


@contextmanager
def _one_thread() -> Iterator[None]:
    """In torch's deterministic mode: torch's operations of this thread run on it alone. Batch norm's sums and the
    gradients of filters are added up thread by thread, and have other bits on another number of threads, in that
    mode, too. Threads that run already keep their own number."""
    if not torch.are_deterministic_algorithms_enabled():
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _convolution_backward(
    dy: Tensor, x: Tensor, weight: Tensor, geometry: ConvGeometry, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    g = geometry.of_taps(weight)
    dx, dweight, _ = _aten.convolution_backward.default(
        *(dy, x, weight, None, g.stride, g.padding, g.dilation, False, (0, 0), g.groups),
        (*wanted, False),
    )
    return dx, dweight


def _normalise(
    y: Tensor, bn: BatchNormTensors, norm: BatchNormSpec
) -> tuple[Tensor, Tensor, Tensor]:
    """(bn(y), mean, invstd), or (bn(y), mean, var) in eval mode; the statistics in the accumulator's dtype.

    Training updates the running statistics, in whatever dtype they are.
    """
    acc = accumulator_dtype(y.dtype)
    gamma, beta = cast_vector(bn.gamma, acc), cast_vector(bn.beta, acc)
    if norm.training and norm.process_group is not None:
        batch = _synchronised.of_values(y.to(acc), norm.process_group)
        batch.move(bn, norm.momentum)
        mean, var = batch.mean.to(acc), batch.var.to(acc)
        z = torch.native_batch_norm(y, gamma, beta, mean, var, False, 0.0, norm.eps)[0]
        return z, mean, torch.rsqrt(var + norm.eps)
    if norm.training and y.shape[0] == 0:
        nothing = y.new_zeros(y.shape[1], dtype=acc)
        return y.clone(), nothing, nothing
    running_mean, running_var = cast_vector(bn.running_mean, acc), cast_vector(bn.running_var, acc)
    with _one_thread():
        z, mean, invstd = torch.native_batch_norm(
            y, gamma, beta, running_mean, running_var, norm.training, norm.momentum, norm.eps
        )
    if not norm.training:
        assert bn.running_var is not None and running_mean is not None and running_var is not None
        return z, running_mean.clone(), running_var.clone()
    _give_back(bn, running_mean, running_var)
    return z, mean, invstd


def _give_back(bn: BatchNormTensors, mean: Tensor | None, var: Tensor | None) -> None:
    """Running statistics that moved in another dtype than their own."""
    for given, updated in ((bn.running_mean, mean), (bn.running_var, var)):
        if given is not None and updated is not None and updated is not given:
            given.copy_(updated)


def _add_relu_(
    z: Tensor, residual: Tensor | None, relu: bool, pad: ZeroPad | None = None
) -> Tensor:
    """pad: how the residual is read where it does not have z's shape."""
    if residual is not None:
        z = z.add_(residual) if pad is None else pad.add_to_(z, residual)
    return z.relu_() if relu else z


class AtenBackend(Backend):
    name = "cpu"
    gate_is_output = True

    def uses_torch_autograd(self, *groups: ProcessGroup | None) -> bool:
        # What happens in place there, torch.func's transforms may not follow; in deterministic mode the passes choose
        # how many threads compute them.
        return (
            not any(groups)
            and not torch._C._are_functorch_transforms_active()
            and not torch.are_deterministic_algorithms_enabled()
        )

    def unit_as_it_is(
        self,
        x: Tensor,
        unit: ConvUnit,
        residual: Tensor | None,
        numbers: Sequence[Any],
        relu: bool,
    ) -> Tensor:
        y = torch.conv2d(x, unit.weight, None, *numbers)
        return self.norm_as_it_is(y, unit, residual, relu)

    def norm_as_it_is(
        self, y: Tensor, unit: ConvUnit | NormUnit, residual: Tensor | None, relu: bool
    ) -> Tensor:
        z = torch.batch_norm(
            y,
            unit.gamma,
            unit.beta,
            unit.running_mean,
            unit.running_var,
            unit.training,
            unit.momentum,
            unit.eps,
            False,
        )
        if residual is not None:
            z = z.add_(residual)
        return z.relu_() if relu else z

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
        y = convolve(x, weight, None, geometry)
        return self.bn_composed(y, bn, residual, norm, relu)

    def bn_composed(
        self,
        y: Tensor,
        bn: BatchNormTensors,
        residual: Tensor | None,
        norm: BatchNormSpec,
        relu: bool,
    ) -> Tensor:
        acc = accumulator_dtype(y.dtype)
        gamma, beta, mean, var = (cast_vector(vector, acc) for vector in bn)
        training, momentum, eps, _ = norm
        if not training and mean is not None and var is not None:
            mean, var = mean.clone(), var.clone()  # the backward wants them as they are now
        z = torch.batch_norm(y, gamma, beta, mean, var, training, momentum, eps, False)
        if training:
            _give_back(bn, mean, var)
        return _add_relu_(z, residual, relu)

    def branch_forward(
        self, branch: BranchSpec, tensors: BranchTensors
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        return _composed_branch.forward(self, branch, tensors)

    def branch_backward(
        self,
        branch: BranchSpec,
        dz: Tensor,
        z: Tensor | None,
        tensors: BranchTensors,
        saved: Sequence[Tensor],
        needs: BranchNeeds,
    ) -> BranchGradients:
        return _composed_branch.backward(self, branch, dz, z, tensors, saved, needs)

    def branch_statistics(
        self, branch: BranchSpec, tensors: BranchTensors, saved: Sequence[Tensor]
    ) -> list[Statistics | None]:
        return _composed_branch.statistics(self, branch, saved)

    def conv_bn_forward(
        self,
        x: Tensor,
        t: ConvTensors,
        spec: ConvSpec,
        residual: Tensor | None,
        relu: bool,
        pad: ZeroPad | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """relu?(bn(conv(x)) + residual) and (y, mean, spread); nothing where there is no batch norm."""
        y = convolve(x, t.weight, None, spec.geometry)
        if spec.norm is None:
            return _add_relu_(y, residual, relu, pad), ()
        z, *saved = _normalise(y, t.bn, spec.norm)
        return _add_relu_(z, residual, relu, pad), (y, *saved)

    def conv_bn_backward(
        self,
        dz: Tensor,
        x: Tensor,
        t: ConvTensors,
        spec: ConvSpec,
        z: Tensor | None,
        saved: Sequence[Tensor],
        needs: Needs,
    ) -> Gradients:
        """z: the output where a ReLU made it, else None."""
        inner = needs._replace(x=needs.x or needs.weight)
        if spec.norm is None:
            dy = dz if z is None else _aten.threshold_backward.default(dz, z, 0)
            dgamma, dbeta, dresidual = None, None, dy if needs.residual else None
            dy = dy if inner.x else None
        else:
            dy, _, dgamma, dbeta, dresidual = self.bn_backward(
                dz, saved[0], t.gamma, z, saved[1:], spec.norm, z is not None, inner
            )
        dx = dweight = None
        if dy is not None:
            wanted = (needs.x, needs.weight)
            with _one_thread():
                dx, dweight = _convolution_backward(dy, x, t.weight, spec.geometry, wanted)
        return Gradients(dx, dweight, dgamma, dbeta, dresidual)

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
        y = convolve(x, weight, None, geometry)
        if pad is None:
            return self.bn_inference(y, bn, residual, norm.eps, relu)
        return _add_relu_(self.bn_inference(y, bn, None, norm.eps, False), residual, relu, pad)

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
        dtype = x.dtype
        compute = self.inference_dtype(dtype)
        weights = folded.fold(x, weight, bn, geometry, eps, compute)
        if weights is None:
            return None
        if compute != dtype:
            x = x.to(compute)
            donate_residual = donate_residual or residual is not None
            residual = None if residual is None else residual.to(compute)
        if pad is None:
            z = _onednn.fused_convolution(x, weights, geometry, residual, relu, donate_residual)
        else:
            z = _onednn.fused_convolution(x, weights, geometry, None, False, False)
            z = _add_relu_(z, residual, relu, pad)
        return z if compute == dtype else z.to(dtype)

    def inference_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return dtype if _onednn.has_native_arithmetic(dtype) else torch.float32

    def bn_forward(
        self,
        y: Tensor,
        bn: BatchNormTensors,
        residual: Tensor | None,
        norm: BatchNormSpec,
        relu: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        z, mean, invstd = _normalise(y, bn, norm)
        return _add_relu_(z, residual, relu), (mean, invstd)

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
        g = dz if z is None else _aten.threshold_backward.default(dz, z, 0)
        dresidual = g if needs.residual else None
        if not (needs.x or needs.gamma or needs.beta):
            return Gradients(residual=dresidual)
        if norm.process_group is not None or y.shape[0] == 0:
            # ATen knows neither sums over ranks nor empty batches.
            statistics = self.statistics(saved, norm)
            dy, dgamma, dbeta = _second_order.batch_norm_backward(g, y, gamma, *statistics, norm)
            return Gradients(
                x=dy.to(y.dtype) if needs.x else None,
                gamma=dgamma if needs.gamma else None,
                beta=dbeta if needs.beta else None,
                residual=dresidual,
            )
        mean, spread = saved  # spread: invstd when training, else the running variance
        with _one_thread():
            dy, dgamma, dbeta = _aten.native_batch_norm_backward.default(
                g,
                y,
                cast_vector(gamma, mean.dtype),
                None if norm.training else mean,
                None if norm.training else spread,
                mean,
                spread,
                norm.training,
                norm.eps,
                (needs.x, needs.gamma, needs.beta),
            )
        return Gradients(
            x=dy if needs.x else None,
            gamma=dgamma if needs.gamma else None,
            beta=dbeta if needs.beta else None,
            residual=dresidual,
        )

    def bn_inference(
        self, y: Tensor, bn: BatchNormTensors, residual: Tensor | None, eps: float, relu: bool
    ) -> Tensor:
        acc = accumulator_dtype(y.dtype)
        gamma, beta, mean, var = (cast_vector(vector, acc) for vector in bn)
        z = torch.batch_norm(y, gamma, beta, mean, var, False, 0.0, eps, False)
        return _add_relu_(z, residual, relu)

    def statistics(self, saved: Sequence[Tensor], norm: BatchNormSpec) -> tuple[Tensor, Tensor]:
        mean, spread = saved
        return mean, spread if norm.training else torch.rsqrt(spread + norm.eps)

    def gate(self, z: Tensor | None, y: Tensor, saved: Sequence[Tensor]) -> Tensor:
        assert z is not None
        return ~(z <= 0)

    def add_relu_forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.add_relu_inference(x, residual), ()

    def add_relu_gate(
        self, z: Tensor | None, saved: Sequence[Tensor], shape: Sequence[int]
    ) -> Tensor:
        assert z is not None
        return ~(z <= 0)

    def add_relu_backward(self, dz: Tensor, z: Tensor | None, saved: Sequence[Tensor]) -> Tensor:
        assert z is not None
        return _aten.threshold_backward.default(dz, z, 0)

    def add_relu_inference(self, x: Tensor, residual: Tensor) -> Tensor:
        return (x + residual).relu_()
