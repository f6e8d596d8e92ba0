"""The scripts of examples/ as functions."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"

RunExample = Callable[..., int]


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run_example() -> RunExample:
    """run_example(name, *arguments) -> exit code of examples/<name>.py, run in this process."""

    def run(name: str, *arguments: object) -> int:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        code: int = module.main([str(argument) for argument in arguments])
        return code

    return run
