"""torch.utils.checkpoint around every fused module and op: gradients and statistics as in plain torch."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from resnet_cuda import unfuse
from tests.citizen.calls import CASES, MODULES, assert_same, inputs, module, problem, step


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "hooks"])
@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_computed_again(backend: str, name: str, reentrant: bool) -> None:
    """Twice, so that running statistics move twice, as those of plain torch do."""
    fused = module(name).train()
    results = [
        step(
            made, inputs(name), lambda *x, made=made: checkpoint(made, *x, use_reentrant=reentrant)
        )
        for made in (fused, unfuse(fused))
    ]
    assert_same(*results)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "hooks"])
@pytest.mark.parametrize(("name", "training"), CASES)
def test_an_op_is_computed_again(backend: str, name: str, training: bool, reentrant: bool) -> None:
    call, leaves = problem(name, training=training)
    z = call(*leaves)
    dz = torch.randn_like(z)
    expected = torch.autograd.grad(z, leaves, dz)
    z = checkpoint(call, *leaves, use_reentrant=reentrant)
    z.backward(dz)
    for i, (leaf, gradient) in enumerate(zip(leaves, expected, strict=True)):
        assert torch.equal(leaf.grad, gradient), f"gradient of leaf {i} has other bits"


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "hooks"])
def test_segments_of_a_stage(backend: str, reentrant: bool) -> None:
    fused = module("FusedStage").train()
    results = [
        step(
            made,
            inputs("FusedStage"),
            lambda x, made=made: checkpoint_sequential(made, 2, x, use_reentrant=reentrant),
        )
        for made in (fused, unfuse(fused))
    ]
    assert_same(*results)
