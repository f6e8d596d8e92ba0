"""Batch norm, residual addition and ReLU as one fused module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from resnet_cuda.nn._fused import FusedModule, is_traced
from resnet_cuda.nn._units import BatchCount, batch_norm_blocker, batch_norm_call, own, touched
from resnet_cuda.ops import NormUnit
from resnet_cuda.ops.bn_relu import run_norm
from resnet_cuda.reference import blocks as plain


class BNReLU(FusedModule, plain.BNReLU):
    """relu(bn(x) + residual) in fused passes; x and residual [N, num_features, H, W].

    The child `bn` is a real nn.BatchNorm2d or nn.SyncBatchNorm. Arguments are those of `resnet_cuda.reference.BNReLU`.
    """

    plain_class = plain.BNReLU

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if is_traced(x) or self.blocker() is not None:
            out: Tensor = super().forward(x, residual)
            return out
        with BatchCount() as count:
            unit = NormUnit(*batch_norm_call(own(self, self._modules, "bn"), x, count))
            return run_norm(x, unit, residual, type(own(self, self._modules, "relu")) is nn.ReLU)

    @classmethod
    def blocker_of(cls, module: Any) -> str | None:
        reason = batch_norm_blocker(own(module, module._modules, "bn"))
        if reason is not None:
            return f"bn {reason}"
        relu = own(module, module._modules, "relu")
        reason = touched(relu, nn.ReLU if type(relu) is nn.ReLU else nn.Identity)
        return None if reason is None else f"relu {reason}"
