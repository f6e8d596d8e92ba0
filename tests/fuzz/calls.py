"""Random calls of every public op: shapes, strides, offsets, dtypes, geometry, aliasing, gradients, empty batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.program import Program

DTYPES = ("float64", "float32", "bfloat16", "float16")

Draw = Callable[[st.SearchStrategy], Any]
Size = tuple[int, ...]
# The call, what its ReLU reads (None where gradients are not compared near its gate) and the output's size.
Call = tuple[str, str | None, Size]


def _overlapping(n: int, c: int, h: int, w: int) -> tuple[Size, str]:
    strides = (h + 1, 2, 1, 1)
    last = sum((size - 1) * step for size, step in zip((n, c, h, w), strides, strict=True))
    return (max(last, 0) + 1,), f".as_strided({(n, c, h, w)}, {strides})"


# What a tensor [N, C, H, W] is a view of: the size of that, and the expression behind it.
VIEWS: dict[str, Callable[[int, int, int, int], tuple[Size, str]]] = {
    "contiguous": lambda n, c, h, w: ((n, c, h, w), ""),
    "channels_last": lambda n, c, h, w: ((n, h, w, c), ".permute(0, 3, 1, 2)"),
    "cropped": lambda n, c, h, w: ((n, c, h + 1, w), "[:, :, 1:]"),
    "stepped": lambda n, c, h, w: ((n, c, h, 2 * w), "[..., ::2]"),
    "some of the channels": lambda n, c, h, w: (
        (n, h, w, c + 2),
        ".permute(0, 3, 1, 2)[:, 1:-1]",
    ),
    "transposed": lambda n, c, h, w: ((n, c, w, h), ".transpose(2, 3)"),
    "batch innermost": lambda n, c, h, w: ((c, h, w, n), ".permute(3, 0, 1, 2)"),
    "expanded batch": lambda n, c, h, w: ((1, c, h, w), f".expand({n}, -1, -1, -1)"),
    "expanded channels": lambda n, c, h, w: ((n, 1, h, w), f".expand(-1, {c}, -1, -1)"),
    "overlapping": _overlapping,
    "offset": lambda n, c, h, w: ((n * c * h * w + 1,), f"[1:].view({n}, {c}, {h}, {w})"),
    "offset channels_last": lambda n, c, h, w: (
        (n * c * h * w + 1,),
        f"[1:].view({n}, {h}, {w}, {c}).permute(0, 3, 1, 2)",
    ),
}
# Gradients that autograd hands to a backward: also those of sums and means.
GRADIENT_VIEWS = VIEWS | {
    "one number": lambda n, c, h, w: ((), f".expand({n}, {c}, {h}, {w})"),
    "one per channel": lambda n, c, h, w: ((c, 1, 1), f".expand({n}, -1, {h}, {w})"),
}
VECTOR_VIEWS: dict[str, Callable[[int], tuple[Size, str]]] = {
    "contiguous": lambda k: ((k,), ""),
    "stepped": lambda k: ((2 * k,), "[::2]"),
    "offset": lambda k: ((k + 1,), "[1:]"),
    "expanded": lambda k: ((1,), f".expand({k})"),
}


@dataclass
class Writer:
    """Collects a program's tensors and statements."""

    draw: Draw
    dtype: str
    training: bool
    grad: bool
    leaves: dict[str, str] = field(default_factory=dict)
    body: list[str] = field(default_factory=list)
    differentiated: list[str] = field(default_factory=list)
    buffers: list[str] = field(default_factory=list)
    strided: bool = False  # some convolution is

    def any(self, values: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(values))

    def chance(self) -> bool:
        return self.draw(st.booleans())

    def leaf(self, name: str, size: Size, dtype: str, scale: float = 1.0) -> None:
        values = f"torch.randn({size}) * {scale:.3f}"
        if name.endswith("var"):
            values = f"torch.rand({size}) + 0.5"
        self.leaves[name] = f"({values}).to(torch.{dtype})"

    def activation(self, name: str, size: Size, scale: float = 1.0) -> None:
        """A 4-D tensor in some memory order, of which the gradient may be wanted."""
        base, view = VIEWS[self.any(list(VIEWS))](*size)
        self.leaf(name, base, self.dtype, scale)
        if view:
            self.body.append(f"{name} = {name}{view}")
        if self.grad and self.chance():
            self.differentiated.append(name)

    def neighbours(self, first: str, second: str, size: Size) -> None:
        """Two overlapping windows of one tensor."""
        n, c, h, w = size
        self.leaf(first, (n, c, h + 1, w), self.dtype)
        self.body += [f"{second} = {first}[:, :, 1:]", f"{first} = {first}[:, :, :-1]"]
        if self.grad:
            self.differentiated.append(first)

    def x_and_residual(self, size: Size, output: Size, must: bool = False) -> str:
        """x, and what is added: its name, or "None"."""
        kinds = ["another"] if must else ["none", "another"]
        if size == output:
            kinds += ["x", "overlapping x"]
        kind = self.any(kinds)
        if kind == "overlapping x":
            self.neighbours("x", "residual", size)
            return "residual"
        self.activation("x", size)
        if kind == "another":
            self.activation("residual", output)
        return {"none": "None", "x": "x", "another": "residual"}[kind]

    def vector(self, name: str, channels: int, written: bool = False) -> None:
        kinds = [kind for kind in VECTOR_VIEWS if not (written and kind == "expanded")]
        base, view = VECTOR_VIEWS[self.any(kinds)](channels)
        low = self.dtype in ("bfloat16", "float16")
        self.leaf(name, base, self.any(("float32", self.dtype)) if low else self.dtype)
        if view:
            self.body.append(f"{name} = {name}{view}")

    def batch_norm(self, channels: int, prefix: str = "") -> str:
        """gamma, beta, running mean and variance: their names, or "None"."""
        names = []
        for name in (f"{prefix}gamma", f"{prefix}beta"):
            if self.chance():
                self.vector(name, channels)
                names.append(name)
                if self.grad and self.chance():
                    self.differentiated.append(name)
            elif name.endswith("beta") and names[0] != "None" and self.chance():
                names.append(names[0])  # one vector for both
            else:
                names.append("None")
        if self.training and self.chance():
            return ", ".join([*names, "None", "None"])
        for name in (f"{prefix}mean", f"{prefix}var"):
            self.vector(name, channels, written=self.training)
            names.append(name)
            if self.training:
                self.buffers.append(name)
        return ", ".join(names)

    def numbers(self) -> str:
        momentum, eps = self.any((0.1, 0.0, 1.0)), self.any((1e-5, 1e-3))
        return f"training={self.training}, momentum={momentum}, eps={eps}"

    def weight(self, size: Size, name: str = "weight") -> None:
        fan_in = max(math.prod(size[1:]), 1)
        self.activation(name, size, (2 / fan_in) ** 0.5)

    def program(self, result: str, preactivation: str | None, output: Size, seed: int) -> Program:
        base, view = GRADIENT_VIEWS[self.any(list(GRADIENT_VIEWS))](*output)
        grad = self.grad and bool(self.differentiated)
        if grad:
            self.leaf("dz", base, self.dtype)
        capability = self.any(("(9, 0)", "(8, 0)", "(7, 5)"))
        schedule = self.any(("round_robin", "reversed", "random"))
        emulated = f"capability={capability}, schedule={schedule!r}"
        emulated += self.any(("", "", "", ", checked=True", ", multiprocessors=1"))
        return Program(
            leaves=tuple(self.leaves.items()),
            body=tuple(self.body),
            result=result,
            preactivation=preactivation if grad else None,
            gradient=f"dz{view}" if grad else None,
            differentiated=tuple(self.differentiated) if grad else (),
            buffers=tuple(self.buffers),
            seed=seed,
            emulated=emulated,
            # On CPUs with AMX, oneDNN's strided convolutions in bfloat16 read memory that is not theirs (torch 2.13).
            onednn=self.dtype != "bfloat16" or not self.strided,
        )


