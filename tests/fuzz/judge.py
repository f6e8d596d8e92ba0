"""The tolerance rule on one call of an op: its outputs, gradients and running statistics against fp64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from resnet_cuda import ops, reference, testing

Function = Callable[..., Any]
KINDS = ("output", "gradient", "running statistic")


def judge(
    backend: AbstractContextManager,
    seeds: Sequence[int],
    inputs: Callable[[], dict[str, Tensor]],
    call: Function,
    *,
    preactivation: Function | None = None,
    gradient: Function | None = None,
    differentiated: Sequence[str] = (),
    buffers: Sequence[str] = (),
    onednn: bool = True,
) -> None:
    """Raises AssertionError unless `call(ops, **inputs)` obeys the rule of `resnet_cuda.testing`, over the data of all
    seeds taken together; float64 must agree to 1e-9.

    Args:
        backend: where the op runs, a context.
        seeds: of what `inputs()` draws.
        call: `call(module, **inputs)` with `ops` or `reference` as the module -> a tensor, or several.
        preactivation: what the call's ReLU reads, in the same way; where that is nearly 0, no gradient arrives.
        gradient: `gradient(**inputs)` -> that of the first output. None: nothing is differentiated.
        differentiated, buffers: the inputs whose gradients, and whose values after the call, are compared.
        onednn: whether torch's convolutions may use it.
    """

    def run(module: ModuleType, seed: int, wide: bool) -> tuple[Sequence[Any], ...]:
        torch.manual_seed(seed)
        given = {name: t.double() if wide else t for name, t in inputs().items()}
        exact = {name: t.double() for name, t in given.items()}
        for name in differentiated:
            given[name].requires_grad_()
        with torch.set_grad_enabled(gradient is not None):
            result = call(module, **given)
        outputs = result if isinstance(result, tuple) else (result,)
        if gradient is not None:
            dz = gradient(**given)
            if preactivation is not None and dz.dtype != torch.float64:
                away = testing.away_from_gate(dz, preactivation(reference, **exact))
                dz = dz if torch.equal(away, dz) else away  # as it is, with its strides
            torch.autograd.backward(outputs[0], dz)
        gradients = [given[name].grad for name in differentiated]
        return outputs, gradients, [given[name] for name in buffers]

    with nullcontext() if onednn else torch.backends.mkldnn.flags(enabled=False):
        with backend:
            ours = [run(ops, seed, wide=False) for seed in seeds]
        theirs = [run(reference, seed, wide=False) for seed in seeds]
        exact = [run(reference, seed, wide=True) for seed in seeds]
    for kind, what in enumerate(KINDS):
        for i in range(len(exact[0][kind])):
            name = (
                f"{what} {i}"
                if kind == 0
                else f"{what} of {(differentiated, buffers)[kind - 1][i]}"
            )
            compare(
                name, kind, *([result[kind][i] for result in of] for of in (ours, theirs, exact))
            )


def compare(name: str, kind: int, ours: list, theirs: list, exact: list) -> None:
    """One result of all seeds."""
    for actual, expected in zip(ours, theirs, strict=True):
        assert (actual is None) == (expected is None), f"{name} is {actual}, torch's is {expected}"
        assert actual is None or (actual.dtype, actual.shape) == (expected.dtype, expected.shape), (
            f"{name} is {actual.dtype} {list(actual.shape)}, torch's {expected.dtype} {list(expected.shape)}"
        )
    if ours[0] is None:
        return
    a, b, c = (torch.stack([t.detach() for t in of]) for of in (ours, theirs, exact))
    if a.dtype == torch.float64:
        torch.testing.assert_close(a, c, rtol=1e-9, atol=1e-9, msg=lambda m: f"{name}: {m}")
    elif KINDS[kind] == "gradient":
        testing.check_gradient_rule(a, b, c, name=name)
    else:
        testing.check_rule(a, b, c, name=name)
