"""torch.export with a dynamic batch, and the saved program in another process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.citizen import cases

pytestmark = pytest.mark.usefixtures("_fresh_dynamo")

RELOAD = """
import contextlib, sys, torch
import resnet_cuda
from resnet_cuda import testing
program, tensors, backend = sys.argv[1:]
x, wanted = torch.load(tensors)
with testing.emulated() if backend == "emulated" else contextlib.nullcontext(), torch.no_grad():
    found = torch.export.load(program).module()(x)
assert torch.equal(found, wanted), f"differs by up to {(found - wanted).abs().max().item()}"
"""


def exported(name: str, size: int) -> tuple[torch.nn.Module, torch.export.ExportedProgram]:
    model = cases.make(name, training=False)
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    with torch.no_grad():
        x = cases.images(name, 2, size)
        return model, torch.export.export(model, (x,), dynamic_shapes=shapes)


@pytest.mark.parametrize(
    "name", [n for n in (*cases.OPS, *cases.MODULES) if n not in cases.UNDIFFERENTIATED]
)
def test_every_op_and_module_exports_with_a_dynamic_batch(backend: str, name: str) -> None:
    model, program = exported(name, 10)
    with torch.no_grad():
        for batch in (1, 3):
            x = cases.images(name, batch, 10)
            found, wanted = program.module()(x), model(x)
            torch.testing.assert_close(found, wanted)
            assert found.stride() == wanted.stride()


@pytest.mark.parametrize("name", cases.NETWORKS)
def test_an_exported_network_gives_equal_outputs_in_a_new_process(
    backend: str, name: str, tmp_path: Path
) -> None:
    if backend == "cuda":
        pytest.skip("the other process runs on the CPU")
    model, program = exported(name, 16)
    x = cases.images(name, 3, 16)
    with torch.no_grad():
        wanted = program.module()(x)
        torch.testing.assert_close(wanted, model(x), rtol=1e-4, atol=1e-5)
    torch.export.save(program, tmp_path / "program.pt2")
    torch.save((x, wanted), tmp_path / "tensors.pt")
    command = [sys.executable, "-c", RELOAD, "program.pt2", "tensors.pt", backend]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"the reloaded program failed:\n{result.stderr[-2000:]}"