@dataclass(frozen=True)
class Geometry:
    """x [N, C, H, W], weight [K, C / groups, R, S] -> [N, K, P, Q]."""

    x: Size
    weight: Size
    output: Size
    text: str


def pair(w: Writer, low: int, high: int) -> tuple[int, int]:
    return w.draw(st.integers(low, high)), w.draw(st.integers(low, high))


def batch(w: Writer) -> int:
    return w.any((2, 1, 3, 0))


def geometry(w: Writer) -> Geometry:
    groups = w.any((1, 1, 1, 2, 4, 3, 8))
    per_group = w.any((8, 1, 2, 3, 4, 5, 16, 32) if groups < 4 else (8, 1, 2, 3, 4))
    filters = w.any((8, 1, 2, 3, 5, 16) if groups > 1 else (8, 1, 3, 5, 16, 40, 64))
    kernel, stride = (w.any((1, 3, 2, 5)), w.any((1, 3, 2, 5))), pair(w, 1, 3)
    w.strided |= stride != (1, 1)
    padding = pair(w, 0, 3)
    # The reference is torch's convolution, which ends the process for some dilated single taps in float16.
    vertical, horizontal = pair(w, 1, 3)
    dilation = (1 if kernel[0] == 1 else vertical, 1 if kernel[1] == 1 else horizontal)
    image = [
        max(dilation[i] * (kernel[i] - 1) + 1 - 2 * padding[i], 1) + w.draw(st.integers(0, 6))
        for i in (0, 1)
    ]
    p, q = (
        (image[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    )
    n, c, k = batch(w), groups * per_group, groups * filters
    text = f"stride={stride}, padding={padding}, dilation={dilation}, groups={groups}"
    return Geometry((n, c, *image), (k, per_group, *kernel), (n, k, p, q), text)


def enough(w: Writer, output: Size) -> None:
    """Batch statistics need two values. Those of a few values are so badly conditioned (of two, the gradient is the
    difference of equal numbers) that one channel's rounding decides: below float64 they are of 16 and more."""
    values = output[0] * output[2] * output[3]
    if 0 < values < (2 if w.dtype == "float64" else 16):
        w.training = False


def conv_bn_relu(w: Writer) -> Call:
    g = geometry(w)
    enough(w, g.output)
    residual = w.x_and_residual(g.x, g.output)
    w.weight(g.weight)
    relu = w.chance()
    call = f"module.conv_bn_relu(x, weight, {w.batch_norm(g.weight[0])}, residual={residual}, {g.text}, {w.numbers()}"
    return f"{call}, relu={relu})", f"{call}, relu=False)" if relu else None, g.output


def bn_relu(w: Writer) -> Call:
    size = image(w)
    enough(w, size)
    residual = w.x_and_residual(size, size)
    relu = w.chance()
    call = f"module.bn_relu(x, {w.batch_norm(size[1])}, residual={residual}, {w.numbers()}"
    return f"{call}, relu={relu})", f"{call}, relu=False)" if relu else None, size


def add_relu(w: Writer) -> Call:
    size = image(w)
    residual = w.x_and_residual(size, size, must=True)
    return f"module.add_relu(x, {residual})", f"x + {residual}", size


def image(w: Writer, least: int = 1) -> Size:
    pixels = pair(w, least, least + 6)
    return (batch(w), w.any((8, 1, 3, 5, 16, 40)), *pixels)


def max_pool2d(w: Writer) -> Call:
    kernel = w.draw(st.integers(1, 5))
    stride, padding = w.draw(st.integers(1, 3)), w.draw(st.integers(0, kernel // 2))
    size = image(w, max(kernel - 2 * padding, 1))
    w.activation("x", size)
    p, q = ((pixels + 2 * padding - kernel) // stride + 1 for pixels in size[2:])
    return f"module.max_pool2d(x, {kernel}, {stride}, {padding})", None, (*size[:2], p, q)


def global_avg_pool(w: Writer) -> Call:
    size = image(w)
    w.activation("x", size)
    return "module.global_avg_pool(x)", None, (*size[:2], 1, 1)


def conv_bn_relu_max_pool2d(w: Writer) -> Call:
    float64_gradients(w)  # rounding decides which of a window's values is the largest
    g = geometry(w)
    enough(w, g.output)
    w.activation("x", g.x)
    w.weight(g.weight)
    vectors = w.batch_norm(g.weight[0])
    call = f"module.conv_bn_relu_max_pool2d(x, weight, {vectors}, {g.text}, {w.numbers()})"
    return call, None, (*g.output[:2], (g.output[2] + 1) // 2, (g.output[3] + 1) // 2)


def float64_gradients(w: Writer) -> None:
    """Where a gate inside the call is within rounding of zero, a gradient moves by whole elements, and nobody can
    say which: such calls are differentiated in float64 alone."""
    w.grad = w.grad and w.dtype == "float64"
