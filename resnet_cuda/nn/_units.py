"""From real `nn.Conv2d`, `nn.BatchNorm2d` and `nn.SyncBatchNorm` children to the ops' `ConvUnit`, and when that is
not allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from resnet_cuda.nn._recording import announce, is_heard
from resnet_cuda.ops import ConvUnit, residual_branch
from resnet_cuda.ops._autocast import autocast_dtype
from resnet_cuda.ops._folding import FoldedConv
from resnet_cuda.ops._running import is_fault
from resnet_cuda.ops._synchronised import group_of
from resnet_cuda.ops._unit_call import run_unit as call_unit
from resnet_cuda.ops.conv_bn_relu_max_pool2d import run_pooled_unit as call_pooled_unit
from resnet_cuda.ops.max_pool2d import PoolWindow

# Other packages' batch norms that never train, by module and name: that package is not imported here.
_FROZEN = {("torchvision.ops.misc", "FrozenBatchNorm2d")}


def own(module: nn.Module, registered: dict[str, Any], name: str) -> Any:
    """module.name, read from where it is `registered`, a hundred nanoseconds in place of a microsecond."""
    return registered[name] if name in registered else getattr(module, name)


class BatchNormCall(NamedTuple):
    """What one forward of an `nn.BatchNorm2d` or `nn.SyncBatchNorm` computes with, after torch's own rules."""

    gamma: Tensor | None
    beta: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    training: bool
    momentum: float
    eps: float
    process_group: dist.ProcessGroup | None


_NO_BATCH_NORM = BatchNormCall(None, None, None, None, False, 0.0, 0.0, None)


class BatchCount:
    """The batch that one forward counts: in a forward that fails, it is not counted.

    So `num_batches_tracked` says of how many batches the running statistics are, as the cumulative
    average needs to know.
    """

    def __init__(self) -> None:
        self._counted: list[tuple[Tensor, int]] = []

    def add(self, counter: Tensor) -> None:
        """Counts it once, even where an interrupt comes right behind."""
        if torch.compiler.is_compiling() or counter.is_inference():
            counter.add_(1)
            return
        self._counted.append((counter, counter._version))
        counter.add_(1)

    def __enter__(self) -> BatchCount:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: Any) -> None:
        if kind is not None and is_fault(kind):
            with torch.no_grad():
                for counter, version in self._counted:
                    if counter._version != version:
                        counter.sub_(1)


def batch_norm_call(
    bn: nn.BatchNorm2d | nn.SyncBatchNorm, x: Tensor, count: BatchCount
) -> BatchNormCall:
    """The rules of `torch.nn.modules.batchnorm`'s forwards, which also count the batch.

    As there, the batch is counted before anything is computed (recomputation under checkpointing may
    not come back), and momentum=None, the cumulative average, needs the count on the host. An empty
    batch leaves all statistics untouched, unless it is part of one over all ranks.
    """
    group = None
    if type(bn) is not nn.BatchNorm2d:
        if _is_frozen(bn):
            return BatchNormCall(*_vectors(bn), False, 0.0, bn.eps, None)
        group = _group_of(bn)
    parameters, buffers, training = bn._parameters, bn._buffers, bn.training
    update = training and bn.track_running_stats
    counter = None
    if update and (x.shape[0] != 0 or group is not None):
        counter = own(bn, buffers, "num_batches_tracked")
    if counter is not None:
        count.add(counter)
    momentum = bn.momentum
    if momentum is None:
        momentum = 0.0 if counter is None else 1.0 / float(counter)
    use_buffers = update or not training
    running_mean = own(bn, buffers, "running_mean") if use_buffers else None
    running_var = own(bn, buffers, "running_var") if use_buffers else None
    batch_statistics = training or (running_mean is None and running_var is None)
    return BatchNormCall(
        own(bn, parameters, "weight"),
        own(bn, parameters, "bias"),
        running_mean,
        running_var,
        batch_statistics,
        momentum,
        bn.eps,
        group,
    )


def _is_frozen(bn: nn.Module) -> bool:
    return (type(bn).__module__, type(bn).__qualname__) in _FROZEN


