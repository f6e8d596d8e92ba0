"""Copies, pickles and files of every fused module: fused, of the same bits, and with memory of their own."""

from __future__ import annotations

import copy
import importlib
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from resnet_cuda.nn._fused_block import FusedBlock
from tests.citizen.calls import MODULES, assert_same_bits, inputs, module, step


def saved(value: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return buffer


def pickled(made: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(made))


def saved_whole(made: nn.Module) -> nn.Module:
    return torch.load(saved(made), weights_only=False)


COPIES: list[Callable[[nn.Module], nn.Module]] = [copy.deepcopy, pickled, saved_whole]


def used(name: str) -> nn.Module:
    """A module that was trained for a step and has inferred, with everything that is kept for the next time."""
    made = module(name).train()
    if isinstance(made, FusedBlock):
        made.memory, made.closed_form = "recompute", False
    step(made, inputs(name))
    with torch.no_grad():
        made.eval()(*inputs(name))
    return made


@pytest.mark.parametrize("copied", COPIES, ids=lambda copied: copied.__name__)
@pytest.mark.parametrize("name", MODULES)
def test_copies_are_fused_and_independent(
    name: str, copied: Callable[[nn.Module], nn.Module]
) -> None:
    made = used(name)
    twin = copied(made)
    assert [type(m) for m in twin.modules()] == [type(m) for m in made.modules()]
    assert getattr(twin, "blocker", lambda: None)() is None, "the copy does not run fused"
    assert [m.training for m in twin.modules()] == [m.training for m in made.modules()]
    if isinstance(made, FusedBlock):
        assert (twin.memory, twin.closed_form) == ("recompute", False)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    with torch.no_grad():
        assert torch.equal(twin(*inputs(name)), made(*inputs(name)))
    step(twin.train(), inputs(name))
    assert_same_bits(made.state_dict(), before)
    assert_same_bits(step(copied(made).train(), inputs(name)), step(made.train(), inputs(name)))


@pytest.mark.parametrize("name", MODULES)
def test_state_dicts_load_with_weights_only(name: str) -> None:
    made, other = used(name), module(name)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(torch.load(saved(made.state_dict()), weights_only=True), strict=True)
    assert_same_bits(step(other.train(), inputs(name)), step(made.train(), inputs(name)))


def named(path: str) -> Any:
    """What a pickle calls by a dotted name."""
    parent, _, name = path.rpartition(".")
    return getattr(importlib.import_module(parent), name)


@pytest.mark.parametrize("name", MODULES)
def test_whole_modules_load_with_weights_only_where_their_classes_are_allowed(name: str) -> None:
    """By what torch names, and, for classes that `fuse` makes of other packages', by the classes themselves."""
    made = used(name)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        torch.load(saved(made), weights_only=True)
    allowed = {named(path) for path in get_unsafe_globals_in_checkpoint(saved(made))}
    allowed |= {type(m) for m in made.modules()}
    with safe_globals(list(allowed)):
        twin = torch.load(saved(made), weights_only=True)
    assert type(twin) is type(made)
    assert_same_bits(step(twin.train(), inputs(name)), step(made.train(), inputs(name)))
