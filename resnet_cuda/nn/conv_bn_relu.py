"""Convolution, batch norm, residual addition and ReLU as one fused module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from resnet_cuda.nn._fused import FusedModule, is_traced
from resnet_cuda.nn._units import batch_norm_blocker, conv_blocker, run_unit, touched
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
        relu = type(self.relu) is nn.ReLU
        return run_unit(x, self.conv, self.bn, relu, lambda: self.folded("conv"), residual)

    @classmethod
    def blocker_of(cls, module: Any) -> str | None:
        activation = nn.ReLU if type(module.relu) is nn.ReLU else nn.Identity
        checks = (
            ("conv", conv_blocker(module.conv)),
            ("bn", batch_norm_blocker(module.bn)),
            ("relu", touched(module.relu, activation)),
        )
        for name, reason in checks:
            if reason is not None:
                return f"{name} {reason}"
        return None
