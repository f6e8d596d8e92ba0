"""Modules of any class: their own forward, with each run of convolution, batch norm, addition and ReLU as one call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from resnet_cuda import _fakes
from resnet_cuda.nn._forward_runs import find_runs, merge_runs, merged_children
from resnet_cuda.nn._forward_trace import Untraceable, fingerprint, trace_forward
from resnet_cuda.nn._fused import FORWARD_PLANS, FusedModule, is_traced
from resnet_cuda.nn._units import batch_norm_blocker, conv_blocker, run_unit
from resnet_cuda.ops._autocast import autocast_dtype


class ForwardPlan(NamedTuple):
    """How a module's forward runs in one mode.

    forward: the forward with merged runs, which looks the children up in the module that it is given; None where there
        is nothing to merge.
    runs: what was merged, for reports. parts: the names of its convolutions and batch norms.
    reason: why there is nothing.
    """

    forward: Callable[[nn.Module, Tensor], Any] | None
    attributes: tuple[str, ...] = ()
    fingerprint: tuple[Any, ...] = ()
    runs: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    reason: str = ""


class FusedForward(FusedModule):
    """Mixin for classes that are not recognised as a whole, and whose forward `torch.fx` can follow.

    The forward is followed by `fuse`, `train` and `eval`, never by a call: torch.fx changes nn.Module for all threads
    while it does. Where an attribute that the forward reads has changed since, or a child has another class or hooks,
    the plain forward runs.
    """

    @property
    def _itself(self) -> FusedForward:
        """The name by which the merged forward calls `_run`."""
        return self

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        plain_forward: Callable[..., Any] = cls.plain_class.forward

        @wraps(plain_forward)  # torch.fx and torch.export look at the signature
        def forward(self: FusedForward, *args: Any, **kwargs: Any) -> Any:
            one = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
            if one and not is_traced(args[0]):
                plan = self._valid_plan()
                if plan is not None and plan.forward is not None:
                    return plan.forward(self, args[0])
            return plain_forward(self, *args, **kwargs)

        cls.forward = forward

    def follow(self, plan: ForwardPlan | None = None) -> None:
        """Have a valid plan for the present mode; `plan` is one that has just been made."""
        plans: dict[bool, ForwardPlan] = self.__dict__.setdefault(FORWARD_PLANS, {})
        if plan is not None or self._valid_plan() is None:
            plans[self.training] = plan or plan_forward(self)

    def _valid_plan(self) -> ForwardPlan | None:
        """The plan for the present mode, where what it was made by still holds."""
        plan: ForwardPlan | None = self.__dict__.get(FORWARD_PLANS, {}).get(self.training)
        if plan is None or plan.fingerprint != fingerprint(self, plan.attributes):
            return None
        return plan

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.follow()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.follow()

    def _run(
        self,
        conv_name: str,
        norm_name: str,
        relu: bool,
        x: Tensor,
        residual: Tensor | None,
        into: bool,
    ) -> Tensor:
        """relu?(norm(conv(x)) + residual), in one fused call where the children are what they were.

        into: the residual is added in place, which keeps the dtype.
        """
        conv, norm = self.get_submodule(conv_name), self.get_submodule(norm_name)
        if conv_blocker(conv) is not None or batch_norm_blocker(norm) is not None:
            out: Tensor = norm(conv(x))
        elif residual is None or _fits(residual, x, conv):
            return run_unit(x, conv, norm, relu, partial(self.folded, conv_name), residual)
        else:
            out = run_unit(x, conv, norm, False, partial(self.folded, conv_name))
        if residual is not None:
            out = out.add_(residual) if into else out + residual
        return torch.relu(out) if relu else out


def plan_forward(module: nn.Module) -> ForwardPlan:
    """The plan for `module` in its present mode; its class may be fused already."""
    plain = module.plain_class if isinstance(module, FusedModule) else type(module)
    try:
        trace = trace_forward(module, plain)
    except Untraceable as error:
        return ForwardPlan(None, reason=str(error))
    runs = find_runs(module, trace.graph)
    mark = fingerprint(module, trace.attributes)
    if not runs:
        reason = "its forward has no convolution followed by a batch norm alone"
        return ForwardPlan(None, trace.attributes, mark, reason=reason)
    texts, parts = tuple(map(str, runs)), tuple(merged_children(runs))
    merge_runs(trace.graph, runs, "_itself", "_run")
    # The code that torch.fx writes takes the module as its first argument: no child is held.
    code = type(fx.GraphModule(_stand_ins(trace.graph), trace.graph)).forward
    return ForwardPlan(code, trace.attributes, mark, texts, parts)


def _stand_ins(graph: fx.Graph) -> dict[str, nn.Module]:
    """For the GraphModule that writes the code and is thrown away: something under every name."""
    return {
        str(node.target): nn.Module()
        for node in graph.nodes
        if node.op in ("get_attr", "call_module")
    }


def _fits(residual: Any, x: Tensor, conv: Any) -> bool:
    """Whether `residual` is added as it is, without broadcasting and in the dtype of the sum."""
    if not isinstance(residual, Tensor) or residual.dim() != 4:
        return False
    weight = (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size)
    shape = _fakes.conv_output_shape(x.shape, weight, conv.stride, conv.padding, conv.dilation)
    return residual.dtype == (autocast_dtype(x) or x.dtype) and tuple(residual.shape) == shape
