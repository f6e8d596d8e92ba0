"""What a network costs, counted without running it."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from resnet_cuda.fuse import unfuse


class Cost(NamedTuple):
    """Parameters, and multiply-adds of convolutions and linear layers for one image."""

    parameters: int
    macs: int


def cost_of(model: nn.Module, image: tuple[int, int, int]) -> Cost:
    """The cost of `model` for one image of shape [C, H, W]; the model may be on any device, such as meta."""
    parameters = sum(p.numel() for p in model.parameters())
    plain = unfuse(copy.deepcopy(model).to("meta"), inplace=True).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        plain(torch.empty(1, *image, device="meta"))
    return Cost(parameters, counter.get_total_flops() // 2)
