"""Convolution, batch norm, residual addition and ReLU as one fused module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from resnet_cuda.nn._fused import FusedModule, is_traced
from resnet_cuda.nn._units import batch_norm_blocker, conv_blocker, own, run_unit, touched
from resnet_cuda.reference import blocks as plain


class ConvBNReLU(FusedModule, plain.ConvBNReLU):
    """relu(bn(conv(x)) + residual) in fused passes.

    Children `conv` (no bias) and `bn` are a real nn.Conv2d and nn.BatchNorm2d (or nn.SyncBatchNorm).
    Arguments, shapes and errors are those of `resnet_cuda.reference.ConvBNReLU`.
    """

    plain_class = plain.ConvBNReLU

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if is_traced(x) or self.blocker() is not None:
            out: Tensor = super().forward(x, residual)
            return out
        children = self._modules
        relu = type(own(self, children, "relu")) is nn.ReLU
        conv, bn = own(self, children, "conv"), own(self, children, "bn")
        return run_unit(x, conv, bn, relu, lambda: self.folded("conv"), residual)

    @classmethod
    def blocker_of(cls, module: Any) -> str | None:
        children = module._modules
        relu = own(module, children, "relu")
        checks = (
            ("conv", conv_blocker(own(module, children, "conv"))),
            ("bn", batch_norm_blocker(own(module, children, "bn"))),
            ("relu", touched(relu, nn.ReLU if type(relu) is nn.ReLU else nn.Identity)),
        )
        for name, reason in checks:
            if reason is not None:
                return f"{name} {reason}"
        return None
