"""Stage `safety`: what ops must respect beside their results. Streams, devices, graphs, threads, memory, errors."""

from __future__ import annotations

import copy
import importlib.util
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import resnet_cuda
from benchmarks.hardware.affected import OPS_OF_NETWORKS
from benchmarks.hardware.correctness import op_of, random_grad, same_twice, wanted
from benchmarks.hardware.gpu import DryGpu, Gpu
from benchmarks.hardware.protocol import Check, Skip
from resnet_cuda.bench.device import open_device
from resnet_cuda.cli._check_cases import Case, cases

if TYPE_CHECKING:
    from benchmarks.hardware.child import Context

_DTYPE = torch.float32
_CALLS, _DRY_CALLS = 100, 3
_STEPS = 3
_IMAGES, _PIXELS, _CLASSES = 8, 32, 10
_PLANES, _DRY_PLANES = (64, 128, 256, 512), (4, 8, 8, 16)


class Call(NamedTuple):
    """An op's forward and backward on inputs that stay where they are, so that new values can be copied in."""

    case: Case
    inputs: list[Tensor]
    grad_output: Tensor
    start: list[Tensor]  # the inputs' values at the start: training moves the running statistics

    def run(self) -> list[Tensor]:
        """[output, gradient of each differentiable input]."""
        output = self.case.fused(*self.inputs)
        differentiable = [t for t in self.inputs if t.requires_grad]
        if not differentiable:
            return [output]
        return [output, *torch.autograd.grad(output, differentiable, self.grad_output)]

    @torch.no_grad()
    def fill(self, factor: float) -> None:
        """Gives the inputs their first values times `factor`; the running statistics are reset."""
        for tensor, value in zip(self.inputs, self.start, strict=True):
            tensor.copy_(value * factor if tensor.requires_grad else value)

    def expected(self, factor: float) -> list[Tensor]:
        """What `run` gives for such inputs, computed by itself."""
        self.fill(factor)
        return [t.detach().clone() for t in self.run()]


def prepare(case: Case) -> Call:
    inputs = [t.detach().clone().requires_grad_(t.requires_grad) for t in case.inputs]
    with torch.no_grad():
        output = case.fused(*(t.detach().clone() for t in inputs))
    return Call(case, inputs, random_grad(output), [t.detach().clone() for t in inputs])


def run(context: Context) -> int:
    device = open_device(context.device)
    gpu = DryGpu(device) if context.dry else Gpu(device)
    with context.backend():
        return context.run_checks(checks(context, gpu))


def checks(context: Context, gpu: Gpu) -> Iterator[Check]:
    per_op: list[tuple[str, Callable[[Gpu, Case], str | None]]] = [
        ("current stream", follows_the_current_stream),
        ("another device", runs_on_another_device),
        ("graph", is_captured),
        ("no host synchronisation", does_not_synchronise),
        ("no allocation growth", partial(does_not_grow, _DRY_CALLS if context.dry else _CALLS)),
        ("autograd in another thread", runs_in_another_thread),
        ("same bits again", lambda gpu, case: same_twice(case)),
    ]
    for name, function in per_op:
        for case in wanted(context, one_case_each(context.tensors)):
            yield Check(f"{name}: {case.name}", partial(function, gpu, case))
    for case in wanted(context, one_case_each(context.tensors)):
        yield Check(f"after an error: {case.name}", partial(survives_an_error, gpu, case))
    if context.ops is None or context.ops & OPS_OF_NETWORKS:
        planes = _DRY_PLANES if context.dry else _PLANES
        yield Check("graph: training step of resnet18", partial(captures_training, gpu, planes))
        yield Check(
            "current stream: training step of resnet18", partial(trains_beside, gpu, planes)
        )
        yield Check("reduce-overhead: a block", partial(is_compiled_into_graphs, gpu))


def one_case_each(device: str) -> Iterator[Case]:
    """Every op, in training and inference where it has both; of the convolutions the 3x3 and the grouped one."""
    for case in cases(_DTYPE, device):
        if op_of(case) != "conv_bn_relu" or "3x3," in case.name or "grouped" in case.name:
            yield case


