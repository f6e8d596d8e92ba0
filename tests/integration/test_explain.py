"""`explain`: shapes, counts, floors, copies, and that it changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from resnet_cuda import _raw, explain, fuse, models, ops, reference, testing, use_backend
from resnet_cuda.explain import PassPlan, Report, device_numbers


def test_every_convolution_of_a_network_is_listed_once() -> None:
    network = models.resnet50().eval()
    report = explain(network, torch.zeros(1, 3, 64, 64))
    convolutions = {n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    assert sorted(unit.name for unit in report.units) == sorted(convolutions)
    stem = report.units[0]
    assert (stem.input, stem.weight, stem.output) == (
        (1, 3, 64, 64),
        (64, 3, 7, 7),
        (1, 64, 32, 32),
    )
    assert not report.left


# conv + fc multiply-adds at 224x224 with 1000 classes.
MACS = {
    ("resnet18", "B", False): 1_814_073_344,
    ("resnet34", "A", False): 3_644_493_824,
    ("resnet34", "C", False): 3_830_747_136,
    ("resnet50", "B", False): 4_089_184_256,
    ("resnet50", "B", True): 3_857_973_248,
    ("resnext50_32x4d", "B", False): 4_230_479_872,
}


@pytest.mark.parametrize(("name", "shortcut", "v1"), MACS)
def test_flops_equal_the_known_counts(name: str, shortcut: str, v1: bool) -> None:
    network = models.create_model(name, shortcut=shortcut, stride_in_1x1=v1).eval()
    report = explain(network, torch.zeros(1, 3, 224, 224))
    classifier = network.fc.in_features * network.fc.out_features
    assert report.flops // 2 + classifier == MACS[name, shortcut, v1]


def test_bytes_and_floor_of_one_unit() -> None:
    x = torch.zeros(2, 8, 5, 5, dtype=torch.bfloat16)
    weight = torch.zeros(4, 8, 3, 3, dtype=torch.bfloat16)
    vector = torch.ones(4)
    residual = torch.zeros(2, 4, 5, 5, dtype=torch.bfloat16)
    report = explain(
        ops.conv_bn_relu, x, weight, None, None, vector, vector, residual=residual, padding=1
    )
    (unit,) = report.units
    (plan,) = unit.passes
    assert unit.operation == "conv + bn + add + relu"
    assert plan.bytes == 2 * (x.numel() + weight.numel() + 2 * residual.numel())
    assert plan.flops == 2 * residual.numel() * 8 * 9
    assert plan.floor_us == pytest.approx(plan.bytes / 4.3e12 * 1e6)


def test_training_adds_the_backward_passes_and_changes_nothing() -> None:
    network = models.ResNet(
        reference_block(), [1, 1], num_classes=3, planes=(4, 8), stem="cifar"
    ).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    report = explain(network, torch.zeros(2, 3, 8, 8), training=True)
    names = [[p.name for p in unit.passes] for unit in report.units]
    assert "wgrad" in names[0] and "dgrad" not in names[0], "images need no gradient"
    assert all({"fprop", "dgrad", "wgrad"} <= set(of_unit) for of_unit in names[1:])
    assert not network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), f"explain changed {name}"


@pytest.fixture
def bottleneck() -> nn.Module:
    """A fused projection block in bfloat16."""
    if not _raw.is_built():
        pytest.skip("the compiled extension is not built: make build")
    block = models.resnet50().layer2[0].to(torch.bfloat16)
    return block.to(memory_format=torch.channels_last)


IMAGES = torch.zeros(2, 256, 8, 8, dtype=torch.bfloat16, requires_grad=True)
ENDS = ("conv3", "downsample.0")


def passes_of(report: Report) -> list[PassPlan]:
    """In the order in which the executor makes them."""
    return sorted((p for unit in report.units for p in unit.passes), key=lambda p: p.order)


def kernels(passes: Iterable[PassPlan]) -> list[str]:
    """The names of our kernels' passes over activations."""
    return [
        p.name
        for p in passes
        if not p.name.startswith(("torch", "aten")) and (p.reads + p.writes).activations
    ]


