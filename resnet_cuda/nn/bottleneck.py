"""The bottleneck residual block (1x1 reduce, 3x3, 1x1 expand) as one fused call."""

from __future__ import annotations

from resnet_cuda.nn._fused_block import TORCHVISION_BOTTLENECK, FusedBlock
from resnet_cuda.reference import blocks as plain


class Bottleneck(FusedBlock, plain.Bottleneck):
    """relu(bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))) + shortcut(x)) in fused passes.

    Signature, children, state-dict keys and results are those of
    `resnet_cuda.reference.Bottleneck` (and of torchvision's block); see there for the arguments,
    and `ops.residual_branch` for the extra keyword `memory`.
    Where a child is replaced or hooked, the children run one by one. Batch norms that were converted to
    nn.SyncBatchNorm stay fused.
    """

    plain_class = plain.Bottleneck
    layout = TORCHVISION_BOTTLENECK
