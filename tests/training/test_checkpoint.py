"""Checkpoints: a write that fails changes nothing, and a file that would run code is not loaded."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from resnet_cuda.training import load_checkpoint, save_checkpoint


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A write beyond `size` bytes fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_holds_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "new" / "checkpoint.pt"
    save_checkpoint(path, {"weights": torch.arange(3), "iteration": 7, "log": [{"loss": 0.5}]})
    state = load_checkpoint(path)
    assert state["weights"].tolist() == [0, 1, 2]
    assert (state["iteration"], state["log"]) == (7, [{"loss": 0.5}])


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"iteration": 1})
    previous = path.read_bytes()
    with files_of_at_most(20_000), pytest.raises(OSError):
        save_checkpoint(path, {"iteration": 2, "weights": torch.zeros(100_000)})
    assert path.read_bytes() == previous, "the failed write damaged the checkpoint"
    assert os.listdir(tmp_path) == ["checkpoint.pt"], "the failed write left its temporary file"


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"weights": os.getcwd}, path)
    with pytest.raises(ValueError, match=r"checkpoint.*not a checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("damage", [None, b"", b"text"])
def test_a_missing_or_damaged_checkpoint_is_named(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "checkpoint.pt"
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(ValueError, match=rf"checkpoint {path}"):
        load_checkpoint(path)