def test_training_lists_the_executor_s_passes_in_its_order(bottleneck: nn.Module) -> None:
    report = explain(bottleneck, IMAGES, training=True)
    found = passes_of(report)
    assert [p.order for p in found] == list(range(len(found))), "a pass belongs to no unit"
    phases = [p.phase for p in found]
    assert phases == sorted(phases, reverse=True), "forward comes before backward"
    assert [name for name in kernels(found) if not name.startswith("bn_")] == [
        *("fprop", "fprop"),
        *("bottleneck_gram", "bottleneck_gram", "bottleneck_expand"),
        *("bottleneck_expand_wgrad", "bottleneck_expand_dgrad") * 2,
        *("wgrad", "dgrad") * 2,
    ]


def test_closed_form_is_named_where_it_is_used_and_its_absence_explained(
    bottleneck: nn.Module,
) -> None:
    norms = {u.name: u.batch_norm for u in explain(bottleneck, IMAGES, training=True).units}
    assert all("never stored" in norms[name] for name in ENDS)
    assert norms["conv2"] == "its output is stored: the next convolution reads it"
    bottleneck.closed_form = False
    reasons = {
        "switched off": explain(bottleneck, IMAGES, training=True),
        "float32 is more precise": explain(
            models.resnet50().layer2[0], IMAGES.float(), training=True
        ),
        "running statistics": explain(bottleneck, IMAGES, training=False),
    }
    for reason, report in reasons.items():
        for unit in report.units:
            if unit.name in ENDS:
                assert reason in unit.batch_norm, unit.name
        assert reason in str(report)


def test_recomputation_shows_the_forward_passes_again(bottleneck: nn.Module) -> None:
    once = passes_of(explain(bottleneck, IMAGES, training=True))
    bottleneck.memory = "recompute"
    twice = passes_of(explain(bottleneck, IMAGES, training=True))
    again = kernels(p for p in twice if p.phase == "forward again")
    assert again == kernels(p for p in once if p.phase == "forward")


def reference_block() -> type[nn.Module]:
    from resnet_cuda.nn import BasicBlock

    return BasicBlock


def test_copies_for_the_memory_format_are_reported() -> None:
    if not _raw.is_built():
        pytest.skip("the compiled extension is not built: make build")
    network = models.ResNet(reference_block(), [1], num_classes=3, planes=(4,), stem="cifar").eval()
    x = torch.zeros(2, 3, 8, 8)
    with testing.emulated():
        contiguous = explain(network, x)
        network.to(memory_format=torch.channels_last)
        native = explain(network, x.to(memory_format=torch.channels_last))
    assert any("input from NCHW" in text for text in contiguous.units[0].copies)
    assert any("weight" in text for text in contiguous.units[1].copies)
    assert all(not unit.copies for unit in native.units)
    assert "copies for the memory format:\nnone" in str(native)


def test_what_is_outside_the_fused_calls_is_listed() -> None:
    network = nn.Sequential(fuse(reference.BasicBlock(4, 4)), nn.Conv2d(4, 2, 1)).eval()
    report = explain(network, torch.zeros(1, 4, 6, 6))
    assert [(e.path, e.note) for e in report.left] == [("1", "has a bias")]
    assert "1: Conv2d has a bias" in str(report)


def test_the_planned_kernel_is_named_or_its_absence_explained() -> None:
    report = explain(models.resnet18().eval(), torch.zeros(1, 3, 64, 64))
    plan = report.units[1].passes[0]
    if _raw.is_built():
        assert plan.kernel.startswith("conv_fprop") and plan.tile and plan.why
    else:
        assert plan.kernel == "unknown" and "not built" in plan.why
    assert plan.kernel in str(report)


