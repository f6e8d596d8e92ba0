"""Inference folds batch norm on the fly; nothing may ever leave stale folded weights behind."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

from resnet_cuda import fuse, reference, unfuse
from resnet_cuda.nn._fused import _CACHES, FusedModule
from tests.networks import make_adversarial, randomise, train_steps


def make_network() -> nn.Module:
    network = reference.ResNet(
        reference.Bottleneck, [1, 2], num_classes=5, planes=(4, 8), stem="cifar"
    )
    return randomise(network).eval()


def images(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def caches(network: nn.Module) -> int:
    """How many convolutions hold folded weights."""
    modules = [m for m in network.modules() if isinstance(m, FusedModule)]
    return sum(not c.is_empty for m in modules for c in m.__dict__.get(_CACHES, {}).values())


def predict(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network(x)


def _optimizer_step(network: nn.Module) -> None:
    batch = (images(), torch.tensor([0, 1]))
    train_steps(network, [batch])
    network.eval()


def _step_in_eval_mode(network: nn.Module) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(images()).square().sum().backward()
    optimizer.step()


def _load(network: nn.Module) -> None:
    other = make_adversarial(copy.deepcopy(network), seed=5)
    network.load_state_dict(other.state_dict())


def _load_one_child(network: nn.Module) -> None:
    child = network.layer1[0].conv1
    child.load_state_dict({"weight": child.weight.detach() * 2})


def _edit_weight(network: nn.Module) -> None:
    with torch.no_grad():
        network.layer2[1].conv2.weight.mul_(1.5)


def _edit_data(network: nn.Module) -> None:
    network.layer2[0].downsample[1].running_var.data.mul_(3.0)
    network.layer2[0].bn1.weight.data.neg_()


def _new_parameter(network: nn.Module) -> None:
    conv = network.layer1[0].conv2
    conv.weight = nn.Parameter(conv.weight.detach() * -1)


def _edit_eps(network: nn.Module) -> None:
    network.layer1[0].bn3.eps = 0.1


def _reset_statistics(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()


def _update_statistics(network: nn.Module) -> None:
    network.train()
    predict(network, images())
    network.eval()


@pytest.mark.parametrize(
    "change",
    [
        _optimizer_step,
        _step_in_eval_mode,
        _load,
        _load_one_child,
        _edit_weight,
        _edit_data,
        _new_parameter,
        _edit_eps,
        _reset_statistics,
        _update_statistics,
    ],
)
def test_no_change_leaves_stale_weights(change: Callable[[nn.Module], None]) -> None:
    plain = make_network()
    fused = fuse(plain)
    x = images()
    before = predict(fused, x)
    convolutions = sum(isinstance(m, nn.Conv2d) for m in fused.modules())
    assert caches(fused) == convolutions, "inference did not fold every convolution"
    change(plain)
    change(fused)
    after = predict(fused, x)
    assert (after - before).abs().max() > 1e-3, "the change has no visible effect; test another"
    torch.testing.assert_close(after, predict(plain, x), rtol=1e-3, atol=1e-4)


def test_train_and_loading_drop_the_folded_weights() -> None:
    fused = fuse(make_network())
    predict(fused, images())
    fused.train()
    assert caches(fused) == 0
    fused.eval()
    predict(fused, images())
    fused.load_state_dict(fused.state_dict())
    assert caches(fused) == 0
    predict(fused, images())
    fused.double()
    assert caches(fused) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_converting_the_dtype_after_inference(dtype: torch.dtype) -> None:
    plain = make_network()
    fused = fuse(plain)
    predict(fused, images())
    x = images().to(dtype)
    plain, fused = plain.to(dtype), fused.to(dtype)
    tolerance = 1e-9 if dtype == torch.float64 else 0.1
    torch.testing.assert_close(predict(fused, x), predict(plain, x), rtol=tolerance, atol=tolerance)


def test_changing_the_memory_format_and_image_size_after_inference() -> None:
    plain = make_network()
    fused = fuse(plain)
    predict(fused, images())
    fused.to(memory_format=torch.channels_last)
    for size in (8, 9, 5, 8, 12, 7, 6):
        x = torch.randn(1, 3, size, size)
        torch.testing.assert_close(predict(fused, x), predict(plain, x), rtol=1e-3, atol=1e-4)


def _deepcopy(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network)


def _pickle(network: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(network))


def _save(network: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(network, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("clone", [_deepcopy, _pickle, _save])
def test_copies_are_fused_and_hold_no_folded_weights(
    clone: Callable[[nn.Module], nn.Module],
) -> None:
    fused = fuse(make_network())
    expected = predict(fused, images())
    twin = clone(fused)
    assert [type(m) for m in twin.modules()] == [type(m) for m in fused.modules()]
    assert caches(twin) == 0
    torch.testing.assert_close(predict(twin, images()), expected)
    _edit_weight(twin)
    torch.testing.assert_close(predict(fused, images()), expected)


def test_unfusing_drops_the_folded_weights() -> None:
    fused = fuse(make_network())
    predict(fused, images())
    plain = unfuse(fused, inplace=True)
    assert all(_CACHES not in m.__dict__ for m in plain.modules())
