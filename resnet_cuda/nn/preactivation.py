"""The pre-activation residual blocks, each as one fused call."""

from __future__ import annotations

from resnet_cuda.nn._fused_block import PREACT_BASIC, PREACT_BOTTLENECK, WIDE_BASIC, FusedBlock
from resnet_cuda.reference import preactivation as plain


class PreActBasicBlock(FusedBlock, plain.PreActBasicBlock):
    """conv2(relu(bn2(conv1(a)))) + shortcut, a = relu(bn1(x)), in fused passes.

    Signature, children, state-dict keys and results are those of
    `resnet_cuda.reference.PreActBasicBlock`; see there for the arguments, and `ops.residual_branch`
    for the extra keyword `memory`. Where a child is replaced or hooked, the children run one by one.
    """

    plain_class = plain.PreActBasicBlock
    layout = PREACT_BASIC


class PreActBottleneck(FusedBlock, plain.PreActBottleneck):
    """conv3(relu(bn3(conv2(relu(bn2(conv1(a))))))) + shortcut, a = relu(bn1(x)), in fused passes.

    Otherwise as `PreActBasicBlock`, with the arguments of `resnet_cuda.reference.PreActBottleneck`.
    """

    plain_class = plain.PreActBottleneck
    layout = PREACT_BOTTLENECK


class WideBasicBlock(FusedBlock, plain.WideBasicBlock):
    """conv2(dropout(relu(bn2(conv1(a))))) + shortcut, a = relu(bn1(x)), in fused passes.

    Otherwise as `PreActBasicBlock`, with the arguments of `resnet_cuda.reference.WideBasicBlock`.
    Which elements are dropped is drawn from torch's generator of the device.
    """

    plain_class = plain.WideBasicBlock
    layout = WIDE_BASIC
