"""Batch norm over all ranks of a group: two processes compute what one does with both batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import resnet_cuda
from resnet_cuda import reference
from resnet_cuda.nn._fused_block import FusedBlock
from resnet_cuda.testing import emulated
from tests.networks import Pass, assert_same_pass, randomise, run_pass
from tests.ranks import Ranks

MODULES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "unit": ("ConvBNReLU", (16, 8, 3), {}),
    "bn": ("BNReLU", (16,), {}),
    "basic": ("BasicBlock", (16, 16), {}),
    "basic projection": ("BasicBlock", (16, 24, 2), {}),
    "bottleneck": ("Bottleneck", (32, 8), {}),
    "bottleneck projection": ("Bottleneck", (16, 8, 2), {}),
    "bottleneck option A": ("Bottleneck", (16, 8, 2), {"shortcut": "A"}),
}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    started = Ranks(tmp_path_factory.mktemp("ranks"))
    yield started
    started.stop()


@dataclass(frozen=True)
class Case:
    """A training pass of a module whose batch is split between two ranks."""

    module: str
    backend: str = "cpu"
    split: tuple[int, int] = (3, 1)
    dtype: torch.dtype = torch.float64
    memory: str = "save"
    closed_form: bool | None = None
    frozen: Sequence[str] = ()  # parameters without gradients
    constant: Sequence[str] = ()  # batch norms in eval mode

    def plain(self) -> nn.Module:
        """torch's modules, in float64 and training mode."""
        torch.manual_seed(1)
        cls, arguments, options = MODULES[self.module]
        module = randomise(getattr(reference, cls)(*arguments, **options)).double().train()
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in self.frozen)
        for name in self.constant:
            module.get_submodule(name).eval()
        return module

    def synchronised(self) -> nn.Module:
        """Ours, with the batch norms that torch converts."""
        module = resnet_cuda.fuse(nn.SyncBatchNorm.convert_sync_batchnorm(self.plain()))
        assert module.blocker() is None, f"the fused path is off: {module.blocker()}"
        if isinstance(module, FusedBlock):
            module.memory, module.closed_form = self.memory, self.closed_form
        return module.to(self.dtype)

    def images(self) -> Tensor:
        """Of both ranks, in channels_last memory, with a mean that is not zero."""
        torch.manual_seed(2)
        x = torch.randn(4, MODULES[self.module][1][0], 6, 5, dtype=torch.float64) + 2
        return x.to(self.dtype).to(memory_format=torch.channels_last)

    def served(self) -> AbstractContextManager[Any]:
        return emulated() if self.backend == "emulated" else resnet_cuda.use_backend(self.backend)


def train(rank: int, case: Case, module: nn.Module | None = None) -> Pass:
    """The rank's part of one pass; the gradient of the whole output is that of `run_pass`."""
    module = case.synchronised() if module is None else module
    x = case.images().split(case.split)[rank].detach().clone().requires_grad_()
    with case.served():
        output = module(x)
        whole = (sum(case.split), *output.shape[1:])
        generator = torch.Generator().manual_seed(7)
        dz = torch.randn(whole, generator=generator, dtype=torch.float64)
        output.backward(dz.to(output.dtype).split(case.split)[rank])
    grads = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return Pass(output.detach(), x.grad, grads, dict(module.named_buffers()))


def joined(parts: Sequence[Pass]) -> Pass:
    """One pass over both batches; every rank must have the same statistics, bit by bit."""
    for name, buffer in parts[0].buffers.items():
        assert torch.equal(buffer, parts[1].buffers[name]), f"{name} differs between the ranks"
    return Pass(
        torch.cat([part.output for part in parts]),
        torch.cat([part.input_grad for part in parts]),
        {name: sum(part.grads[name] for part in parts) for name in parts[0].grads},
        parts[0].buffers,
    )


def check(ranks: Ranks, case: Case) -> None:
    """Two processes give what plain torch gives in one."""
    ours = joined(ranks.run(train, case))
    exact = run_pass(case.plain(), case.images().double())
    if case.dtype == torch.float64:
        assert_same_pass(ours, exact)
    else:
        assert_same_pass(ours, run_pass(case.plain().to(case.dtype), case.images()), exact)


@pytest.mark.parametrize("split", [(3, 1), (4, 0), (0, 4)], ids=str)
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("backend", ["cpu", "emulated", "reference"])
def test_two_ranks_compute_what_one_process_does(
    ranks: Ranks, backend: str, module: str, split: tuple[int, int]
) -> None:
    check(ranks, Case(module, backend, split))


@pytest.mark.parametrize("split", [(3, 1), (4, 0)], ids=str)
@pytest.mark.parametrize("module", ["bottleneck", "bottleneck projection", "basic projection"])
@pytest.mark.parametrize("memory", ["save", "recompute"])
def test_closed_form_over_two_ranks(
    ranks: Ranks, memory: str, module: str, split: tuple[int, int]
) -> None:
    check(ranks, Case(module, "emulated", split, memory=memory, closed_form=True))
