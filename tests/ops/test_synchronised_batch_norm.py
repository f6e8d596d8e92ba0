"""Batch norm over all ranks of a group: two processes compute what one does with both batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import resnet_cuda
from resnet_cuda import ops, reference
from resnet_cuda.nn._fused_block import FusedBlock
from resnet_cuda.testing import emulated
from tests.networks import (
    Pass,
    assert_close,
    assert_rule_over_inputs,
    assert_same_pass,
    randomise,
    run_pass,
)
from tests.ranks import Ranks

MODULES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "unit": ("ConvBNReLU", (16, 8, 3), {}),
    "bn": ("BNReLU", (16,), {}),
    "basic": ("BasicBlock", (16, 16), {}),
    "basic projection": ("BasicBlock", (16, 24, 2), {}),
    "bottleneck": ("Bottleneck", (32, 8), {}),
    "bottleneck projection": ("Bottleneck", (16, 8, 2), {}),
    "bottleneck option A": ("Bottleneck", (16, 8, 2), {"shortcut": "A"}),
    "pre-activated": ("PreActBottleneck", (16, 4), {}),
    "pre-activated projection": ("WideBasicBlock", (8, 16, 2), {}),
}
# torch 2.13 renamed it.
GATHER = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"


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
    mean: float = 2  # of the images, whose deviation is 1
    seed: int = 2  # of the images

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
        """Of both ranks, in channels_last memory."""
        torch.manual_seed(self.seed)
        x = torch.randn(4, MODULES[self.module][1][0], 6, 5, dtype=torch.float64) + self.mean
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
    if case.dtype == torch.float64:
        exact = run_pass(case.plain(), case.images().double())
        assert_same_pass(joined(ranks.run(train, case)), exact)
        return
    cases = [replace(case, seed=seed) for seed in range(2, 8)]
    assert_rule_over_inputs(
        [joined(ranks.run(train, each)) for each in cases],
        [run_pass(each.plain().to(each.dtype), each.images()) for each in cases],
        [run_pass(each.plain(), each.images().double()) for each in cases],
    )


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
    # From eight deviations on, a projection shifts its input by the images' mean: by that of all ranks.
    check(ranks, Case(module, "emulated", split, memory=memory, closed_form=True, mean=20))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("module", [name for name in MODULES if "pre-activated" not in name])
@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_two_ranks_keep_the_tolerance_rule(
    ranks: Ranks, backend: str, module: str, dtype: torch.dtype
) -> None:
    """Pre-activation blocks, most of whose ReLUs a rounding may decide, are judged over several inputs in tests/nn."""
    check(ranks, Case(module, backend, dtype=dtype))


@pytest.mark.parametrize("closed_form", [False, True])
@pytest.mark.parametrize("module", ["bottleneck projection", "bottleneck"])
def test_a_ranks_gradients_are_those_that_autograd_gives_it(
    ranks: Ranks, module: str, closed_form: bool
) -> None:
    case = Case(module, "emulated", closed_form=closed_form, mean=20)
    ours, theirs = ranks.run(train, case), ranks.run(train, replace(case, backend="reference"))
    for rank in range(2):
        for name, gradient in theirs[rank].grads.items():
            assert_close(ours[rank].grads[name], gradient, f"{name} of rank {rank}")


@pytest.mark.parametrize("split", [(3, 1), (4, 0)], ids=str)
@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_frozen_parameters_and_constant_statistics(
    ranks: Ranks, backend: str, split: tuple[int, int]
) -> None:
    frozen = ("conv1.weight", "bn1.weight", "bn1.bias", "conv3.weight")
    check(ranks, Case("bottleneck projection", backend, split, frozen=frozen, constant=("bn1",)))


def train_synchronising_one(rank: int, case: Case) -> Pass:
    module = resnet_cuda.fuse(case.plain())
    module.bn2 = nn.SyncBatchNorm.convert_sync_batchnorm(module.bn2)
    return train(rank, case, module)


@pytest.mark.parametrize("closed_form", [False, True])
@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_one_synchronised_batch_norm_among_others(
    ranks: Ranks, backend: str, closed_form: bool
) -> None:
    case = Case("bottleneck projection", backend, (4, 0), closed_form=closed_form)
    first, second = ranks.run(train_synchronising_one, case)
    assert_same_pass(first, run_pass(case.plain(), case.images()))
    for name, gradient in second.grads.items():
        assert torch.equal(gradient, torch.zeros_like(gradient)), f"{name} of the empty rank"
    untouched = dict(case.plain().named_buffers())
    for name in ("bn1.running_mean", "bn1.running_var", "bn3.running_var"):
        assert torch.equal(second.buffers[name], untouched[name]), f"{name} moved without images"


def without_synchronisation(rank: int, case: Case) -> Pass:
    return train(rank, case, resnet_cuda.fuse(case.plain()))


def test_without_the_group_the_ranks_differ(ranks: Ranks) -> None:
    with pytest.raises(AssertionError, match="differs between the ranks"):
        joined(ranks.run(without_synchronisation, Case("bottleneck")))


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_every_run_gives_the_same_bits(ranks: Ranks, backend: str) -> None:
    case = Case("bottleneck projection", backend, dtype=torch.bfloat16)
    for first, second in zip(ranks.run(train, case), ranks.run(train, case), strict=True):
        assert torch.equal(first.output, second.output), "the outputs differ"
        assert torch.equal(first.input_grad, second.input_grad), "the gradients of the input differ"
        for name, gradient in first.grads.items():
            assert torch.equal(gradient, second.grads[name]), f"the gradients of {name} differ"


def what_travels(rank: int, case: Case) -> list[tuple[str, int]]:
    """(collective, bytes of one rank) in the order of the calls."""
    noted: list[tuple[str, int]] = []

    def gather(every: Tensor, own: Tensor, group: Any) -> None:
        noted.append(("all_gather", own.nbytes))
        all_gather(every, own, group=group)

    def reduce(own: Tensor, group: Any) -> None:
        noted.append(("all_reduce", own.nbytes))
        all_reduce(own, group=group)

    all_gather, all_reduce = getattr(dist, GATHER), dist.all_reduce
    patched = {GATHER: gather, "all_reduce": reduce}
    with mock.patch.multiple(dist, **patched), NothingIsReadBack():
        train(rank, case)
    return noted


class NothingIsReadBack(TorchDispatchMode):
    """On a GPU the host would wait for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a tensor was read back"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("split", [(3, 1), (0, 4)], ids=str)
