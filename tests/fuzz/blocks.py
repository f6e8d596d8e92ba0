"""Random calls of the ops that take whole units: bottleneck ends, blocks, residual branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import strategies as st

from tests.fuzz import calls
from tests.fuzz.calls import (
    DTYPES,
    Call,
    Size,
    Writer,
    enough,
    float64_gradients,
    image,
    pair,
)
from tests.fuzz.program import Program

Op = Callable[[Writer], Call]
CHANNELS = (8, 16, 3, 5, 64, 1)


def unit(w: Writer, name: str, size: Size, text: str = "") -> str:
    """A ConvUnit with a weight of `size` and vectors of its own, as an expression."""
    w.weight(size, f"{name}_weight")
    vectors = w.batch_norm(size[0], f"{name}_")
    return f"ConvUnit({name}_weight, {vectors}{text}, {w.numbers()})"


def bottleneck_reduce(w: Writer) -> Call:
    n, c, h, wide = image(w)
    k, stride = w.any(CHANNELS), w.any((1, 2, 3))
    w.strided |= stride > 1
    output = (n, k, (h - 1) // stride + 1, (wide - 1) // stride + 1)
    enough(w, output)
    w.activation("x", (n, c, h, wide))
    w.weight((k, c, 1, 1))
    of = f"(x, weight, {w.batch_norm(k)}, stride={stride}, {w.numbers()}"
    return f"module.bottleneck_reduce{of})", f"module.conv_bn_relu{of}, relu=False)", output


def bottleneck_expand(w: Writer) -> Call:
    n, c, p, q = image(w)
    k = w.any(CHANNELS)
    output = (n, k, p, q)
    enough(w, output)
    if w.chance():
        residual = w.x_and_residual((n, c, p, q), output, must=True)
        added, option = residual, ""
    else:
        stride, short = w.any((1, 2)), w.any(CHANNELS)
        w.strided |= stride > 1
        w.activation("x", (n, c, p, q))
        w.activation("residual", (n, short, (p - 1) * stride + 1, (q - 1) * stride + 1))
        projection = unit(w, "p", (k, short, 1, 1), f", stride=({stride}, {stride})")
        residual, option = "residual", f", projection={projection}"
        added = f"module.conv_unit(residual, {projection}, relu=False)"
    w.weight((k, c, 1, 1))
    of = f"x, weight, {w.batch_norm(k)}"
    result = f"module.bottleneck_expand({of}, {residual}{option}, {w.numbers()})"
    return result, f"module.conv_bn_relu({of}, residual={added}, relu=False, {w.numbers()})", output


def bottleneck_expand_reduce(w: Writer) -> Call:
    float64_gradients(w)
    n, c, p, q = image(w)
    k, following = w.any(CHANNELS), w.any(CHANNELS)
    enough(w, (n, k, p, q))
    residual = w.x_and_residual((n, c, p, q), (n, k, p, q), must=True)
    units = unit(w, "e", (k, c, 1, 1)), unit(w, "r", (following, k, 1, 1))
    call = f"module.bottleneck_expand_reduce(x, {units[0]}, {residual}, {units[1]})"
    return call, None, (n, k, p, q)


def bottleneck_block(w: Writer) -> Call:
    float64_gradients(w)
    w.training = False
    big = w.draw(st.integers(0, 9)) == 0  # the one width that has a kernel of its own
    n, c, h, wide = (2, 256, *pair(w, 4, 14)) if big else image(w)
    k = 64 if big else w.any(CHANNELS)
    w.activation("x", (n, c, h, wide))
    units = [
        unit(w, "r", (k, c, 1, 1)),
        unit(w, "c", (k, k, 3, 3), ", padding=(1, 1)"),
        unit(w, "e", (c, k, 1, 1)),
    ]
    return f"module.bottleneck_block(x, {', '.join(units)})", None, (n, c, h, wide)


def residual_branch(w: Writer) -> Call:
    float64_gradients(w)
    n, c, h, wide = size = image(w, 2)
    shortcut = w.any(("Identity()", "None", "projection", "ZeroPad"))
    stride = 1 if shortcut == "Identity()" else w.any((1, 2))
    w.strided |= stride > 1
    count = w.draw(st.integers(1, 3))
    k = c if shortcut == "Identity()" else w.any(CHANNELS) + (c if shortcut == "ZeroPad" else 0)
    output = (n, k, (h - 1) // stride + 1, (wide - 1) // stride + 1)
    enough(w, output)
    w.activation("x", size)
    units, width = [], c
    for i in range(count):
        last = i == count - 1
        filters = k if last else w.any(CHANNELS)
        kernel, step = w.any((1, 3)), stride if i == 0 else 1
        text = f", stride=({step}, {step}), padding=({kernel // 2}, {kernel // 2})"
        text += f", relu={w.chance()}"
        units.append(unit(w, f"u{i}", (filters, width, kernel, kernel), text))
        width = filters
    if shortcut == "projection":
        shortcut = unit(w, "p", (k, c, 1, 1), f", stride=({stride}, {stride})")
    elif shortcut == "ZeroPad":
        shortcut = f"ZeroPad({stride}, {k})"
    entry = ""
    if w.chance():
        entry = f", entry=NormUnit({w.batch_norm(c, 'n_')}, {w.numbers()})"
    memory, closed_form = w.any(("save", "recompute")), w.any((None, True, False))
    options = f"dict(memory={memory!r}, closed_form={closed_form}) if module is ops else {{}}"
    call = f"module.residual_branch(x, [{', '.join(units)}], {shortcut}{entry}, relu={w.chance()}, **({options}))"
    return call, None, output


OPS = (
    calls.conv_bn_relu,
    calls.bn_relu,
    calls.add_relu,
    calls.max_pool2d,
    calls.global_avg_pool,
    calls.conv_bn_relu_max_pool2d,
    bottleneck_reduce,
    bottleneck_expand,
    bottleneck_expand_reduce,
    bottleneck_block,
    residual_branch,
)


# Convolutions and branches, of which there is most to say, more often.
WEIGHTED = (*OPS, calls.conv_bn_relu, calls.conv_bn_relu, residual_branch)


@st.composite
def programs(draw: st.DrawFn, ops: Sequence[Op] = WEIGHTED) -> Program:
    """A call of any of the ops."""
    op = draw(st.sampled_from(ops))
    w = Writer(draw, draw(st.sampled_from(DTYPES)), draw(st.booleans()), draw(st.booleans()))
    result, preactivation, output = op(w)
    return w.program(result, preactivation, output, draw(st.integers(0, 999)))
