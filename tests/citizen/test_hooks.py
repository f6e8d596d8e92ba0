"""Hooks on fused modules, their children and parameters run, and see and change what they would in plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resnet_cuda import unfuse
from tests.citizen.calls import MODULES, assert_same, assert_same_bits, inputs, module, step


class Seen(dict[str, Tensor]):
    """What hooks were given, by module, hook and number."""

    def note(self, where: str, given: Any) -> None:
        for i, tensor in enumerate([given] if isinstance(given, Tensor) else given):
            if tensor is not None:
                self[f"{where} {i}"] = tensor.detach().clone()


def watch(target: nn.Module, name: str, seen: Seen) -> None:
    """Every kind of hook on the module."""
    target.register_forward_pre_hook(lambda _, args: seen.note(f"{name} input", args))
    target.register_forward_hook(lambda _, args, out: seen.note(f"{name} output", out))
    target.register_full_backward_pre_hook(
        lambda _, out: seen.note(f"{name} output's gradient", out)
    )
    target.register_full_backward_hook(
        lambda _, given, out: seen.note(f"{name} input's gradient", given)
    )


@pytest.mark.parametrize("name", MODULES)
def test_hooks_on_a_module_see_what_plain_torchs_see(backend: str, name: str) -> None:
    fused = module(name).train()
    results, kinds = [], []
    for made in (fused, unfuse(fused)):
        seen = Seen()
        watch(made, "module", seen)
        results.append({**step(made, inputs(name)), **seen})
        kinds.append({key.rpartition(" ")[0] for key in seen})
    assert len(kinds[1]) == 4, f"of four hooks only {kinds[1]} ran"
    assert_same(*results)
    assert getattr(fused, "blocker", lambda: None)() is None, "a hook on it ended fusion"


@pytest.mark.parametrize("name", MODULES)
def test_hooks_on_a_module_change_what_plain_torchs_change(backend: str, name: str) -> None:
    fused = module(name).train()
    results = []
    for made in (fused, unfuse(fused)):
        made.register_forward_pre_hook(lambda _, args: tuple(1.5 * x for x in args))
        made.register_forward_hook(lambda _, args, out: out * 0.5)
        made.register_full_backward_pre_hook(lambda _, out: (out[0] * 3,))
        made.register_full_backward_hook(lambda _, given, out: tuple(2 * g for g in given))
        results.append(step(made, inputs(name)))
    assert_same(*results)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "AddReLU"])
def test_hooks_on_every_child_run(backend: str, name: str) -> None:
    fused = module(name).train()
    results = []
    for made in (fused, unfuse(fused)):
        seen = Seen()
        for path, child in made.named_modules():
            # A plain ReLU works in place, which torch does not let a backward hook watch.
            if isinstance(child, nn.ReLU):
                child.inplace = False
            if path:
                watch(child, path, seen)
        results.append({**step(made, inputs(name)), **seen})
        assert seen, "no hook ran"
    assert_same(*results)


@pytest.mark.parametrize("name", MODULES)
def test_hooks_on_parameters_run_once_with_the_gradient(backend: str, name: str) -> None:
    made = module(name)
    expected = step(made, inputs(name))
    seen, accumulated = Seen(), []
    for key, parameter in made.named_parameters():
        parameter.register_hook(lambda g, key=key: seen.note(f"gradient of {key}", g))
        parameter.register_post_accumulate_grad_hook(lambda p: accumulated.append(p))
    step(made, inputs(name))
    assert len(accumulated) == len(list(made.parameters())), "not once for every parameter"
    for key, gradient in seen.items():
        assert torch.equal(gradient, expected[key.removesuffix(" 0")]), key
    assert len(seen) == len(accumulated)


@pytest.mark.parametrize("name", MODULES)
def test_saved_tensors_may_be_packed(backend: str, name: str) -> None:
    """As for offloading: torch.autograd.graph.save_on_cpu and its kind."""
    made = module(name)
    start = {key: value.clone() for key, value in made.state_dict().items()}
    expected = step(made, inputs(name))
    made.load_state_dict(start)
    packed: list[int] = []

    def pack(tensor: Tensor) -> tuple[Tensor]:
        packed.append(tensor.numel())
        return (tensor.clone(),)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held[0]):
        found = step(made, inputs(name))
    assert packed, "nothing was saved where hooks see it"
    assert_same_bits(found, expected)
