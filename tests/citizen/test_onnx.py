"""ONNX: a fused model becomes standard operators, and onnxruntime gives its outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from resnet_cuda import fuse, unfuse
from resnet_cuda.testing import emulated
from tests.citizen import cases
from tests.networks import randomise

pytestmark = pytest.mark.usefixtures("_fresh_dynamo")

for _package in ("onnx", "onnxscript"):
    pytest.importorskip(_package)
onnxruntime = pytest.importorskip("onnxruntime")


def outputs(model: nn.Module, x: torch.Tensor, path: Path, others: torch.Tensor) -> torch.Tensor:
    """Of onnxruntime for `others`, from a file exported with the example x and a dynamic batch."""
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(model, (x,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = [value.name for value in session.get_inputs()]
    return torch.from_numpy(session.run(None, {name: others.contiguous().numpy()})[0])


@pytest.mark.parametrize("export", ["unfused", "as it is", "as it is, on our kernels"])
def test_onnxruntime_equals_a_fused_network(export: str, tmp_path: Path, built: None) -> None:
    model = cases.make("bottlenecks", training=False)
    x, others = cases.images("bottlenecks", 2, 16), cases.images("bottlenecks", 5, 16)
    path = tmp_path / "model.onnx"
    if export == "unfused":
        found = outputs(unfuse(model), x, path, others)
    elif export == "as it is":
        found = outputs(model, x, path, others)
    else:
        with emulated():
            found = outputs(model, x, path, others)
    with torch.no_grad():
        torch.testing.assert_close(found, model(others), rtol=1e-4, atol=1e-5)


class Unknown(nn.Module):
    """A class that fuse merges by its forward's graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn(self.conv(x)) + x)


def test_onnxruntime_equals_a_module_fused_by_its_graph(tmp_path: Path, built: None) -> None:
    model = fuse(randomise(Unknown()).eval())
    x, others = cases.images("BasicBlock", 2, 10), cases.images("BasicBlock", 3, 10)
    with emulated(), torch.no_grad():
        found = outputs(model, x, tmp_path / "model.onnx", others)
        torch.testing.assert_close(found, model(others), rtol=1e-4, atol=1e-5)
