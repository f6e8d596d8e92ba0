"""The processes that torchrun starts, one per device; without torchrun, this process alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from resnet_cuda.training.batches import Part


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Joins torchrun's group, where there is one; yields the device of this process.

    Raises:
        RuntimeError: the group does not come about.
    """
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def this_part() -> Part:
    """This process's place in the group."""
    return Part(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Part()


def summed(tensor: Tensor) -> Tensor:
    """The tensor's sum over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def gathered(value: Any) -> list[Any]:
    """Every process's value, by rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