def test_vectors_and_gram_matrices_travel_and_nothing_is_read_back(
    ranks: Ranks, split: tuple[int, int]
) -> None:
    # 16 -> 8, 8 -> 8, 8 -> 32 channels, the last and the projection (16 -> 32) in closed form.
    case = Case("bottleneck projection", "emulated", split, closed_form=True)
    forward = [
        *[("all_gather", 8 * (2 * 8 + 1))] * 2,
        ("all_reduce", 8 * (8 * 8 + 8 + 1)),
        ("all_gather", 8 * (2 * 16 + 1)),
        ("all_reduce", 8 * (16 * 16 + 16 + 1)),
    ]
    backward = [("all_reduce", 8 * (2 * k + 1)) for k in (32, 32, 8, 8)]
    for rank, noted in enumerate(ranks.run(what_travels, case)):
        assert noted == forward + backward, f"rank {rank}"
    for rank, noted in enumerate(ranks.run(what_travels, replace(case, memory="recompute"))):
        assert noted == forward + forward + backward, f"rank {rank}"


def evaluate(rank: int, case: Case) -> tuple[Tensor, Tensor]:
    module = case.synchronised().eval()
    refused = mock.Mock(side_effect=AssertionError("a collective in eval mode"))
    with case.served(), mock.patch.multiple(dist, **{GATHER: refused, "all_reduce": refused}):
        with torch.no_grad():
            inferred = module(case.images())
        differentiated = module(case.images())
        differentiated.sum().backward()
    return inferred, differentiated.detach()


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_eval_mode_asks_no_other_rank(ranks: Ranks, backend: str) -> None:
    case = Case("bottleneck projection", backend)
    wanted = case.plain().eval()(case.images())
    for outputs in ranks.run(evaluate, case):
        for output in outputs:
            assert_close(output, wanted, "output")


def penalised(rank: int | None, case: Case) -> list[Tensor]:
    """The gradients of |dL/dx|^2: of the rank's part, or of the whole where rank is None."""
    module = case.plain() if rank is None else case.synchronised()
    x = case.images() if rank is None else case.images().split(case.split)[rank]
    x = x.detach().clone().requires_grad_()
    with case.served():
        loss = module(x).square().sum()
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        return list(torch.autograd.grad(slope.square().sum(), [x, *module.parameters()]))


