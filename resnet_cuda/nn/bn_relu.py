"""Batch norm, residual addition and ReLU as one fused module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from resnet_cuda.nn._fused import FusedModule, is_traced
from resnet_cuda.nn._units import BatchCount, batch_norm_blocker, batch_norm_call, touched
from resnet_cuda.ops import bn_relu
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
            call = batch_norm_call(self.bn, x, count)
            return bn_relu(
                x,
                call.gamma,
                call.beta,
                call.running_mean,
                call.running_var,
                residual=residual,
                training=call.training,
                momentum=call.momentum,
                eps=call.eps,
                relu=type(self.relu) is nn.ReLU,
                process_group=call.process_group,
            )

    @classmethod
    def blocker_of(cls, module: Any) -> str | None:
        reason = batch_norm_blocker(module.bn)
        if reason is not None:
            return f"bn {reason}"
        activation = nn.ReLU if type(module.relu) is nn.ReLU else nn.Identity
        reason = touched(module.relu, activation)
        return None if reason is None else f"relu {reason}"
