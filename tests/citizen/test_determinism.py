"""The same bits in every run, with any number of threads and under any schedule; torch's deterministic mode."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from resnet_cuda import _raw, ops, unfuse, use_backend
from resnet_cuda.ops import _aten
from resnet_cuda.testing import emulated
from tests.citizen.calls import CASES, MODULES, assert_same_bits, inputs, module, problem, step

DTYPES = [torch.float32, torch.bfloat16]
SCHEDULES: list[dict[str, Any]] = [
    {"schedule": "reversed"},
    {"schedule": "random", "seed": 1},
    {"schedule": "random", "seed": 2, "cp_async": "random", "tma": "random", "wgmma": "random"},
    {"workers": 1},
    {"workers": 2},
]
# What raises on a GPU in torch's deterministic mode (the docstring of torch.use_deterministic_algorithms), and what
# asks there for CUBLAS_WORKSPACE_CONFIG.
RAISES = {
    *("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "avg_pool3d_backward"),
    *("adaptive_max_pool2d_backward", "fractional_max_pool2d_backward"),
    *("fractional_max_pool3d_backward", "max_unpool2d", "max_unpool3d"),
    *("upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward"),
    *("upsample_trilinear3d_backward", "reflection_pad1d_backward", "reflection_pad2d_backward"),
    *("reflection_pad3d_backward", "nll_loss2d_forward", "_ctc_loss_backward", "put", "put_"),
    *("_embedding_bag_dense_backward", "histc", "bincount", "median", "grid_sampler_2d_backward"),
    *("grid_sampler_3d_backward", "cumsum", "cumsum_", "scatter_reduce", "scatter_reduce_"),
    *("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "addbmm", "linear", "matmul"),
}


@pytest.fixture
def _built() -> None:
    if not _raw.is_built():
        pytest.skip("resnet_cuda._C is not built: run `make build`")


@contextmanager
def deterministic(fills_memory: bool = True) -> Iterator[None]:
    """fills_memory: torch fills new memory with NaN, as it does in that mode unless it is told not to."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = fills_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def op_step(name: str, training: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    """The output and all gradients."""
    call, leaves = problem(name, training=training, dtype=dtype)
    z = call(*leaves)
    dz = (torch.arange(z.numel()).view_as(z) % 7 - 2.5).to(z.dtype)
    gradients = torch.autograd.grad(z, leaves, dz)
    return {"output": z} | {f"gradient of leaf {i}": g for i, g in enumerate(gradients)}


def second_step(name: str, training: bool) -> dict[str, Tensor]:
    """The gradients of a gradient."""
    call, leaves = problem(name, training=training)
    slopes = torch.autograd.grad(call(*leaves).square().sum(), leaves, create_graph=True)
    whole = sum(slope.square().sum() for slope in slopes)
    gradients = torch.autograd.grad(whole, leaves, allow_unused=True)
    return {f"leaf {i}": g for i, g in enumerate(gradients) if g is not None}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "training"), CASES)
def test_an_op_gives_the_same_bits_under_every_schedule(
    _built: None, name: str, training: bool, dtype: torch.dtype
) -> None:
    with emulated():
        expected = op_step(name, training, dtype)
    for options in SCHEDULES:
        with emulated(**options):
            assert_same_bits(op_step(name, training, dtype), expected)
    with emulated(), threads(2):
        assert_same_bits(op_step(name, training, dtype), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_a_module_gives_the_same_bits_under_every_schedule(
    _built: None, name: str, dtype: torch.dtype
) -> None:
    """Here the modules that are no blocks; tests/nn/test_block_determinism.py has those, and 20 schedules."""
    with emulated():
        expected = step(module(name, dtype), inputs(name, dtype))
    for options in SCHEDULES:
        with emulated(**options):
            assert_same_bits(step(module(name, dtype), inputs(name, dtype)), expected)
    with emulated(), threads(2):
        assert_same_bits(step(module(name, dtype), inputs(name, dtype)), expected)


def large_step(made: nn.Module, name: str) -> dict[str, Tensor]:
    """On images that torch divides between threads."""
    made = copy.deepcopy(made).train()
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(2, 8, 48, 48, generator=generator) for _ in inputs(name)]
    return step(made, images)


@pytest.mark.parametrize("name", MODULES)
def test_every_run_on_the_cpu_gives_the_same_bits_and_threads_matter_to_filters_alone(
    name: str,
) -> None:
    """torch's oneDNN and BLAS add up the gradients of filters thread by thread: for its own modules as for ours."""
    fused = module(name, torch.float32)
    with use_backend("cpu"):
        one, again = large_step(fused, name), large_step(fused, name)
        plain = large_step(unfuse(fused), name)
        with threads(2):
            two, two_again = large_step(fused, name), large_step(fused, name)
            plain_two = large_step(unfuse(fused), name)
    assert_same_bits(again, one)
    assert_same_bits(two_again, two)
    filters = {f"gradient of {key}" for key, p in fused.named_parameters() if p.dim() == 4}
    for key in one.keys() - filters:
        if torch.equal(plain[key], plain_two[key]):  # else this CPU's torch does not manage, either
            assert torch.equal(one[key], two[key]), f"{key}: two threads give other bits than one"


