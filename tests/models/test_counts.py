"""Parameters and multiply-accumulates of every model, to the unit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from resnet_cuda import models, unfuse

V1 = {"stride_in_1x1": True}
# Parameters, and multiply-accumulates of convolutions and classifier for one image.
COUNTS: list[tuple[str, dict[str, Any], int, int]] = [
    ("resnet18", {}, 11_689_512, 1_814_073_344),
    ("resnet18", {"shortcut": "A"}, 11_515_688, 1_794_805_760),
    ("plain18", {}, 11_515_688, 1_794_805_760),
    ("resnet34", {}, 21_797_672, 3_663_761_408),
    ("resnet34", {"shortcut": "A"}, 21_623_848, 3_644_493_824),
    ("resnet34", {"shortcut": "C"}, 22_716_840, 3_830_747_136),
    ("plain34", {}, 21_623_848, 3_644_493_824),
    ("resnet50", {}, 25_557_032, 4_089_184_256),
    ("resnet50", V1, 25_557_032, 3_857_973_248),
    ("resnet101", {}, 44_549_160, 7_801_405_440),
    ("resnet101", V1, 44_549_160, 7_570_194_432),
    ("resnet152", {}, 60_192_808, 11_513_626_624),
    ("resnet152", V1, 60_192_808, 11_282_415_616),
    ("resnext50_32x4d", {}, 25_028_904, 4_230_479_872),
    ("resnext101_32x4d", {}, 44_177_704, 7_969_996_800),
    ("resnext101_32x8d", {}, 88_791_336, 16_414_015_488),
    ("resnext101_64x4d", {}, 83_455_272, 15_460_270_080),
    ("wide_resnet50_2", {}, 68_883_240, 11_398_021_120),
    ("wide_resnet101_2", {}, 126_886_696, 22_753_050_624),
    ("cifar_resnet20", {}, 269_722, 40_551_040),
    ("cifar_resnet32", {}, 464_154, 68_862_592),
    ("cifar_resnet44", {}, 658_586, 97_174_144),
    ("cifar_resnet56", {}, 853_018, 125_485_696),
    ("cifar_resnet110", {}, 1_727_962, 252_887_680),
    ("cifar_resnet1202", {}, 19_421_274, 2_829_238_912),
    ("cifar_plain20", {}, 269_722, 40_551_040),
    ("cifar_plain32", {}, 464_154, 68_862_592),
    ("cifar_plain44", {}, 658_586, 97_174_144),
    ("cifar_plain56", {}, 853_018, 125_485_696),
    ("wrn_28_10", {}, 36_479_194, 5_243_328_768),
    ("wrn_40_4", {}, 8_949_210, 1_298_582_016),
    ("wrn_16_8", {}, 10_961_370, 1_548_145_664),
]


def named(row: tuple[str, dict[str, Any], int, int]) -> str:
    name, options, *_ = row
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


@pytest.mark.parametrize(("name", "options", "parameters", "macs"), COUNTS, ids=map(named, COUNTS))
def test_parameters_and_macs(
    name: str, options: dict[str, Any], parameters: int, macs: int
) -> None:
    with torch.device("meta"):
        model = unfuse(models.create_model(name, **options), inplace=True).eval()
        pixels = 32 if name.startswith(("cifar", "wrn")) else 224
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            model(torch.empty(1, 3, pixels, pixels))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert counter.get_total_flops() == 2 * macs


def test_every_model_is_counted() -> None:
    assert {name for name, *_ in COUNTS} == set(models.list_models())


@pytest.mark.parametrize("depth", [20, 110])
def test_projections_of_a_cifar_network_are_2752_parameters(depth: int) -> None:
    with torch.device("meta"):
        a, b = (models.cifar_resnet(depth, shortcut=shortcut) for shortcut in "AB")
    counts = [sum(p.numel() for p in model.parameters()) for model in (a, b)]
    assert counts[1] - counts[0] == 2752
