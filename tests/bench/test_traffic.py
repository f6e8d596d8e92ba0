"""Bytes of a network: eager's as counted by hand, ours the sums of the emulator's counters, and the minimum."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_cuda import _raw, fuse, ops, unfuse
from resnet_cuda.bench import traffic
from resnet_cuda.bench.operations import BACKWARD, FORWARD, Recorder, layer_name
from resnet_cuda.cli import main
from resnet_cuda.nn import BasicBlock, ConvBNReLU
from resnet_cuda.testing import emulated

needs_emulator = pytest.mark.skipif(not _raw.is_built(), reason="the extension is not built")

N, C, K, SIZE = 2, 8, 16, 6
X, W, Y, V = N * C * SIZE**2 * 4, K * C * 9 * 4, N * K * SIZE**2 * 4, K * 4  # bytes


def recorded(function: Callable[[], object]) -> dict[str, tuple[int, int]]:
    recorder = Recorder()
    with recorder:
        function()
    return {o.name: (o.read, o.written) for o in recorder.operations}


def images(*size: int) -> Tensor:
    return torch.randn(size).to(memory_format=torch.channels_last)


def conv_bn_relu() -> nn.Sequential:
    layers = nn.Sequential(nn.Conv2d(C, K, 3, padding=1, bias=False), nn.BatchNorm2d(K), nn.ReLU())
    return layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def test_eager_inference_of_conv_bn_relu_is_what_one_counts_by_hand() -> None:
    layers = conv_bn_relu().eval()
    with torch.no_grad():
        found = {o.name: o for o in traffic.operations(layers, images(N, C, SIZE, SIZE))}
    assert {n: (o.read, o.written) for n, o in found.items()} == {
        "aten::convolution": (X + W, Y),
        "aten::native_batch_norm": (Y + 4 * V, Y),
        "aten::relu": (Y, Y),
    }


def test_eager_training_of_conv_bn_relu_is_what_one_counts_by_hand() -> None:
    layers = conv_bn_relu().train()
    found = traffic.operations(layers, images(N, C, SIZE, SIZE))
    counted = {(o.phase, o.name): (o.read, o.written) for o in found}
    counter = 8  # num_batches_tracked
    assert counted == {
        (FORWARD, "aten::convolution"): (X + W, Y),
        (FORWARD, "aten::add_"): (counter, counter),
        # y for the statistics and again to apply them; four vectors in, two out (that it also updates the running
        # statistics is not in its schema, so those two are not counted)
        (FORWARD, "aten::native_batch_norm"): (2 * Y + 4 * V, Y + 2 * V),
        (FORWARD, "aten::relu"): (Y, Y),
        (BACKWARD, "aten::threshold_backward"): (2 * Y, Y),
        (BACKWARD, "aten::native_batch_norm_backward"): (4 * Y + 5 * V, Y + 2 * V),
        # the images need no gradient, so dy is read once
        (BACKWARD, "aten::convolution_backward"): (Y + X, W),
    }


def test_a_convolutions_backward_reads_dy_for_each_gradient() -> None:
    x, w = images(N, C, SIZE, SIZE).requires_grad_(), torch.randn(K, C, 3, 3, requires_grad=True)
    y = F.conv2d(x, w, padding=1)
    found = recorded(lambda: y.backward(torch.ones_like(y)))
    assert found["aten::convolution_backward"] == (2 * Y + X + W, X + W)


def test_views_and_allocations_move_nothing() -> None:
    x = torch.randn(4, 6)
    assert recorded(lambda: x.t().reshape(3, 8)[:2]) == {"aten::clone": (96, 96)}
    assert not recorded(lambda: torch.empty_like(x).view(24).unsqueeze(0))
    assert not recorded(lambda: x.clone().detach().transpose_(0, 1)).keys() - {"aten::clone"}


def test_in_place_operations_read_what_they_change_and_overwriting_ones_do_not() -> None:
    x, y = torch.randn(4, 6), torch.randn(4, 6)
    assert recorded(lambda: x.add_(y)) == {"aten::add_": (192, 96)}
    assert recorded(lambda: x.copy_(y)) == {"aten::copy_": (96, 96)}
    assert recorded(lambda: x.zero_()) == {"aten::zero_": (0, 96)}
    assert recorded(lambda: torch.mul(x, y, out=x.clone())) == {
        "aten::clone": (96, 96),
        "aten::mul": (192, 96),
    }


def test_an_expanded_operand_counts_once() -> None:
    x, row = torch.randn(4, 6), torch.randn(6)
    assert recorded(lambda: x * row.expand(4, 6)) == {"aten::mul": (96 + 24, 96)}


def test_layers_are_named_like_blocks() -> None:
    assert layer_name("layer1.0.downsample.1.weight") == "layer1.0"
    assert layer_name("fc.weight") == "fc"


def test_backward_operations_belong_to_the_layers_of_the_forward_ones() -> None:
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    )
    found = traffic.operations(layers.train(), images(N, 3, SIZE, SIZE))
    where = {(o.phase, o.name.partition("::")[2]): o.layer for o in found}
    assert where[FORWARD, "relu"] == where[BACKWARD, "threshold_backward"] == "1"
    assert where[FORWARD, "convolution"] == where[BACKWARD, "convolution_backward"] == "0"
    assert where[FORWARD, "addmm"] == where[BACKWARD, "mm"] == "4"


@needs_emulator
@pytest.mark.parametrize("training", [False, True])
def test_counters_of_a_network_are_the_sum_over_its_launches(training: bool) -> None:
    network = nn.Sequential(ConvBNReLU(3, 8, 3), BasicBlock(8, 8), nn.Flatten(), nn.Linear(288, 5))
    network = network.to(memory_format=torch.channels_last).train(training)  # type: ignore[call-overload]
    x = images(N, 3, SIZE, SIZE)
    found = traffic.measure("tiny", network, x)
    with emulated(count=True) as emulation, torch.set_grad_enabled(training):
        out = network(x)
        if training:
            out.backward(torch.randn_like(out))
        launches = emulation.launches()
    mine = [row for row in found.ours if row.asked is not None]
    assert [row.name for row in mine] == [launch["kernel"] for launch in launches]
    for attribute, names in (
        ("distinct", ("distinct_load_bytes", "distinct_store_bytes")),
        ("asked", ("global_load_bytes", "global_store_bytes")),
        ("sectors", ("global_load_sectors", "global_store_sectors")),
    ):
        factor = 32 if attribute == "sectors" else 1
        expected = factor * sum(launch["counters"][name] for launch in launches for name in names)
        assert sum(getattr(row, attribute) for row in mine) == expected
    rest = [row for row in found.ours if row.asked is None]
    assert {"aten::addmm"} <= {row.name for row in rest}
    assert traffic.total(found.ours) == sum(r.distinct for r in mine) + sum(
        r.distinct for r in rest
    )
    assert (
        f"ours moves {traffic.total(found.ours) / traffic.total(found.eager):.2f} of eager's"
        in (found.summary)
    )


@needs_emulator
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_add_relu_moves_its_operands_once_and_no_more(dtype: torch.dtype) -> None:
    x, residual = images(2, 8, 4, 4).to(dtype), images(2, 8, 4, 4).to(dtype)
    with emulated(count=True) as emulation:
        recorder = Recorder(None, emulation.launches)
        with recorder:
            ops.add_relu(x, residual)
    (row,) = [row for operation in recorder.operations for row in traffic.rows_of(operation)]
    assert row.name == "add_relu_forward"
    assert row.distinct == row.asked == 3 * x.nbytes
    # A thread's eight elements are one access of 16 bytes, or two, which touch the same sectors one after the other.
    assert row.sectors == 3 * x.nbytes * (2 if dtype == torch.float32 else 1)
    (operation,) = recorder.operations
    assert operation.operand_bytes == 3 * x.nbytes


@needs_emulator
def test_the_minimum_of_a_unit_is_every_operand_once() -> None:
    module = fuse(conv_bn_relu().eval())
    x = images(N, C, SIZE, SIZE)
    assert traffic.minimum(module, x) == {(FORWARD, traffic.CONVOLUTION): X + W + Y}
    assert type(unfuse(module)) is nn.Sequential


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("conv_wgrad_sum_splits", traffic.CONVOLUTION),
        ("bottleneck_expand_simt_gemm", traffic.CONVOLUTION),
        ("aten::convolution_backward", traffic.CONVOLUTION),
        ("bn_backward_apply", traffic.NORM),
        ("aten::native_batch_norm", traffic.NORM),
        ("add_relu_forward", traffic.NORM),
        ("aten::add", traffic.NORM),
        ("aten::max_pool2d_with_indices", traffic.POOLING),
        ("conv_max_pool_sm80_few_channels", traffic.CONVOLUTION),
        ("global_avg_pool_forward", traffic.POOLING),
        ("aten::addmm", traffic.REST),
    ],
)
def test_kernels_and_operations_are_grouped_by_what_they_do(name: str, kind: str) -> None:
    assert traffic.kind_of(name) == kind


@needs_emulator
def test_the_command_prints_both_modes_and_writes_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", "--model-traffic", "--network", "resnet18", "--batch", "1", "--layers"]
    assert main([*command, "--image-size", "32", "--inference", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "resnet18 inference, batch 1, 32x32, bfloat16" in out and "of the minimum" in out
    assert "layer4.1" in out and "training" not in out.replace("training step", "")
    report = json.loads((tmp_path / "report.json").read_text())
    (entry,) = report["traffic"]
    assert entry["image_size"] == 32
    for side in ("ours", "eager"):
        assert sum(row["distinct"] for row in entry[side]) == entry["bytes"][side] > 0
        assert sum(line[side] for line in entry["kinds"]) == entry["bytes"][side]
        layers = {row["layer"] for row in entry[side]}
        assert layers >= {"conv1", "layer1.0", "fc"}
        assert "bn1" not in layers, "a convolution's batch norm is no layer of its own"
    assert "## Traffic" in (tmp_path / "report.md").read_text()
    if importlib.util.find_spec("matplotlib"):
        assert (tmp_path / "traffic.png").stat().st_size > 5000


def test_an_unknown_network_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["bench", "--model-traffic", "--network", "resnet1"])
    assert error.value.code == 2
    assert "resnet1" in capsys.readouterr().err
