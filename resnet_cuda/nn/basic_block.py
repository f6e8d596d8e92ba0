"""The basic residual block (two 3x3 convolutions) as one fused call."""

from __future__ import annotations

from resnet_cuda.nn._fused_block import TORCHVISION_BASIC, FusedBlock
from resnet_cuda.reference import blocks as plain


class BasicBlock(FusedBlock, plain.BasicBlock):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)) in fused passes.

    Signature, children, state-dict keys and results are those of
    `resnet_cuda.reference.BasicBlock` (and of torchvision's block); see there for the arguments,
    and `ops.residual_branch` for the extra keyword `memory`.
    Where a child is replaced or hooked, the children run one by one. Batch norms that were converted to
    nn.SyncBatchNorm stay fused.
    """

    plain_class = plain.BasicBlock
    layout = TORCHVISION_BASIC
