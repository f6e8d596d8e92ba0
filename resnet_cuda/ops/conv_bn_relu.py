"""relu(bn(conv(x)) + residual) as one differentiable call.

The unit of the residual blocks of He et al. 2015 (arXiv 1512.03385, sec. 3.2-3.4): a convolution
without bias, batch norm (Ioffe and Szegedy 2015, arXiv 1502.03167) right after it, the shortcut's
addition, ReLU.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributed import ProcessGroup

from resnet_cuda.ops._interface import Pair
from resnet_cuda.ops._unit_call import run_unit
from resnet_cuda.ops.conv_unit import ConvUnit


def conv_bn_relu(
    x: Tensor,
    weight: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    residual: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = True,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """relu(bn(conv(x, weight)) + residual), differentiable twice; relu=False leaves the ReLU out.

    Args:
        x: activations [N, C, H, W]; float64, float32, bfloat16 or float16. The output is in
            channels_last memory if x or weight is (torch's rule for convolutions), else
            NCHW-contiguous. N may be 0: the output is empty, gradients are zero and the running
            statistics stay.
        weight: filters [K, C / groups, R, S] in x's dtype (under `torch.autocast` both are cast).
        gamma, beta: batch norm's scale and shift [K] in x's dtype or, for bfloat16 and float16,
            float32; None means 1 and 0.
        running_mean, running_var: running statistics [K]; may be None when training.
        residual: added before the ReLU, [N, K, P, Q] in x's dtype, not broadcast.
        stride, padding, dilation: an int or (vertical, horizontal), in pixels.
        groups: the channels are split into this many independent convolutions.
        training: use the batch's statistics (biased variance) and move the running ones by
            `momentum` towards them (unbiased variance, in place); otherwise use the running statistics.
        momentum: weight of the batch's statistics in the running ones.
        eps: added to the variance.
        process_group: a `torch.distributed.ProcessGroup`: batch statistics are those of all its ranks
            (their batches may differ in size, and be empty; all must make the call, and its backward).

    Returns:
        [N, K, P, Q] with P = (H + 2 padding - dilation (R - 1) - 1) // stride + 1, in x's dtype.

    Raises:
        TypeError: a dtype or an argument's type is not accepted.
        ValueError: shapes, geometry or devices do not fit, or training with a single value per channel.
    """
    unit = ConvUnit(
        weight,
        gamma,
        beta,
        running_mean,
        running_var,
        stride,
        padding,
        dilation,
        groups,
        training,
        momentum,
        eps,
        process_group=process_group,
    )
    return run_unit(x, unit, residual, relu, launch="conv")
