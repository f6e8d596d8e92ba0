"""Calls that fail: no memory at each allocation, an interrupt between any two operations. Nothing has moved, and the
next call works."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

from resnet_cuda import nn as fused_nn
from resnet_cuda import ops
from resnet_cuda.cli._check_cases import Case
from tests.citizen.public_ops import CASES, Call, Outcome
from tests.faults import FaultAt
from tests.networks import randomise

Inject = Callable[[int | None], AbstractContextManager[FaultAt]]
FAULTS: dict[str, tuple[Inject, type[BaseException]]] = {
    "no memory": (FaultAt.no_memory, RuntimeError),  # torch.OutOfMemoryError is one
    "interrupt": (FaultAt.interrupt, KeyboardInterrupt),
}
DESCRIPTIONS = {"ConvUnit", "FoldedConv", "Identity", "NormUnit", "ZeroPad"}  # no calls


def test_every_public_op_is_among_the_cases() -> None:
    covered = {case.name.partition(",")[0].partition(" ")[0] for case in CASES}
    missing = set(ops.__all__) - DESCRIPTIONS - covered
    assert not missing, f"add to tests/citizen/public_ops.py: {sorted(missing)}"


def expected(call: Call) -> tuple[Outcome, list[Tensor]]:
    """What the call gives by itself, and the running statistics behind it."""
    found = call.backward(call.forward())
    moved = [t.clone() for t in call.statistics]
    call.reset()
    return found, moved


def assert_same(found: Outcome, wanted: Outcome, where: str) -> None:
    assert torch.equal(found.output, wanted.output), f"the output of the call after a fault {where}"
    for i, (a, b) in enumerate(zip(found.gradients, wanted.gradients, strict=True)):
        assert torch.equal(a, b), f"gradient {i} of the call after a fault {where}"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["cpu", "emulated"], indirect=True)
def test_a_forward_that_fails_changes_nothing_and_the_next_works(
    backend: str, case: Case, fault: str
) -> None:
    inject, error = FAULTS[fault]
    call = Call(case)
    wanted, moved = expected(call)
    with inject(None) as counted:
        call.forward()
    call.reset()
    assert counted.points > 0, "there is no point at which it could fail"
    for point in range(counted.points):
        with inject(point) as injected, pytest.raises(error) as raised:
            call.forward()
        where = injected.where
        if fault == "no memory":
            assert "out of memory" in str(raised.value), f"{where}: {raised.value}"
        assert not call.changed(), f"inputs {call.changed()} changed in a call that failed {where}"
        del raised
    assert_same(call.backward(call.forward()), wanted, "of every kind")
    assert all(map(torch.equal, call.statistics, moved)), "running statistics after the next call"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["cpu", "emulated"], indirect=True)
def test_a_backward_that_fails_changes_nothing_and_the_next_works(
    backend: str, case: Case, fault: str
) -> None:
    inject, error = FAULTS[fault]
    call = Call(case)
    wanted, moved = expected(call)
    output = call.forward()
    gradient = call.gradient(output)

    def backward() -> Outcome:
        gradients = torch.autograd.grad(output, call.parameters, gradient, retain_graph=True)
        return Outcome(output, gradients)

    with inject(None) as counted:
        backward()
    assert counted.points > 0, "there is no point at which it could fail"
    for point in range(counted.points):
        with inject(point) as injected, pytest.raises(error) as raised:
            backward()
        where = injected.where
        if fault == "no memory":
            assert "out of memory" in str(raised.value), f"{where}: {raised.value}"
        del raised
        assert all(map(torch.equal, call.statistics, moved)), (
            f"running statistics moved in a backward that failed {where}"
        )
    assert_same(backward(), wanted, "of every kind")
    call.reset()
    assert not call.changed(), f"inputs {call.changed()} changed"


MODULES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ConvBNReLU": (lambda: fused_nn.ConvBNReLU(8, 8, 3), 2),
    "BNReLU": (lambda: fused_nn.BNReLU(8), 2),
    "BasicBlock": (lambda: fused_nn.BasicBlock(8, 8), 1),
    "Bottleneck": (lambda: fused_nn.Bottleneck(8, 2), 1),
    "PreActBasicBlock": (lambda: fused_nn.PreActBasicBlock(8, 8), 1),
}


@pytest.mark.parametrize("cumulative", [False, True], ids=["momentum", "cumulative"])
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("backend", ["cpu", "emulated"], indirect=True)
def test_an_interrupted_module_has_counted_no_batch(
    backend: str, name: str, cumulative: bool
) -> None:
    """Running statistics and the number of batches that they are of stay together, in all batch norms alike."""
    make, inputs = MODULES[name]
    module = randomise(make()).train()
    for bn in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d) and cumulative):
        bn.momentum = None
    arguments = [torch.randn(2, 8, 4, 4) for _ in range(inputs)]
    state = {key: value.clone() for key, value in module.state_dict().items()}
    with FaultAt.interrupt(None) as counted:
        module(*arguments)
    module.load_state_dict(state)
    for point in range(counted.points):
        with FaultAt.interrupt(point) as injected, pytest.raises(KeyboardInterrupt):
            module(*arguments)
        changed = [k for k, v in module.state_dict().items() if not torch.equal(v, state[k])]
        assert not changed, f"{changed} changed in a forward that ended {injected.where}"
    module(*arguments)
    counts = {int(v) for k, v in module.state_dict().items() if k.endswith("num_batches_tracked")}
    assert counts == {1}
