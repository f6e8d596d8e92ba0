"""Networks that train in milliseconds."""

from __future__ import annotations

import torch

from resnet_cuda import models, nn


def small_network(seed: int = 0) -> models.ResNet:
    """A ResNet-8 of CIFAR's kind with 4, 8 and 16 channels."""
    torch.manual_seed(seed)
    return models.ResNet(
        nn.BasicBlock, [1, 1, 1], num_classes=10, stem="cifar", planes=(4, 8, 16), shortcut="A"
    )