def assert_same(found: list[Tensor], expected: list[Tensor], what: str) -> None:
    names = ["output"] + [f"gradient {i}" for i in range(len(expected) - 1)]
    differing = [n for n, a, b in zip(names, found, expected, strict=True) if not torch.equal(a, b)]
    assert not differing, f"{what}: {', '.join(differing)} differ"


def follows_the_current_stream(gpu: Gpu, case: Case) -> None:
    """On a busy side stream the op must come after what is queued there, and must not wait for it on the host."""
    call = prepare(case)
    expected = call.expected(0.5)
    stream = gpu.side_stream()
    with gpu.on(stream):
        call.run()  # what it allocates, the stream has from now on
    call.fill(1.0)
    gpu.synchronize()
    with gpu.on(stream):
        gpu.delay()
        call.fill(0.5)
        found = call.run()
        assert gpu.is_busy(stream), "the call came back when the stream was idle: it waits for it"
    gpu.synchronize()
    assert_same(found, expected, "the op did not wait for its stream's earlier work")


def runs_on_another_device(gpu: Gpu, case: Case) -> None:
    if gpu.count() < 2:
        raise Skip("one GPU")
    call = prepare(case)
    expected = call.expected(1.0)
    second = gpu.second
    moved = [t.detach().to(second).requires_grad_(t.requires_grad) for t in case.inputs]
    there = Call(case, moved, call.grad_output.to(second), [])
    found = [t.to(gpu.tensors) for t in there.run()]
    assert_same(found, expected, "on the second GPU while the first is current")


def is_captured(gpu: Gpu, case: Case) -> None:
    """Forward and backward replayed on inputs that the capture has not seen."""
    call = prepare(case)
    replay = gpu.graph(call.run)
    filled: list[Tensor] = replay()
    for factor in (0.5, 2.0):
        expected = call.expected(factor)
        call.fill(factor)
        for tensor in filled:
            tensor.detach().fill_(float("nan"))
        filled = replay()
        gpu.synchronize()
        assert_same(filled, expected, f"replayed on inputs times {factor}")


def does_not_synchronise(gpu: Gpu, case: Case) -> None:
    call = prepare(case)
    call.run()
    with gpu.no_synchronization():
        call.run()


def does_not_grow(calls: int, gpu: Gpu, case: Case) -> str:
    call = prepare(case)
    call.run()
    before = gpu.allocated()
    for _ in range(calls):
        call.run()
    growth = gpu.allocated() - before
    assert growth == 0, f"{calls} calls left {growth} bytes allocated"
    return f"{calls} calls"


def runs_in_another_thread(gpu: Gpu, case: Case) -> None:
    call = prepare(case)
    expected = call.expected(1.0)
    call.fill(1.0)
    found: list[list[Tensor]] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            found.append(call.run())
        except BaseException as error:  # to be raised where the check is
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    gpu.synchronize()
    assert_same(found[0], expected, "in another thread")


def survives_an_error(gpu: Gpu, case: Case) -> str:
    """A bad call raises, and the next one works."""
    call = prepare(case)
    expected = call.expected(1.0)
    call.fill(1.0)
    x, *rest = call.inputs
    try:
        case.fused(x.detach().flatten(), *rest)
    except (ValueError, TypeError, RuntimeError) as error:
        message = type(error).__name__
    else:
        raise AssertionError("a one-dimensional x was accepted")
    assert_same(call.run(), expected, "after an error")
    gpu.synchronize()
    return message


# ---------------------------------------------------------------- a whole network


