"""A network on oneDNN's fused convolutions, as a peer on the CPU: convolution, addition and ReLU in one call."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn

_mkldnn = torch.ops.mkldnn


class OneDnnConv(nn.Module):
    """relu?(conv(x) + residual?): x [N, C, H, W] -> [N, K, P, Q]; a residual is overwritten by the result.

    Weights are packed for the first input's shape.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool) -> None:
        super().__init__()
        self.conv, self.activation = conv, "relu" if relu else "none"
        self._packed: Tensor | None = None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        conv = self.conv
        padding, stride, dilation = (list(v) for v in (conv.padding, conv.stride, conv.dilation))
        if self._packed is None:
            self._packed = _mkldnn._reorder_convolution_weight(
                conv.weight.detach(), padding, stride, dilation, conv.groups, list(x.shape)
            )
        operands = (x, self._packed, conv.bias, padding, stride, dilation, conv.groups)
        if residual is None:
            return _mkldnn._convolution_pointwise.default(*operands, self.activation, [], "")
        activation = "relu" if self.activation == "relu" else None
        return _mkldnn._convolution_pointwise_.binary(
            residual, *operands, "add", 1.0, activation, [], None
        )


def use_onednn(module: fx.GraphModule) -> fx.GraphModule:
    """Makes each convolution of a traced network without batch norms one call with what follows it, in place.

    A convolution takes an addition only where nothing else reads the other summand afterwards.
    """
    parts = dict(module.named_modules())
    convolutions = [n for n in module.graph.nodes if isinstance(_part(parts, n), nn.Conv2d)]
    for node in convolutions:
        last, residual, after = node, None, _only_user(node)
        if after is not None and after.target in (operator.add, operator.iadd, torch.add):
            other = next(arg for arg in after.args if arg is not node)
            if isinstance(other, fx.Node) and max(other.users) is after:
                last, residual, after = after, other, _only_user(after)
        relu = after is not None and isinstance(_part(parts, after), nn.ReLU)
        last = after if relu and after is not None else last
        name = f"onednn_{node.name}"
        conv = parts[str(node.target)]
        assert isinstance(conv, nn.Conv2d)
        module.add_submodule(name, OneDnnConv(conv, relu))
        with module.graph.inserting_after(last):
            call = module.graph.call_module(name, (node.args[0], residual))
        last.replace_all_uses_with(call)
        module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _part(parts: dict[str, nn.Module], node: fx.Node) -> nn.Module | None:
    return parts.get(str(node.target)) if node.op == "call_module" else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None
