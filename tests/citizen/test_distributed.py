"""DistributedDataParallel and fully_shard over two processes: the gradients of one process."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

import resnet_cuda
from resnet_cuda import reference
from resnet_cuda.testing import emulated
from tests.citizen.calls import MODULES, inputs, module
from tests.networks import assert_close, randomise
from tests.ranks import Ranks

FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    started = Ranks(tmp_path_factory.mktemp("ranks"))
    yield started
    started.stop()


def network(layout: str = "NCHW") -> nn.Module:
    """In float64 and training mode: a stem, blocks with every kind of shortcut, a classifier."""
    torch.manual_seed(3)
    plain = nn.Sequential(
        reference.ConvBNReLU(3, 8, 3),
        reference.BasicBlock(8, 16, 2, shortcut="A"),
        reference.Bottleneck(16, 4),
        reference.Bottleneck(16, 8, 2),
        reference.PreActBottleneck(32, 8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )
    model = randomise(plain).to(torch.float64, memory_format=FORMATS[layout])
    return resnet_cuda.fuse(model)


def images() -> Tensor:
    """Of both ranks."""
    torch.manual_seed(4)
    return torch.randn(6, 3, 8, 8, dtype=torch.float64)


def served(backend: str) -> AbstractContextManager[Any]:
    return emulated() if backend == "emulated" else contextlib.nullcontext()


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Of two passes, the second of which adds to the first."""
    for _ in range(2):
        model(x).square().mean().backward()
    return {name: p.grad for name, p in model.named_parameters()}


def gradients_in_one_process() -> dict[str, Tensor]:
    """The mean of what each half of the images gives."""
    first, second = (gradients(network(), half) for half in images().split(3))
    return {name: (first[name] + second[name]) / 2 for name in first}


def in_ddp(rank: int, backend: str, layout: str, view: bool) -> dict[str, Tensor]:
    with warnings.catch_warnings(), served(backend):
        warnings.simplefilter("error")  # strides that are not the parameter's
        model = nn.parallel.DistributedDataParallel(network(layout), gradient_as_bucket_view=view)
        found = gradients(model, images().split(3)[rank])
    return {name.removeprefix("module."): gradient for name, gradient in found.items()}


@pytest.mark.parametrize("view", [False, True], ids=["own gradients", "gradients in buckets"])
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_ddp_gives_the_gradients_of_one_process_and_warns_of_nothing(
    ranks: Ranks, backend: str, layout: str, view: bool
) -> None:
    expected = gradients_in_one_process()
    for rank, found in enumerate(ranks.run(in_ddp, backend, layout, view)):
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert_close(found[name], gradient, f"gradient of {name} of rank {rank}")


def in_fsdp(rank: int, backend: str, blocks: bool, synchronised: bool) -> dict[str, Tensor]:
    model, mesh = network(), init_device_mesh("cpu", (2,))
    if synchronised:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if blocks:
        for block in model:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for name, block in model.named_children():
        blocker = block.blocker() if hasattr(block, "blocker") else None
        assert blocker is None, f"{name} does not run fused: {blocker}"
    with served(backend):
        found = gradients(model, images().split(3)[rank])
    return {name: gradient.full_tensor() for name, gradient in found.items()}


@pytest.mark.parametrize("blocks", [False, True], ids=["whole", "block by block"])
@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_fully_shard_gives_the_gradients_of_one_process(
    ranks: Ranks, backend: str, blocks: bool
) -> None:
    expected = gradients_in_one_process()
    for found in ranks.run(in_fsdp, backend, blocks, False):
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert_close(found[name], gradient, f"gradient of {name}")


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_fully_shard_with_synchronised_batch_norms_is_one_process_with_all_images(
    ranks: Ranks, backend: str
) -> None:
    expected = gradients(network(), images())
    for found in ranks.run(in_fsdp, backend, True, True):
        for name, gradient in expected.items():
            assert_close(found[name], gradient, f"gradient of {name}")


def in_mixed_precision(rank: int) -> tuple[Tensor, dict[str, torch.dtype]]:
    """The output, and the gradients' dtypes."""
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
    model = network().float()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)), mp_policy=policy)
    z = model(images().float().split(3)[rank])
    z.float().square().mean().backward()
    return z.detach(), {name: p.grad.dtype for name, p in model.named_parameters()}


def test_fully_shards_mixed_precision_computes_in_its_dtype(ranks: Ranks) -> None:
    """As a network whose parameters are bfloat16 and whose running statistics are float32 does."""
    model = network().float()
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    expected = (model(half) for half in images().bfloat16().split(3))
    for (z, dtypes), wanted in zip(ranks.run(in_mixed_precision), expected, strict=True):
        assert z.dtype == torch.bfloat16
        assert torch.equal(z, wanted)
        assert set(dtypes.values()) == {torch.float32}, "a gradient is not in the parameter's dtype"


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("name", MODULES)
def test_a_gradient_has_its_parameters_strides(backend: str, name: str, layout: str) -> None:
    made = module(name).to(memory_format=FORMATS[layout])
    made(*inputs(name)).square().sum().backward()
    for key, parameter in made.named_parameters():
        found = parameter.grad.stride()
        assert found == parameter.stride(), f"{key} {tuple(parameter.shape)}: {found}"