class Trainer(NamedTuple):
    """A fused ResNet-18 with its optimiser and a batch that stays where it is."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    images: Tensor
    labels: Tensor

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self.model(self.images), self.labels).backward()
        self.optimizer.step()

    def state(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.model.state_dict().items() if v.is_floating_point()}

    def twin(self) -> Trainer:
        model = copy.deepcopy(self.model)
        optimizer = new_optimizer(model)
        optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        return Trainer(model, optimizer, self.images.clone(), self.labels.clone())


def new_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def new_trainer(device: torch.device, planes: Sequence[int]) -> Trainer:
    torch.manual_seed(0)
    model = resnet_cuda.models.resnet18(num_classes=_CLASSES, planes=planes).train()
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = batches(device, 1)[0]
    return Trainer(model, new_optimizer(model), images, labels)


def batches(device: torch.device, count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)

    def batch() -> tuple[Tensor, Tensor]:
        images = torch.randn(_IMAGES, 3, _PIXELS, _PIXELS, generator=generator)
        labels = torch.randint(_CLASSES, (_IMAGES,), generator=generator)
        images = images.to(device).contiguous(memory_format=torch.channels_last)
        return images, labels.to(device)

    return [batch() for _ in range(count)]


def captures_training(gpu: Gpu, planes: Sequence[int]) -> str:
    """Replays of a captured step train as steps do, on batches that the capture has not seen."""
    captured = new_trainer(gpu.tensors, planes)
    captured.step()
    replay = gpu.graph(captured.step)
    plain = captured.twin()
    for images, labels in batches(gpu.tensors, 1 + _STEPS)[1:]:
        for trainer, step in ((captured, replay), (plain, plain.step)):
            trainer.images.copy_(images)
            trainer.labels.copy_(labels)
            step()
    gpu.synchronize()
    return agreement(captured, plain, "replayed")


def is_compiled_into_graphs(gpu: Gpu) -> str:
    """torch.compile's own CUDA graphs, forward and backward, on values that they were not captured with."""
    if not gpu.has_graphs:
        raise Skip("mode='reduce-overhead' needs CUDA graphs")
    if importlib.util.find_spec("triton") is None:
        raise Skip("torch.compile needs triton on a GPU, which is not installed")
    torch.manual_seed(0)
    block = resnet_cuda.nn.BasicBlock(64, 64).to(gpu.tensors, memory_format=torch.channels_last)  # type: ignore[call-overload]
    compiled = torch.compile(copy.deepcopy(block), mode="reduce-overhead")
    for _ in range(1 + _STEPS):  # warmed up, captured, replayed
        x = torch.randn(_IMAGES, 64, _PIXELS, _PIXELS, device=gpu.tensors)
        x = x.contiguous(memory_format=torch.channels_last)
        found, plain = (trained_once(module, x) for module in (compiled, block))
    gpu.synchronize()
    names = ["output", "gradient of x", *(name for name, _ in block.named_parameters())]
    for name, a, b in zip(names, found, plain, strict=True):
        torch.testing.assert_close(
            a, b, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    return f"{_STEPS} replays"


def trained_once(module: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """The output, the gradients of x and of the parameters: copies, since a replay overwrites its results."""
    x = x.detach().requires_grad_()
    torch.compiler.cudagraph_mark_step_begin()
    z = module(x)
    inputs = [x, *module.parameters()]  # type: ignore[attr-defined]
    gradients = torch.autograd.grad(z, inputs, random_grad(z))
    return [z.detach().clone(), *(g.clone() for g in gradients)]


def trains_beside(gpu: Gpu, planes: Sequence[int]) -> str:
    """Steps on a busy side stream train as steps on the default stream do."""
    beside = new_trainer(gpu.tensors, planes)
    beside.step()
    plain = beside.twin()
    given = batches(gpu.tensors, 1 + _STEPS)[1:]
    for trainer, stream in ((plain, None), (beside, gpu.side_stream())):
        with gpu.on(stream):
            gpu.delay()
            for images, labels in given:
                trainer.images.copy_(images)
                trainer.labels.copy_(labels)
                trainer.step()
        gpu.synchronize()
    return agreement(beside, plain, "on a side stream")


def agreement(found: Trainer, plain: Trainer, what: str) -> str:
    """Says "bitwise", or how far apart: torch's own kernels may add in another order, ours do not."""
    expected = plain.state()
    differing = [k for k, v in found.state().items() if not torch.equal(v, expected[k])]
    if not differing:
        return "bitwise"
    for name in differing:
        torch.testing.assert_close(
            found.state()[name],
            expected[name],
            rtol=1e-3,
            atol=1e-5,
            msg=lambda text, name=name: f"{what}: {name}: {text}",
        )
    return f"{len(differing)} of {len(expected)} tensors differ by rounding"