def test_block_level_ops_are_explained() -> None:
    vector = torch.ones(4)
    reduce = (torch.zeros(4, 8, 1, 1), vector, vector, vector, vector)
    x = torch.zeros(1, 8, 5, 5)
    assert explain(ops.bottleneck_reduce, x, *reduce).units[0].output == (1, 4, 5, 5)
    units = [ops.ConvUnit(*reduce), ops.ConvUnit(torch.zeros(8, 4, 1, 1), *4 * [torch.ones(8)])]
    report = explain(ops.residual_branch, x, units, ops.Identity())
    assert [unit.operation for unit in report.units] == [
        "conv + bn + relu",
        "conv + bn + add + relu",
    ]


@pytest.mark.skipif(not _raw.is_built(), reason="the extension is not built")
def test_a_whole_bottleneck_is_one_pass_of_its_first_unit() -> None:
    block = fuse(reference.Bottleneck(256, 64)).eval().bfloat16()
    x = torch.zeros(2, 256, 8, 24, dtype=torch.bfloat16)
    report = explain(block, x)
    assert [unit.name for unit in report.units] == ["conv1", "conv2", "conv3"]
    (one,) = passes_of(report)
    assert report.units[0].passes == (one,) and one.name == "block"
    assert one.kernel == "bottleneck_block_sm90_halo"
    weights = sum(conv.weight.nbytes for conv in (block.conv1, block.conv2, block.conv3))
    assert one.bytes == 2 * x.nbytes + weights, "what lies between is not moved"
    assert one.flops == 2 * 2 * 8 * 24 * weights // 2
    text = str(report)
    assert "what lies between them never leaves it" in text and text.count("with those above") == 2
    of_op = explain(ops.bottleneck_block, x, *block_units(block))
    assert passes_of(of_op) == [one]
    narrow = explain(block, x[..., :16])
    assert len(passes_of(narrow)) == 3, "there is no such kernel for this width"


def block_units(block: nn.Module) -> list[ops.ConvUnit]:
    units = []
    for conv, bn in ((block.conv1, block.bn1), (block.conv2, block.bn2), (block.conv3, block.bn3)):
        vectors = (bn.weight, bn.bias, bn.running_mean, bn.running_var)
        units.append(ops.ConvUnit(conv.weight, *vectors, padding=conv.padding))
    return units


def test_what_cannot_be_explained_is_named() -> None:
    with pytest.raises(TypeError, match="module_or_op is"):
        explain(torch.relu, torch.zeros(1))


def test_the_backend_is_named() -> None:
    with use_backend("reference"):
        report = explain(models.resnet18().eval(), torch.zeros(1, 3, 64, 64))
    assert report.backend == "reference"


def test_the_gpu_that_kernels_are_planned_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with testing.emulated(capability=(8, 0), multiprocessors=108):
        text = str(explain(models.resnet18().eval(), torch.zeros(1, 3, 32, 32)))
    line = "planned for a GPU that is not here: compute capability 8.0, 108 multiprocessors"
    assert line in text.splitlines(), text.splitlines()[:3]

    gpu = SimpleNamespace(
        name="Some GPU",
        multi_processor_count=78,
        shared_memory_per_multiprocessor=233472,
        L2_cache_size=50 * 2**20,
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert device_numbers(torch.device("cuda:0")) == (
        "Some GPU: compute capability 9.0, 78 multiprocessors, 228 KB of shared memory in each, 50 MB of L2 cache"
    )


def test_tiles_are_planned_for_as_many_multiprocessors_as_there_are() -> None:
    x = torch.zeros(1, 512, 56, 56, dtype=torch.bfloat16)
    weight, one = torch.zeros(256, 512, 1, 1, dtype=torch.bfloat16), torch.ones(256)
    tiles = set()
    for multiprocessors in (1, 132):
        with testing.emulated(multiprocessors=multiprocessors):
            report = explain(ops.conv_bn_relu, x, weight, None, None, one, one)
        tiles.add(report.units[0].passes[0].tile)
    assert len(tiles) == 2, f"1 and 132 multiprocessors both get the tile {tiles}"
