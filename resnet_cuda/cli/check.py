"""Check the kernels on this machine: against fp64 in every dtype, and by gradcheck.

Runs on the GPU where there is one, on the kernels' own source under the emulator, and on the CPU backend;
about a minute. The exit code is 1 where anything failed. What could not be checked here is listed at the
end, with the reason.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

import resnet_cuda
from resnet_cuda import _raw, _selection
from resnet_cuda.cli._check_cases import Case, cases, gradient_cases

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_FP64_TOLERANCE = 1e-10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


class Checker:
    """Prints one line per check and counts."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    def check(self, name: str, function: Callable[[], None]) -> None:
        try:
            function()
        except (AssertionError, RuntimeError, ValueError, TypeError) as error:
            self.failed += 1
            print(f"FAIL  {name}: {error}", flush=True)
        else:
            self.passed += 1
            print(f"PASS  {name}", flush=True)


def run(arguments: argparse.Namespace) -> int:
    started = time.perf_counter()
    checker = Checker()
    available, missing = backends()
    for name, enter in available:
        device = "cuda" if name == "cuda" else "cpu"
        with enter(), exact_float32():
            for dtype in DTYPES:
                for case in cases(dtype, device):
                    label = f"{name:16} {str(dtype).removeprefix('torch.'):9} {case.name}"
                    checker.check(label, partial(against_fp64, case))
            for case in gradient_cases(device):
                label = f"{name:16} gradcheck {case.name}"
                checker.check(label, partial(gradients, case))
    print(
        f"\n{checker.passed} passed, {checker.failed} failed in "
        f"{time.perf_counter() - started:.0f} s"
    )
    for name, reason in missing:
        print(f"not checked: {name} ({reason})")
    return 1 if checker.failed else 0


def backends() -> tuple[
    list[tuple[str, Callable[[], AbstractContextManager[object]]]], list[tuple[str, str]]
]:
    """(what can run here, with the context that selects it; what cannot, with the reason)."""
    available: list[tuple[str, Callable[[], AbstractContextManager[object]]]] = [
        ("cpu", partial(resnet_cuda.use_backend, "cpu"))
    ]
    missing = []
    for name, checked in (("emulated", False), ("emulated checked", True)):
        try:
            _selection.emulator_library(checked)
        except RuntimeError as error:
            missing.append((f"the kernels' source, {name}", str(error)))
        else:
            available.append((name, partial(resnet_cuda.testing.emulated, checked)))
    if not torch.cuda.is_available():
        missing.append(("the kernels on a GPU", "torch finds no GPU here"))
    else:
        try:
            _raw.require_cuda()
        except RuntimeError as error:
            missing.append(("the kernels on a GPU", str(error)))
        else:
            available.append(("cuda", partial(resnet_cuda.use_backend, "cuda")))
    return available, missing


@contextmanager
def exact_float32() -> Iterator[None]:
    """torch's own float32 without tf32: its error is the measure of ours."""
    switches: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


class Outcome(NamedTuple):
    """What one call of a case's op gave.

    `grads`: one per input, None where there is none. `buffers`: the inputs without a gradient as the call left
    them (training moves the running statistics).
    """

    output: Tensor
    grads: list[Tensor | None]
    buffers: list[Tensor]


def outcome(case: Case, make_grad: Callable[[Tensor], Tensor]) -> Outcome:
    """The op's forward and, where the inputs require gradients, its backward from `make_grad(output)`, on copies of
    the inputs."""
    inputs = [_copy(tensor) for tensor in case.inputs]
    output = case.fused(*inputs)
    if output.requires_grad:
        output.backward(make_grad(output.detach()))
    buffers = [t for t in inputs if not t.requires_grad]
    return Outcome(output.detach(), [t.grad for t in inputs], buffers)


def against_fp64(case: Case) -> None:
    """The tolerance rule for the output and every gradient; in fp64 itself, agreement to 1e-10."""
    grad_outputs: list[Tensor] = []

    def make_grad(output: Tensor) -> Tensor:
        grad_outputs.append(_grad_output(case, output))
        return grad_outputs[0]

    output, grads, _ = outcome(case, make_grad)
    grad_output = grad_outputs[0] if grad_outputs else None
    if output.dtype != torch.float64:
        resnet_cuda.testing.assert_close_to_fp64(
            output,
            case.plain,
            case.inputs,
            grad_output=grad_output,
            actual_grads=grads if grad_outputs else None,
        )
        return
    plain_inputs = [_copy(tensor) for tensor in case.inputs]
    plain = case.plain(*plain_inputs)
    if grad_output is not None:
        plain.backward(grad_output)
    torch.testing.assert_close(output, plain, rtol=_FP64_TOLERANCE, atol=_FP64_TOLERANCE)
    for grad, other in zip(grads, plain_inputs, strict=True):
        if grad is not None:
            torch.testing.assert_close(grad, other.grad, rtol=_FP64_TOLERANCE, atol=_FP64_TOLERANCE)


def gradients(case: Case) -> None:
    """Finite differences against the fused gradients."""
    inputs = [_copy(tensor) for tensor in case.inputs]

    def call(*given: Tensor) -> Tensor:
        # Training updates the running statistics, which a function under gradcheck must not.
        return case.fused(*(t if t.requires_grad else t.clone() for t in given))

    resnet_cuda.testing.gradcheck_op(call, inputs, second_order=False, fast=True)


def _grad_output(case: Case, output: Tensor) -> Tensor:
    """Random, and zero where rounding alone decides whether a ReLU is open: there no two gradients agree."""
    generator = torch.Generator().manual_seed(1)
    random = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    random = random.to(output.device, output.dtype)
    with torch.no_grad():
        plain = case.plain(*(_copy(t) for t in case.inputs))
        # A copy even of fp64 tensors: training moves the running statistics.
        exact = case.plain(*(t.detach().to(torch.float64, copy=True) for t in case.inputs))
    agree = ((output > 0) == (exact > 0)) & ((plain > 0) == (exact > 0))
    return random * agree


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)
