"""The problems that `check` runs: each op beside its plain twin, small enough for the emulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resnet_cuda import ops, reference
from resnet_cuda.testing.problems import ConvBnInputs, ConvProblem, make_inputs

#                       N  C   H   W   K  R  S
CONV_PROBLEMS = {
    "7x7 stride 2": ConvProblem(2, 3, 24, 24, 16, 7, 7, 2, 3),
    "3x3": ConvProblem(2, 32, 10, 10, 32, 3, 3, 1, 1),
    "3x3 stride 2": ConvProblem(2, 16, 13, 13, 40, 3, 3, 2, 1),
    "3x3 dilated": ConvProblem(2, 16, 11, 9, 16, 3, 3, 1, 2, 2),
    "3x3 grouped": ConvProblem(2, 32, 9, 9, 32, 3, 3, 1, 1, 1, 4),
    "5x5 odd channels": ConvProblem(3, 5, 15, 11, 7, 5, 5, 2, 1),
}
POINTWISE = ConvProblem(2, 64, 9, 9, 16, 1, 1)
EXPAND = ConvProblem(2, 16, 9, 9, 64, 1, 1)
# What one kernel computes: the second one reads what the first one made.
CHAINED = ConvProblem(2, 64, 9, 9, 128, 1, 1), ConvProblem(2, 128, 9, 9, 64, 1, 1)
# What begins a block of which one kernel computes all.
WHOLE = ConvProblem(1, 256, 8, 24, 64, 1, 1)
TINY = ConvProblem(2, 3, 4, 4, 4, 3, 3, 2, 1)
TINY_POINTWISE = ConvProblem(2, 3, 3, 3, 4, 1, 1)
TINY_CHAINED = ConvProblem(2, 3, 3, 3, 4, 1, 1), ConvProblem(2, 4, 3, 3, 2, 1, 1)


# Name, batch statistics, gradients: ops that are differentiated take other passes than inference.
_MODES = (("training", True, True), ("frozen", False, True), ("inference", False, False))


class Case(NamedTuple):
    """`fused` and `plain` are the same function of `inputs`; differentiable inputs require a gradient, unless the op is
    another one with gradients."""

    name: str
    fused: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    inputs: list[Tensor]


def cases(dtype: torch.dtype, device: str) -> Iterator[Case]:
    """Every op in the sizes of real networks, scaled down."""
    for name, problem in CONV_PROBLEMS.items():
        yield from conv_cases(name, problem, dtype, device)
    yield _stem_case(CONV_PROBLEMS["7x7 stride 2"], dtype, device)
    yield from _bottleneck_cases(POINTWISE, EXPAND, dtype, device)
    yield from _chained_cases(*CHAINED, dtype, device)
    yield from _whole_block_cases(WHOLE, dtype, device)
    yield from _block_cases(POINTWISE, EXPAND, dtype, device)
    yield from _pointwise_cases((2, 24, 11, 9), dtype, device)
    yield from _pool_cases((2, 24, 11, 11), dtype, device)


def gradient_cases(device: str) -> Iterator[Case]:
    """The same ops small enough for finite differences in float64."""
    return (case for case in _tiny_cases(device) if any(t.requires_grad for t in case.inputs))


def _tiny_cases(device: str) -> Iterator[Case]:
    dtype = torch.float64
    yield from conv_cases("3x3 stride 2", TINY, dtype, device)
    yield from _bottleneck_cases(TINY_POINTWISE, TINY_POINTWISE, dtype, device)
    yield from _chained_cases(*TINY_CHAINED, dtype, device)
    yield from _whole_block_cases(ConvProblem(2, 4, 3, 3, 3, 1, 1), dtype, device)
    yield from _block_cases(
        ConvProblem(2, 4, 3, 3, 3, 1, 1), ConvProblem(2, 3, 3, 3, 4, 1, 1), dtype, device
    )
    yield from _pointwise_cases((2, 3, 3, 2), dtype, device)
    yield from _pool_cases((1, 2, 5, 4), dtype, device)


def conv_cases(name: str, problem: ConvProblem, dtype: torch.dtype, device: str) -> Iterator[Case]:
    """conv_bn_relu with a residual on one problem, in training and in inference."""
    given = make_inputs(problem, dtype, device=device, requires_grad=True)
    for training in (True, False):
        options = {"training": training, **problem.geometry()}

        def call(op: Callable[..., Tensor], options: Mapping[str, Any], *a: Tensor) -> Tensor:
            return op(*a[:6], residual=a[6], **options)

        yield Case(
            f"conv_bn_relu {name}, {_mode(training)}",
            partial(call, ops.conv_bn_relu, options),
            partial(call, reference.conv_bn_relu, options),
            [*_conv_bn(given), given.residual],
        )


def _stem_case(problem: ConvProblem, dtype: torch.dtype, device: str) -> Case:
    """Where gradients are asked for, it is conv_bn_relu and max_pool2d."""

    def call(op: Callable[..., Tensor], *a: Tensor) -> Tensor:
        return op(*a, **problem.geometry())

    return Case(
        "conv_bn_relu_max_pool2d, inference",
        partial(call, ops.conv_bn_relu_max_pool2d),
        partial(call, reference.conv_bn_relu_max_pool2d),
        _conv_bn(make_inputs(problem, dtype, device=device)),
    )


def _bottleneck_cases(
    reduce: ConvProblem, expand: ConvProblem, dtype: torch.dtype, device: str
) -> Iterator[Case]:
    given = make_inputs(reduce, dtype, device=device, requires_grad=True)
    wide = make_inputs(expand, dtype, device=device, requires_grad=True)
    for mode, training, differentiated in _MODES:
        yield Case(
            f"bottleneck_reduce, {mode}",
            partial(ops.bottleneck_reduce, training=training),
            partial(reference.bottleneck_reduce, training=training),
            _leaves(_conv_bn(given), differentiated),
        )
        yield Case(
            f"bottleneck_expand, {mode}",
            partial(ops.bottleneck_expand, training=training),
            partial(reference.bottleneck_expand, training=training),
            _leaves([*_conv_bn(wide), wide.residual], differentiated),
        )


def _chained_cases(
    expand: ConvProblem, reduce: ConvProblem, dtype: torch.dtype, device: str
) -> Iterator[Case]:
    """One block's end and the next one's beginning; both results, one behind the other."""
    given = make_inputs(expand, dtype, device=device, requires_grad=True)
    following = make_inputs(reduce, dtype, device=device, requires_grad=True)
    inputs = [*_conv_bn(given), given.residual, *_conv_bn(following)[1:]]
    for mode, training, differentiated in _MODES:

        def call(op: Callable[..., Any], training: bool, x: Tensor, *a: Tensor) -> Tensor:
            units = [
                ops.ConvUnit(*(of[0], of[1], of[2], of[3], of[4]), training=training)
                for of in (a[:5], a[6:])
            ]
            return torch.cat(op(x, units[0], a[5], units[1]), dim=1)

        yield Case(
            f"bottleneck_expand_reduce, {mode}",
            partial(call, ops.bottleneck_expand_reduce, training),
            partial(call, reference.bottleneck_expand_reduce, training),
            _leaves(inputs, differentiated),
        )


def _whole_block_cases(reduce: ConvProblem, dtype: torch.dtype, device: str) -> Iterator[Case]:
    """A bottleneck whose batch norms use running statistics."""
    p = reduce
    middle = ConvProblem(p.N, p.K, p.H, p.W, p.K, 3, 3, 1, 1)
    problems = reduce, middle, ConvProblem(p.N, p.K, p.H, p.W, p.C, 1, 1)
    units = [make_inputs(p, dtype, device=device, requires_grad=True) for p in problems]

    def call(op: Callable[..., Tensor], x: Tensor, *a: Tensor) -> Tensor:
        return op(x, *_described(a, training=False))

    for mode, training, differentiated in _MODES:
        if not training:
            yield Case(
                f"bottleneck_block, {mode}",
                partial(call, ops.bottleneck_block),
                partial(call, reference.bottleneck_block),
                _leaves([units[0].x, *_with_open_gates(units)], differentiated),
            )


def _with_open_gates(units: Sequence[ConvBnInputs]) -> list[Tensor]:
    """Weights and vectors of units, with shifts that keep inner ReLUs open, which would close or not by rounding
    alone."""
    found: list[Tensor] = []
    for given in units:
        assert given.beta is not None
        found += [given.weight, given.gamma, (given.beta.detach().abs() + 6).requires_grad_()]
        found += [given.running_mean, given.running_var]
    return found


def _described(a: Sequence[Tensor], training: bool) -> list[ops.ConvUnit]:
    """The units of a bottleneck."""
    return [
        ops.ConvUnit(
            *(a[i], a[i + 1], a[i + 2], a[i + 3], a[i + 4]), padding=(pad, pad), training=training
        )
        for i, pad in ((0, 0), (5, 1), (10, 0))
    ]


def _block_cases(
    reduce: ConvProblem, expand: ConvProblem, dtype: torch.dtype, device: str
) -> Iterator[Case]:
    """A bottleneck, and a pre-activated one."""
    middle = ConvProblem(expand.N, expand.C, expand.H, expand.W, expand.C, 3, 3, 1, 1)
    before = ConvProblem(reduce.N, reduce.C, reduce.H, reduce.W, reduce.C, 1, 1)
    units = [
        make_inputs(p, dtype, device=device, requires_grad=True)
        for p in (reduce, middle, expand, before)
    ]
    inputs = [units[0].x, *_with_open_gates(units)]
    of_block = inputs[:16]
    of_preactivated = [*inputs[:12], *inputs[17:]]  # the last weight alone, the last vectors alone
    for mode, training, differentiated in _MODES:

        def call(op: Callable[..., Tensor], training: bool, x: Tensor, *a: Tensor) -> Tensor:
            return op(x, _described(a, training), ops.Identity())

        yield Case(
            f"residual_branch, {mode}",
            partial(call, ops.residual_branch, training),
            partial(call, reference.residual_branch, training),
            _leaves(of_block, differentiated),
        )
        if training and dtype.itemsize == 2:  # as by itself at larger sizes
            closed_form = partial(ops.residual_branch, closed_form=True)
            yield Case(
                f"residual_branch in closed form, {mode}",
                partial(call, closed_form, training),
                partial(call, reference.residual_branch, training),
                _leaves(of_block, differentiated),
            )

        def preactivated(
            op: Callable[..., Tensor], training: bool, x: Tensor, *a: Tensor
        ) -> Tensor:
            """conv bn, conv bn, conv, and the batch norm that enters."""
            w1, g1, b1, m1, v1, w2, g2, b2, m2, v2, w3, *entering = a
            described = [
                ops.ConvUnit(w1, g1, b1, m1, v1, training=training),
                ops.ConvUnit(w2, g2, b2, m2, v2, padding=(1, 1), training=training),
                ops.ConvUnit(w3, None, None, None, None, batch_norm=False),
            ]
            g0, b0, m0, v0 = entering
            entry = ops.NormUnit(g0, b0, m0, v0, training=training)
            return op(x, described, ops.Identity(), entry=entry, relu=False)

        yield Case(
            f"residual_branch, pre-activated, {mode}",
            partial(preactivated, ops.residual_branch, training),
            partial(preactivated, reference.residual_branch, training),
            _leaves(of_preactivated, differentiated),
        )


def _pointwise_cases(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: str
) -> Iterator[Case]:
    n, c, h, w = shape
    given = make_inputs(ConvProblem(n, c, h, w, c, 1, 1), dtype, device=device, requires_grad=True)
    vectors = [given.gamma, given.beta, given.running_mean, given.running_var]
    for training in (True, False):

        def call(op: Callable[..., Tensor], training: bool, *a: Tensor) -> Tensor:
            return op(*a[:5], residual=a[5], training=training)

        yield Case(
            f"bn_relu, {_mode(training)}",
            partial(call, ops.bn_relu, training),
            partial(call, reference.bn_relu, training),
            [given.x, *vectors, given.residual],
        )
    yield Case("add_relu", ops.add_relu, reference.add_relu, [given.x, given.residual])


def _pool_cases(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: str
) -> Iterator[Case]:
    # Distinct values: a maximum that is reached twice has no gradient to compare.
    count = shape[0] * shape[1] * shape[2] * shape[3]
    values = torch.randperm(count, generator=torch.Generator().manual_seed(0)).double()
    x = (values / count - 0.5).view(shape).to(device, dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    yield Case("max_pool2d", ops.max_pool2d, reference.max_pool2d, [x])
    yield Case("global_avg_pool", ops.global_avg_pool, reference.global_avg_pool, [x])


def _conv_bn(given: ConvBnInputs) -> list[Tensor]:
    vectors = [given.gamma, given.beta, given.running_mean, given.running_var]
    return [given.x, given.weight, *vectors]


def _leaves(tensors: list[Tensor], differentiated: bool) -> list[Tensor]:
    return tensors if differentiated else [t.detach() for t in tensors]


def _mode(training: bool) -> str:
    return "training" if training else "inference"
