"""Convolution, batch norm, residual addition and ReLU as one fused module."""

from __future__ import annotations

from torch import Tensor, nn

from resnet_cuda.nn._fused import FusedModule, is_traced
from resnet_cuda.nn._units import advance, batch_norm_call, conv_blocker, conv_unit_of, touched
from resnet_cuda.ops import conv_unit
from resnet_cuda.reference import blocks as plain


class ConvBNReLU(FusedModule, plain.ConvBNReLU):
    """relu(bn(conv(x)) + residual) in fused passes.

    Children `conv` (no bias) and `bn` are a real nn.Conv2d and nn.BatchNorm2d. Arguments, shapes and errors are those of
    `resnet_cuda.reference.ConvBNReLU`.
    """

    plain_class = plain.ConvBNReLU

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if is_traced(x) or self.blocker() is not None:
            out: Tensor = super().forward(x, residual)
            return out
        call = batch_norm_call(self.bn)
        relu = type(self.relu) is nn.ReLU
        folded = None if call.training else self.folded("conv")
        out = conv_unit(x, conv_unit_of(self.conv, call, relu, folded), residual)
        advance([] if call.counter is None else [call.counter], x)
        return out

    @classmethod
    def blocker_of(cls, module: nn.Module) -> str | None:
        activation = nn.ReLU if type(module.relu) is nn.ReLU else nn.Identity
        checks = (
            ("conv", conv_blocker(module.conv)),
            ("bn", touched(module.bn, nn.BatchNorm2d)),
            ("relu", touched(module.relu, activation)),
        )
        for name, reason in checks:
            if reason is not None:
                return f"{name} {reason}"
        return None