def train_step(conv: tuple[int, ...], dtype: torch.dtype, count: int) -> dict[str, Tensor]:
    """Of the CPU's backend on so many threads, and what is left of them."""
    channels, filters, taps, stride, groups = conv
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, channels, 14, 14, generator=generator).to(dtype)
    weight = torch.randn(filters, channels // groups, taps, taps, generator=generator).to(dtype)
    x, weight = (t.to(memory_format=torch.channels_last).requires_grad_() for t in (x, weight))
    one, zero = torch.ones(filters), torch.zeros(filters)
    bn = [
        v.to(torch.float64 if dtype == torch.float64 else torch.float32)
        for v in (one, zero, zero, one)
    ]
    geometry = {"stride": stride, "padding": taps // 2, "groups": groups}
    with use_backend("cpu"), threads(count):
        z = ops.conv_bn_relu(x, weight, *bn, **geometry, training=True)
        dz = torch.randn(z.shape, generator=generator).to(dtype)
        dx, dweight = torch.autograd.grad(z, (x, weight), dz)
        assert torch.get_num_threads() == count, "the number of threads was not restored"
    return {"output": z.detach(), "gradient of x": dx, "gradient of the filters": dweight}


def test_in_deterministic_mode_the_cpu_gives_the_same_bits_on_every_number_of_threads() -> None:
    differ = []
    # Channels, filters, taps, stride, groups.
    for conv in ((32, 32, 3, 1, 1), (64, 64, 1, 1, 1), (64, 128, 3, 2, 1), (32, 32, 3, 1, 32)):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            free = train_step(conv, dtype, 1)["gradient of the filters"]
            with deterministic():
                alone = train_step(conv, dtype, 1)
            for count in (2, 3, 4):
                with deterministic():
                    assert_same_bits(train_step(conv, dtype, count), alone)
                if not torch.equal(train_step(conv, dtype, count)["gradient of the filters"], free):
                    differ.append((conv, dtype, count))
    if not differ:
        pytest.skip("with this CPU's oneDNN threads decide about no bits of these convolutions")


@pytest.mark.parametrize("name", ["Bottleneck", "PreActBasicBlock"])
def test_in_deterministic_mode_a_block_on_the_cpu_gives_the_same_bits_on_every_number_of_threads(
    name: str,
) -> None:
    fused = module(name, torch.float32)
    with use_backend("cpu"), deterministic():
        alone = large_step(fused, name)
        for count in (2, 3, 4):
            with threads(count):
                assert_same_bits(large_step(fused, name), alone)


def test_an_error_on_one_thread_restores_the_number_of_threads() -> None:
    def refused(*_: Any) -> Any:
        raise MemoryError

    with use_backend("cpu"), threads(3), deterministic():
        x, weight = torch.randn(2, 4, 5, 5), torch.randn(4, 4, 3, 3, requires_grad=True)
        z = ops.conv_bn_relu(x, weight, *[torch.ones(4)] * 2, None, None, training=True)
        with mock.patch.object(_aten, "_convolution_backward", refused), pytest.raises(MemoryError):
            z.sum().backward()
        assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("name", "training"), CASES)
def test_every_op_is_accepted_in_deterministic_mode(
    backend: str, name: str, training: bool
) -> None:
    """With the same bits: torch fills new memory with NaN there, so nothing may depend on what was in it. Our kernels
    give those bits outside of the mode as well; the CPU's backend computes on one thread inside, in other passes."""
    with deterministic(fills_memory=False) if backend == "cpu" else nullcontext():
        first, second = op_step(name, training, torch.bfloat16), second_step(name, training)
    with deterministic():
        assert_same_bits(op_step(name, training, torch.bfloat16), first)
        assert_same_bits(second_step(name, training), second)
        call, leaves = problem(name)
        with torch.no_grad():
            assert torch.isfinite(call(*leaves)).all()


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", MODULES)
def test_every_module_is_accepted_in_deterministic_mode(
    backend: str, name: str, training: bool
) -> None:
    made = module(name).train(training)
    start = {key: value.clone() for key, value in made.state_dict().items()}
    with deterministic(fills_memory=False) if backend == "cpu" else nullcontext():
        expected = step(made, inputs(name))
    made.load_state_dict(start)
    with deterministic():
        assert_same_bits(step(made, inputs(name)), expected)
        with torch.no_grad():
            assert torch.isfinite(made(*inputs(name))).all()


class Recorder(TorchDispatchMode):
    """The names of torch's own operations that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, name = func._schema.name.partition("::")
        if namespace == "aten":
            self.names.add(name)
        return func(*args, **(kwargs or {}))


def uses_of_op(name: str, training: bool) -> list[Callable[[], Any]]:
    call, leaves = problem(name, training=training)
    detached = [leaf.detach() for leaf in leaves]

    def squares(*given: Tensor) -> Tensor:
        return call(*given).square().sum()

    return [
        lambda: op_step(name, training, torch.bfloat16),
        lambda: second_step(name, training),
        lambda: jvp(call, tuple(detached), tuple(detached)),
        lambda: vmap(grad(squares))(*(torch.stack([leaf, leaf]) for leaf in detached)),
    ]


def test_the_names_of_what_raises_are_torchs() -> None:
    unknown = [name for name in RAISES if not hasattr(torch.ops.aten, name)]
    assert not unknown, f"torch has no {unknown}: the next tests would overlook them"


@pytest.mark.parametrize(("name", "training"), CASES)
def test_nothing_behind_an_op_raises_on_a_gpu_in_deterministic_mode(
    _built: None, name: str, training: bool
) -> None:
    """What runs between the kernels is the same on a GPU and under emulation."""
    with emulated(), Recorder() as recorder:
        for use in uses_of_op(name, training):
            use()
    assert recorder.names, "nothing was recorded"
    assert not recorder.names & RAISES


@pytest.mark.parametrize("name", MODULES)
def test_nothing_behind_a_module_raises_on_a_gpu_in_deterministic_mode(
    _built: None, name: str
) -> None:
    with emulated(), Recorder() as recorder:
        for dtype in DTYPES:
            made = module(name, dtype)
            step(made.train(), inputs(name, dtype))
            step(made.eval(), inputs(name, dtype))
            step(made.train(), [x[:0] for x in inputs(name, dtype)])
    assert recorder.names and not recorder.names & RAISES


def test_the_recorder_finds_what_raises(_built: None) -> None:
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    with Recorder() as recorder:
        torch.nn.functional.adaptive_avg_pool2d(x, 2).sum().backward()
    assert recorder.names & RAISES == {"_adaptive_avg_pool2d_backward"}
