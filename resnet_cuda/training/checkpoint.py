"""Checkpoints: dictionaries of tensors and plain values, written atomically and read without running code."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from resnet_cuda.training.files import write_atomically


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` to `path`; a write that fails leaves the checkpoint that was there.

    Raises:
        OSError: the folder cannot be written to, or has no room.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, on the CPU.

    Raises:
        ValueError: there is no such file, or it is not a checkpoint of tensors and plain values.
    """
    if not path.is_file():
        raise ValueError(f"checkpoint {path}: no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error of its own for a damaged file
        raise ValueError(
            f"checkpoint {path}: damaged, or not a checkpoint ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"checkpoint {path}: holds a {type(state).__name__}, expected a dict")
    return state
