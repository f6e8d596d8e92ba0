"""The layers' responses from batch norm's statistics alone, held against hooks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import resnet_cuda
from resnet_cuda import models
from resnet_cuda.training.responses import measured_response_stds, response_stds
from tests.training_networks import small_network


def keep_this_batch(bn: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """Sets the running statistics to the batch's own; torch would put a sample's variance there."""
    x = inputs[0]
    assert isinstance(bn, nn.BatchNorm2d) and bn.running_var is not None
    bn.running_var.copy_(x.var((0, 2, 3), correction=0))
    assert bn.running_mean is not None
    bn.running_mean.copy_(x.mean((0, 2, 3)))


def test_running_statistics_tell_what_hooks_measure() -> None:
    model = small_network().double()
    plain = resnet_cuda.unfuse(model)
    hooks = []
    for bn in (m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(bn.weight)
        bn.eps = 0.1
        hooks.append(bn.register_forward_hook(keep_this_batch))
    x = torch.randn(8, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        plain.train()(x)
    for hook in hooks:
        hook.remove()
    for network in (plain, resnet_cuda.fuse(plain)):
        free, measured = response_stds(network), measured_response_stds(network, x)
        assert len(free) == 7, "a layer is missing"
        assert free == pytest.approx(measured, rel=1e-9)


def test_a_network_with_pre_activation_is_refused() -> None:
    with torch.device("meta"):
        model = models.create_model("wrn_16_8")
    with pytest.raises(TypeError, match="PreActResNet; expected a ResNet"):
        response_stds(model)