def _vectors(bn: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return bn.weight, bn.bias, bn.running_mean, bn.running_var


def _group_of(bn: nn.BatchNorm2d | nn.SyncBatchNorm) -> dist.ProcessGroup | None:
    """The group over which `nn.SyncBatchNorm` would synchronise here."""
    if type(bn) is not nn.SyncBatchNorm or not bn.training:
        return None
    if not (dist.is_available() and dist.is_initialized()):
        return None
    return group_of(bn.process_group or dist.group.WORLD, training=True)


def conv_unit_of(
    conv: nn.Conv2d, call: BatchNormCall, relu: bool, folded: FoldedConv | None
) -> ConvUnit:
    """relu?(bn(conv(x))) as a description."""
    gamma, beta, running_mean, running_var, training, momentum, eps, process_group = call
    return ConvUnit(
        own(conv, conv._parameters, "weight"),
        gamma,
        beta,
        running_mean,
        running_var,
        conv.stride,  # type: ignore[arg-type]  # pairs
        conv.padding,  # type: ignore[arg-type]  # a string is a blocker
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        training,
        momentum,
        eps,
        relu,
        folded,
        process_group,
    )


def bare_unit_of(conv: nn.Conv2d) -> ConvUnit:
    """conv(x) alone, as a description."""
    unit = conv_unit_of(conv, _NO_BATCH_NORM, False, None)
    unit.batch_norm = False
    return unit


def run_unit(
    x: Tensor,
    conv: Any,
    bn: Any,
    relu: bool,
    folded: Callable[[], FoldedConv | None],
    residual: Tensor | None = None,
) -> Tensor:
    """relu?(bn(conv(x)) + residual) in one fused call; `folded` gives the inference cache when one is wanted."""
    if isinstance(residual, Tensor) and autocast_dtype(x) not in (None, residual.dtype):
        # The op would cast it; a sum of plain torch has the wider dtype.
        z = run_unit(x, conv, bn, False, folded) + residual
        return torch.relu(z) if relu else z
    with BatchCount() as count:
        call = batch_norm_call(bn, x, count)
        cache = None if call.training else folded()
        unit = conv_unit_of(conv, call, relu, cache)
        if is_heard():
            announce(x, [unit], residual=residual)
        return call_unit(x, unit, residual, relu, launch="conv")


def run_bare_unit(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """conv(x) in our kernels."""
    unit = bare_unit_of(conv)
    announce(x, [unit], relu=False, training=conv.training)
    return residual_branch(x, [unit], None, relu=False)


def run_pooled_unit(
    x: Tensor, conv: Any, bn: Any, folded: Callable[[], FoldedConv | None], window: PoolWindow
) -> Tensor:
    """max_pool2d(relu(bn(conv(x)))) in one fused call; `folded` as in `run_unit`."""
    with BatchCount() as count:
        call = batch_norm_call(bn, x, count)
        unit = conv_unit_of(conv, call, True, None if call.training else folded())
        announce(x, [unit], max_pool=window)
        return call_pooled_unit(x, unit, window)


def touched(module: nn.Module, kind: type[nn.Module]) -> str | None:
    """Why `module` may not be computed as a plain `kind`; None where it may.

    A subclass, a hook, a parametrization (it changes the class) or a replaced `forward` means that somebody wants the
    module itself to run.
    """
    if type(module) is not kind:
        return f"is a {type(module).__name__}, not a {kind.__name__}"
    attributes = module.__dict__
    if (
        attributes["_forward_hooks"]
        or attributes["_forward_pre_hooks"]
        or attributes["_backward_hooks"]
        or attributes["_backward_pre_hooks"]
    ):
        return "has hooks"
    if "forward" in attributes:
        return "has a replaced forward"
    return None


def batch_norm_blocker(bn: nn.Module) -> str | None:
    """Why `bn` cannot be part of a fused unit; None where it can."""
    if type(bn) is nn.BatchNorm2d:
        return touched(bn, nn.BatchNorm2d)
    accepted = type(bn) is nn.SyncBatchNorm or _is_frozen(bn)
    return touched(bn, type(bn) if accepted else nn.BatchNorm2d)


def conv_blocker(conv: Any) -> str | None:
    """Why `conv` cannot be part of a fused unit; None where it can."""
    reason = touched(conv, nn.Conv2d)
    if reason is not None:
        return reason
    if own(conv, conv._parameters, "bias") is not None:
        return "has a bias"
    if conv.padding_mode != "zeros":
        return f"has padding_mode={conv.padding_mode!r}"
    if isinstance(conv.padding, str):
        return f"has padding={conv.padding!r}"
    return None


def pool_window(pool: Any) -> PoolWindow | None:
    """The window where `max_pool2d` computes the same as `pool`, else None."""
    if touched(pool, nn.MaxPool2d) is not None:
        return None
    window = (pool.kernel_size, pool.stride, pool.padding)
    if pool.dilation != 1 or pool.ceil_mode or pool.return_indices:
        return None
    return PoolWindow(*window) if all(isinstance(value, int) for value in window) else None


def neutral_blocker(module: nn.Module | None) -> str | None:
    """Why `module` does something; None where it is absent or an identity."""
    return None if module is None else touched(module, nn.Identity)
