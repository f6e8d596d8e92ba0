"""Stage `correctness`: every op in every dtype against fp64, by gradcheck, twice, and against the emulator."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import resnet_cuda
from benchmarks.hardware.affected import OPS_OF_NETWORKS
from benchmarks.hardware.protocol import Check, Skip
from resnet_cuda import _selection
from resnet_cuda.cli._check_cases import Case, cases, conv_cases, gradient_cases
from resnet_cuda.cli.check import (
    DTYPES,
    Outcome,
    against_fp64,
    exact_float32,
    gradients,
    outcome,
)
from resnet_cuda.testing.problems import resnet_layers

if TYPE_CHECKING:
    from benchmarks.hardware.child import Context

_LAYER_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LAYER_BATCH = 2
# The last stage has 2 x 2 pixels then: real channel counts at little cost.
_LAYER_PIXELS = 64
_DRY_LAYERS, _DRY_PIXELS = 3, 32
_DRY_PLANES = (4, 8, 8, 16)
_NETWORK_BATCH = 4
# Between the GPU and the emulator, in units of the last place of the largest value: both add in the same order, but
# contract `a * b + c` in different places, and in 16 bits a difference may be one of rounding.
_ULPS = {torch.float64: 256.0, torch.float32: 256.0, torch.bfloat16: 8.0, torch.float16: 8.0}


def run(context: Context) -> int:
    with context.backend(), exact_float32():
        return context.run_checks(checks(context))


def checks(context: Context) -> Iterator[Check]:
    """All of them; inputs are made when a check is due."""
    for dtype in DTYPES:
        for case in wanted(context, cases(dtype, context.tensors)):
            yield Check(f"fp64 rule, {short(dtype)}: {case.name}", partial(against_fp64, case))
    for case in wanted(context, gradient_cases(context.tensors)):
        yield Check(f"gradcheck: {case.name}", partial(gradients, case))
    for dtype in DTYPES:
        for case in wanted(context, cases(dtype, context.tensors)):
            yield Check(f"deterministic, {short(dtype)}: {case.name}", partial(same_twice, case))
    for dtype in DTYPES:
        for case in wanted(context, cases(dtype, context.tensors)):
            yield Check(f"as emulated, {short(dtype)}: {case.name}", partial(as_emulated, case))
    if context.wants("conv_bn_relu"):
        yield from layers(context)
    if context.ops is None or context.ops & OPS_OF_NETWORKS:
        yield Check("fp64: training pass of resnet18", partial(network_pass, context))


def layers(context: Context) -> Iterator[Check]:
    """ResNet-50's distinct convolutions."""
    pixels = _DRY_PIXELS if context.dry else _LAYER_PIXELS
    problems = resnet_layers(50, _LAYER_BATCH, pixels)
    for dtype in _LAYER_DTYPES:
        for problem in problems[:_DRY_LAYERS] if context.dry else problems:
            for case in conv_cases(str(problem), problem, dtype, context.tensors):
                yield Check(f"fp64 rule, {short(dtype)}: {case.name}", partial(against_fp64, case))


def network_pass(context: Context) -> None:
    """A whole fused network against the same in plain torch: output, gradients, running statistics."""
    from tests.networks import assert_same_pass, randomise, run_pass

    torch.manual_seed(0)
    narrow = {"planes": _DRY_PLANES} if context.dry else {}
    model = randomise(resnet_cuda.models.resnet18(num_classes=10, **narrow).double().train())
    model = model.to(context.tensors, memory_format=torch.channels_last)
    pixels = _DRY_PIXELS if context.dry else _LAYER_PIXELS
    x = torch.randn(_NETWORK_BATCH, 3, pixels, pixels, dtype=torch.float64).to(context.tensors)
    fused = run_pass(model, x)
    with resnet_cuda.use_backend("reference"):
        plain = run_pass(model, x)
    assert_same_pass(fused, plain)


def wanted(context: Context, given: Iterator[Case]) -> Iterator[Case]:
    return (case for case in given if context.wants(op_of(case)))


def op_of(case: Case) -> str:
    """Cases are named "op sizes, mode"."""
    return case.name.partition(",")[0].partition(" ")[0]


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def random_grad(output: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    return values.to(output.device, output.dtype)


def same_twice(case: Case) -> str:
    """Two runs give the same bits: outputs, gradients, running statistics."""
    first, second = (outcome(case, random_grad) for _ in range(2))
    differing = [name for name, a, b in _paired(first, second) if not torch.equal(a, b)]
    assert not differing, f"differs from run to run: {', '.join(differing)}"
    return "bitwise"


def as_emulated(case: Case) -> str:
    """The device's result and the emulator's, from the same inputs; says how far apart they are."""
    try:
        _selection.emulator_library(checked=False)
    except RuntimeError as error:
        raise Skip(str(error)) from error
    on_cpu = [t.detach().cpu().requires_grad_(t.requires_grad) for t in case.inputs]
    return compared(*both(case, case._replace(inputs=on_cpu)))


def both(here: Case, there: Case) -> tuple[Outcome, Outcome]:
    """The outcomes of the device's op and of the emulator's, for the same gradient of the output."""
    is_open = outcome(here, torch.zeros_like).output.cpu() > 0

    def grad(output: Tensor) -> Tensor:
        # Where rounding alone decides whether a ReLU is open, no two gradients agree.
        return random_grad(output) * ((output > 0) == is_open.to(output.device))

    with resnet_cuda.use_backend("emulated"):
        emulated = outcome(there, grad)
    found = outcome(here, lambda output: grad(emulated.output).to(output.device))
    return found, emulated


def compared(found: Outcome, emulated: Outcome) -> str:
    worst, where, same = 0.0, "", 0
    pairs = list(_paired(found, emulated))
    for name, a, b in pairs:
        a, b = a.cpu(), b.cpu()
        if torch.equal(a, b):
            same += 1
            continue
        apart = ulps(a, b)
        if not apart <= worst:  # NaN, too, is apart
            worst, where = apart, name
        assert apart <= _ULPS[b.dtype], (
            f"{name} ({short(b.dtype)}) is {apart:.3g} units in the last place of the largest value from the "
            f"emulator's; {_ULPS[b.dtype]:.0f} are allowed"
        )
    if same == len(pairs):
        return "bitwise"
    return f"bitwise in {same} of {len(pairs)} tensors, within {worst:.3g} ulp of the largest value ({where})"


def ulps(a: Tensor, b: Tensor) -> float:
    """The largest difference, in units in the last place of b's largest value."""
    largest = b.double().abs().max().clamp_min(torch.finfo(b.dtype).tiny)
    apart = (a.double() - b.double()).abs().max()
    return float(apart / (torch.finfo(b.dtype).eps * largest))


def _paired(first: Outcome, second: Outcome) -> Iterator[tuple[str, Tensor, Tensor]]:
    yield "output", first.output, second.output
    for i, (a, b) in enumerate(zip(first.grads, second.grads, strict=True)):
        if a is not None and b is not None:
            yield f"gradient of input {i}", a, b
    for i, (a, b) in enumerate(zip(first.buffers, second.buffers, strict=True)):
        yield f"buffer {i}", a, b