@pytest.mark.parametrize("split", [(3, 1), (4, 0)], ids=str)
@pytest.mark.parametrize("module", ["bn", "bottleneck projection"])
@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_second_derivatives_over_two_ranks(
    ranks: Ranks, backend: str, module: str, split: tuple[int, int]
) -> None:
    case = Case(module, backend, split)
    (x, *parameters), parts = penalised(None, case), ranks.run(penalised, case)
    assert_close(torch.cat([part[0] for part in parts]), x, "gradient of the input")
    for i, wanted in enumerate(parameters, 1):
        assert_close(parts[0][i] + parts[1][i], wanted, f"gradient of parameter {i - 1}")


def train_compiled(rank: int, case: Case, compiler: str) -> Pass:
    module = case.synchronised()
    torch.compiler.reset()
    module.compile(backend=compiler, fullgraph=sum(case.split) > max(case.split))
    return train(rank, case, module)


def check_compiled(ranks: Ranks, case: Case, compiler: str = "aot_eager") -> tuple[Pass, Pass]:
    compiled, eager = (
        joined(ranks.run(train_compiled, case, compiler)),
        joined(ranks.run(train, case)),
    )
    assert_same_pass(compiled, eager)
    return compiled, eager


@pytest.mark.parametrize(
    ("module", "closed_form", "memory"),
    [
        ("bottleneck projection", True, "recompute"),
        ("pre-activated projection", None, "save"),
    ],
)
def test_on_our_kernels_torch_compile_makes_one_graph_with_the_bits_of_eager(
    ranks: Ranks, module: str, closed_form: bool | None, memory: str
) -> None:
    case = Case(module, "emulated", closed_form=closed_form, memory=memory)
    compiled, eager = check_compiled(ranks, case)
    assert torch.equal(compiled.output, eager.output), "the outputs differ"
    assert torch.equal(compiled.input_grad, eager.input_grad), "the input's gradients differ"
    for name, buffer in eager.buffers.items():
        assert torch.equal(compiled.buffers[name], buffer), f"{name} differs"


def test_on_the_cpu_backend_torch_compile_makes_one_graph(ranks: Ranks) -> None:
    check_compiled(ranks, Case("unit"))


def test_inductor_compiles_the_collectives(ranks: Ranks) -> None:
    check_compiled(ranks, Case("bn", "emulated"), "inductor")


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_a_compiled_rank_without_images_takes_part(ranks: Ranks, backend: str) -> None:
    """On our kernels that rank's call is a graph break, and meets the other rank's graph in every collective."""
    check_compiled(ranks, Case("bottleneck projection", backend, (4, 0), closed_form=True))


def network() -> nn.Module:
    torch.manual_seed(3)
    return resnet_cuda.fuse(
        nn.Sequential(
            reference.ConvBNReLU(3, 16, 3),
            reference.BasicBlock(16, 16),
            reference.Bottleneck(16, 8, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 5),
        ).to(torch.float64, memory_format=torch.channels_last)
    )


