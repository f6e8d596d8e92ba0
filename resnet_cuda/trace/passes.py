"""What a trace finds: passes, the bytes that they move and the kernels that run them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from resnet_cuda.trace.kernel_plan import Convolution, Planned, float64_product, planned

FORWARD, BACKWARD, AGAIN = "forward", "backward", "forward again"
TORCH = "torch"  # the name of what torch does with vectors and matrices between two kernels


@dataclass(frozen=True)
class Bytes:
    """activations: their gradients and the bits of their ReLUs, too. matrices: of a weight's size or
    like it, their gradients, Gram matrices. small: per-channel vectors and partial sums."""

    activations: int = 0
    matrices: int = 0
    small: int = 0

    @property
    def total(self) -> int:
        return self.activations + self.matrices + self.small

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(
            self.activations + other.activations,
            self.matrices + other.matrices,
            self.small + other.small,
        )


_FAMILY = {"product": "wgrad", "gram": "wgrad"}  # whose kernels are these kinds'

# Passes that begin with a float64 product, and its launch.
_FLOAT64_PRODUCTS = {
    "closed_form_finalize": "closed_form_finalize",
    "closed_form_backward_finalize": "closed_form_backward_finalize_filters",
}

_REASONS = {
    TORCH: "vectors, and matrices of a weight's size, by torch's own operations",
    "bottleneck_expand": "the sum of two convolutions whose batch norms are known before they run",
    "bottleneck_gram": "batch norm's statistics from the Gram matrix of what the convolution reads",
    "bottleneck_expand_wgrad": "the gradient times what was read: every parameter's gradient",
    "bottleneck_expand_dgrad": "through the convolution and its batch norm without its output",
    "closed_form_finalize": "batch norm's scale and bias from the Gram matrix, multiplied in float64",
    "closed_form_backward_reduce": "batch norm's gradient from the product of the passes over pixels",
    "closed_form_backward_finalize": "the filters' gradient, and the matrices that make the input's",
    "bn_finalize": "batch norm's scale and bias from partial sums",
    "bn_apply": "the branch's output is stored: its last batch norm, the shortcut and ReLU",
    "bn_backward_reduce": "no dgrad comes before this gradient that could sum it on its way out",
    "bn_backward_finalize": "batch norm's gradients from partial sums",
    "bn_backward_apply": "y's gradient is stored: a window would load it often, or bits gate what it is made of",
    "add_relu_backward": "nothing gates the gradient by its bits on load here",
}


@dataclass(frozen=True)
class Pass:
    """One launch of a kernel of ours (and what it needs to add up its parts); or operations of torch
    in a row on vectors and matrices (`TORCH`); or one of torch on activations ("aten::...").

    unit: whose pass it is, an index into the call's units; the projection is behind them.
    """

    phase: str
    name: str
    unit: int
    dtype: torch.dtype
    reads: Bytes
    writes: Bytes
    convolutions: tuple[Convolution, ...] = ()
    operations: int = 1

    @property
    def bytes(self) -> Bytes:
        """Every tensor that is read once, and every tensor that is written."""
        return self.reads + self.writes

    @property
    def flops(self) -> int:
        return sum(one.flops for one in self.convolutions)

    @property
    def is_kernel(self) -> bool:
        """Whether it is a kernel of ours."""
        return self.name != TORCH and "::" not in self.name

    @property
    def plan(self) -> Planned:
        """Its kernel, and why it is this one, and why there is such a pass at all."""
        reason = _REASONS.get(self.name, "torch's own operation")
        if self.name in _FLOAT64_PRODUCTS:
            return Planned(float64_product(_FLOAT64_PRODUCTS[self.name]), None, reason, False)
        if not self.convolutions:
            return Planned(self.name, None, reason, False)
        first = self.convolutions[0]
        found = planned(first, self.dtype)
        stem = self.name + ("_project" if self.name == "bottleneck_expand" else "")
        kernel = found.kernel.replace(f"conv_{_FAMILY.get(first.kind, first.kind)}", stem)
        why = found.why if self.name.startswith("conv_") else f"{reason}; {found.why}"
        return found._replace(kernel=kernel, why=why)


@dataclass(frozen=True)
class Trace:
    """In order. obstacles: of each convolution, why its output is stored; None: its batch norm is had
    in closed form."""

    passes: tuple[Pass, ...]
    obstacles: tuple[str | None, ...]
