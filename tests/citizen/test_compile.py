"""torch.compile(fullgraph=True): equal to eager, forward and backward, in one graph and no more than are needed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from resnet_cuda import fuse, ops, reference, use_backend
from resnet_cuda.testing import emulated
from resnet_cuda.testing.problems import ConvProblem, make_inputs
from tests.citizen import cases
from tests.networks import randomise

pytestmark = pytest.mark.usefixtures("_fresh_dynamo")

PROBLEM = ConvProblem(2, 4, 6, 6, 6, 3, 3, padding=1)
# Networks take seconds to compile.
KERNEL_NETWORKS = ("cifar_resnet", "bottlenecks")


@pytest.fixture(autouse=True)
def _nothing_counted() -> Iterator[None]:
    counters.clear()
    yield
    counters.clear()


def graphs() -> int:
    """How many dynamo has made in this test."""
    assert not counters["graph_break"], f"graph breaks: {dict(counters['graph_break'])}"
    return counters["stats"]["unique_graphs"]


def step(call: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """One forward and backward pass of `call`, which is `module` or made of it: all that comes of it."""
    module.zero_grad(set_to_none=True)
    x = x.detach().requires_grad_()
    z = call(x)
    z.square().sum().backward()
    found = {"output": z.detach(), "gradient of the input": x.grad}
    found |= {f"gradient of {n}": p.grad for n, p in module.named_parameters()}
    found |= {n: b.clone() for n, b in module.named_buffers()}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def assert_same(compiled: dict[str, Tensor], eager: dict[str, Tensor]) -> None:
    assert compiled.keys() == eager.keys()
    for name, wanted in eager.items():
        found = compiled[name]
        scale = wanted.abs().max().item()
        torch.testing.assert_close(
            found, wanted, rtol=1e-4, atol=1e-5 * scale + 1e-30, msg=lambda m, n=name: f"{n}: {m}"
        )
        assert found.stride() == wanted.stride(), f"{name}: compiled and eager strides differ"


def exact_pair(name: str, training: bool) -> tuple[nn.Module, nn.Module]:
    """Two equal modules in float64, in which one rounding less decides no ReLU."""
    module = cases.make(name, training).double()
    return module, copy.deepcopy(module)


def assert_one_graph(name: str, training: bool, sizes: tuple[tuple[int, int], ...]) -> None:
    """For all these (batch, image size), of which none may have a size of 1 anywhere inside: torch makes another graph
    for that, and a sum over less than 65 pixels has one tile."""
    module, eager = exact_pair(name, training)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch, size in sizes:
        x = cases.images(name, batch, size, torch.float64)
        if name in cases.UNDIFFERENTIATED:
            with torch.no_grad():
                torch.testing.assert_close(compiled(x), eager(x))
        else:
            assert_same(step(compiled, module, x), step(eager, eager, x))
    assert graphs() == 1, "another batch size or image size made another graph"


@pytest.mark.parametrize(
    "name", [n for n in (*cases.OPS, *cases.MODULES) if n not in cases.UNDIFFERENTIATED]
)
def test_training_on_our_kernels_is_one_graph_for_all_sizes(name: str, built: None) -> None:
    with emulated():
        assert_one_graph(name, True, ((2, 18), (3, 22)))


@pytest.mark.parametrize("name", [*cases.UNDIFFERENTIATED, "conv_bn_relu", "Bottleneck projection"])
def test_evaluation_on_our_kernels_is_one_graph_for_all_sizes(name: str, built: None) -> None:
    with emulated():
        assert_one_graph(name, False, ((2, 18), (3, 22)))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", ["conv_bn_relu", "Bottleneck projection", "PreActBasicBlock"])
def test_the_cpu_backend_is_one_graph_for_all_sizes(name: str, training: bool) -> None:
    with use_backend("cpu"):
        assert_one_graph(name, training, ((2, 18), (3, 22)))


@pytest.mark.parametrize("name", KERNEL_NETWORKS)
def test_a_network_on_our_kernels_is_one_graph_for_all_batches(name: str, built: None) -> None:
    with emulated():
        assert_one_graph(name, True, ((5, 26), (6, 26)))


def test_left_to_itself_torch_compiles_a_first_size_and_then_all_others(built: None) -> None:
    module, eager = exact_pair("Bottleneck projection", training=True)
    with emulated():
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        for batch in (2, 3, 5, 4):
            x = cases.images("Bottleneck projection", batch, 18, torch.float64)
            assert_same(step(compiled, module, x), step(eager, eager, x))
    assert graphs() == 2, "expected one graph for the first batch size and one for all others"


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", ["conv_bn_relu", "Bottleneck projection"])
def test_inductor_equals_eager_and_keeps_strides(backend: str, name: str, training: bool) -> None:
    module, eager = exact_pair(name, training)
    compiled = torch.compile(module, fullgraph=True)
    x = cases.images(name, 2, 10, torch.float64)
    assert_same(step(compiled, module, x), step(eager, eager, x))
    assert graphs() == 1


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
def test_inductor_trains_a_network_and_keeps_the_memory_format(
    memory_format: torch.memory_format,
) -> None:
    plain = reference.ResNet(
        reference.BasicBlock, [1, 1], planes=(8, 16), num_classes=5, stem="cifar"
    )
    plain.avgpool, plain.fc = nn.Identity(), nn.Identity()
    module = fuse(randomise(plain).double().train())
    eager = copy.deepcopy(module)
    x = cases.images("cifar_resnet", 2, 10, torch.float64, memory_format)
    with use_backend("cpu"):
        compiled = torch.compile(module, fullgraph=True)
        assert_same(step(compiled, module, x), step(eager, eager, x))
    assert graphs() == 1


def test_backends_do_not_leak_into_compiled_code() -> None:
    inputs = make_inputs(PROBLEM, torch.float32)
    vectors = inputs.gamma, inputs.beta, inputs.running_mean, inputs.running_var
    compiled = torch.compile(
        lambda x: ops.conv_bn_relu(x, inputs.weight, *vectors, padding=1),
        fullgraph=True,
        backend="aot_eager",
    )
    expected = reference.conv_bn_relu(inputs.x, inputs.weight, *vectors, padding=1)
    for name in ("cpu", "reference", "cpu"):
        with use_backend(name):
            torch.testing.assert_close(compiled(inputs.x), expected)


def test_training_and_inference_of_one_module_are_a_graph_each(backend: str) -> None:
    module, eager = exact_pair("BasicBlock", training=True)
    compiled: Any = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    x = cases.images("BasicBlock", 2, 10, torch.float64)
    for _ in range(2):
        for m in (module, eager):
            m.train()
        assert_same(step(compiled, module, x), step(eager, eager, x))
        for m in (module, eager):
            m.eval()
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), eager(x))
    assert graphs() == 2, "expected one graph for training and one for inference"
