"""What a run leaves on disk: a CSV table of its epochs and a JSON summary."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from resnet_cuda.training.files import write_atomically


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One line per row under a header; all rows have the first one's keys."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Indented, so that two runs can be compared line by line."""
    write_atomically(path, (json.dumps(content, indent=2, default=str) + "\n").encode())


def environment(device: torch.device) -> dict[str, Any]:
    """What a figure was measured with."""
    cuda = device.type == "cuda"
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if cuda else platform.machine(),
        "threads": torch.get_num_threads(),
    }