def steps(model: nn.Module, images: Tensor, share: float) -> dict[str, Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        # DDP averages the ranks' gradients: their losses are so much more than shares of the whole.
        (model(images).square().sum() * share).backward()
        optimizer.step()
    return model.state_dict()


def steps_in_ddp(rank: int, images: Tensor, split: tuple[int, int]) -> dict[str, Tensor]:
    # On a CPU, DDP itself refuses SyncBatchNorm when it is made.
    model = nn.parallel.DistributedDataParallel(network())
    model.module = nn.SyncBatchNorm.convert_sync_batchnorm(model.module)
    with emulated():
        state = steps(model, images.split(split)[rank], 2.0)
    return {name.removeprefix("module."): value for name, value in state.items()}


@pytest.mark.parametrize("split", [(3, 1), (4, 0)], ids=str)
def test_a_network_in_ddp_learns_as_in_one_process(ranks: Ranks, split: tuple[int, int]) -> None:
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    wanted = steps(network(), images, 1.0)
    for rank, state in enumerate(ranks.run(steps_in_ddp, images, split)):
        for name, value in wanted.items():
            assert_close(state[name], value, f"{name} of rank {rank}")


def train_on_nothing(rank: int, case: Case) -> Pass:
    with mock.patch.object(Case, "images", lambda _: torch.empty(0, 16, 6, 5, dtype=case.dtype)):
        return train(rank, case)


@pytest.mark.parametrize("closed_form", [False, True])
@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_a_batch_without_any_image_changes_nothing(
    ranks: Ranks, backend: str, closed_form: bool
) -> None:
    case = Case("bottleneck projection", backend, (0, 0), closed_form=closed_form)
    before = dict(case.plain().named_buffers())
    for part in ranks.run(train_on_nothing, case):
        assert part.input_grad.shape == (0, 16, 6, 5)
        for name, gradient in part.grads.items():
            assert torch.equal(gradient, torch.zeros_like(gradient)), f"gradient of {name}"
        for name, buffer in part.buffers.items():
            if buffer.is_floating_point():
                assert torch.equal(buffer, before[name]), f"{name} moved"


def call_with_group(rank: int, kind: str) -> Any:
    x = torch.full((1, 8, 1, 1), float(rank), dtype=torch.float64)
    vectors = [torch.ones(8, dtype=torch.float64) for _ in range(4)]
    group: Any = {"world": dist.group.WORLD, "name": "world", "none": None}.get(kind)
    if kind == "one each":  # a rank gets its own group and, for the other's, a stand-in
        groups = [dist.new_group([0]), dist.new_group([1])]
        group = groups[0]
    try:
        return ops.bn_relu(x, *vectors, training=True, relu=False, process_group=group)
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def test_one_value_per_rank_is_enough(ranks: Ranks) -> None:
    low, high = ranks.run(call_with_group, "world")  # of the values 0 and 1
    assert_close(high - 1, torch.full_like(high, 0.5 / (0.25 + 1e-5) ** 0.5), "output")
    assert_close(low + high, torch.full_like(high, 2.0), "sum of the outputs")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("name", "TypeError: process_group is a str; accepted: a torch.distributed.ProcessGroup"),
        ("none", "ValueError: Expected more than 1 value per channel"),
        ("one each", "ValueError: Expected more than 1 value per channel"),
    ],
)
def test_groups_that_do_not_synchronise(ranks: Ranks, kind: str, message: str) -> None:
    for answer in ranks.run(call_with_group, kind):
        assert isinstance(answer, str) and answer.startswith(message), answer


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_without_torch_distributed_it_is_a_plain_batch_norm(backend: str) -> None:
    assert not dist.is_initialized()
    case = Case("bottleneck projection", backend)
    with case.served():
        ours = run_pass(case.synchronised(), case.images())
    assert_same_pass(ours, run_pass(case.plain(), case.images()))


def explained(rank: int, case: Case) -> tuple[str, str]:
    """By rank 0 alone, of a model with a group of its own; of an op."""
    group = dist.new_group([0, 1])
    module = nn.SyncBatchNorm.convert_sync_batchnorm(case.plain(), group)
    module = resnet_cuda.fuse(module)
    assert module.bn1.process_group is group, "the copy belongs to another group"
    if rank > 0:
        return "", ""
    of_module = str(resnet_cuda.explain(module, case.images()))
    weight, vector = torch.ones(8, 16, 1, 1), torch.ones(8)
    with_group = {"training": True, "process_group": group}
    vectors = [vector] * 4
    of_op = resnet_cuda.explain(
        ops.bottleneck_reduce, case.images().float(), weight, *vectors, **with_group
    )
    return of_module, str(of_op)


def test_explain_names_the_ranks_and_asks_none_of_them(ranks: Ranks) -> None:
    (of_module, of_op), _ = ranks.run(explained, Case("bottleneck projection"))
    for report in (of_module, of_op):
        assert "over 2 ranks" in report, report


def test_converting_before_and_after_fusing_is_the_same() -> None:
    plain = network()
    before = resnet_cuda.fuse(nn.SyncBatchNorm.convert_sync_batchnorm(resnet_cuda.unfuse(plain)))
    after = nn.SyncBatchNorm.convert_sync_batchnorm(plain)
    for (path, a), (_, b) in zip(before.named_modules(), after.named_modules(), strict=True):
        assert type(a) is type(b), f"{path} is a {type(a).__name__} and a {type(b).__name__}"
    report = resnet_cuda.fuse_report(after)
    assert not [entry for entry in report.left if "Batch" in entry.kind], report
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in after.modules()) == 7
