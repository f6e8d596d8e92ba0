"""The torch-free module: plans, the emulator's options, what was built."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from resnet_cuda import _host, _raw, _selection

ROOT = Path(__file__).parents[2]


def plan(op: str = "fprop", **changed: Any) -> dict[str, Any]:
    arguments = {"x_size": (2, 64, 14, 14), "weight_size": (32, 64, 3, 3), "padding": (1, 1)}
    arguments |= changed
    x_size, weight_size = arguments.pop("x_size"), arguments.pop("weight_size")
    dtype = arguments.pop("dtype", "float32")
    return _host.conv_plan(op, dtype, x_size, weight_size, **arguments)


def test_the_build_says_the_same_everywhere() -> None:
    info = _raw.build_info()
    assert info["cuda_compiled"] == _host.cuda_compiled
    assert info["cuda_version"] == _host.cuda_version
    assert (info["cuda_version"] is not None) == info["cuda_compiled"]
    assert info["torch_abi"] == "2.11"
    assert bool(info["architectures"]) == info["cuda_compiled"]


def test_gpus_are_counted_without_raising() -> None:
    count = _host.device_count()
    assert count >= 0
    assert _host.cuda_compiled or count == 0


def test_the_passes_are_those_of_the_kernel_library() -> None:
    header = (ROOT / "csrc" / "launch" / "kernel_library.h").read_text()
    assert list(_host.passes) == re.findall(r"X\((\w+), \w+Params\)", header)


def test_a_plan_names_its_kernel_and_counts_its_work() -> None:
    got = plan()
    assert "fprop" in got["kernel"]
    assert got["macs"] == 2 * 14 * 14 * 32 * 64 * 9
    assert got["bytes"] == 4 * (2 * 64 * 196 + 32 * 64 * 9 + 2 * 32 * 196)
    assert got["error"] is None
    assert got["kernel"].endswith("im2col")
    assert plan(weight_size=(32, 64, 1, 1), padding=(0, 0))["kernel"].endswith("gemm")


@pytest.mark.parametrize(
    ("capability", "columns", "product_columns"),
    [((8, 0), [128, 64], 64), ((9, 0), [256, 64], 128)],
    ids=["8.0", "9.0"],
)
def test_what_has_to_fit_beside_the_accumulators_decides_about_the_tile(
    capability: tuple[int, int], columns: list[int], product_columns: int
) -> None:
    images = {"dtype": "bfloat16", "padding": (0, 0), "capability": capability}
    pointwise = {"x_size": (256, 256, 56, 56), "weight_size": (256, 256, 1, 1), **images}
    assert [plan(narrow=narrow, **pointwise)["tile"][1] for narrow in (False, True)] == columns
    product = plan("product", **pointwise)
    assert product["tile"][:2] == (128, product_columns)
    assert product["splits"] >= 256 * 56 * 56 / 4096, "float32 adds at most 4096 rows"
    for channels in (64, 256):
        sizes = {"x_size": (256, channels, 56, 56), "weight_size": (channels, channels, 1, 1)}
        rows, tile_columns, _ = plan("gram", **sizes, **images)["tile"]
        is_alone = channels <= min(rows, tile_columns)
        assert is_alone or rows == tile_columns, "tiles of a symmetric matrix are square"


def test_a_problem_without_a_kernel_says_why() -> None:
    assert "pixels" in plan(x_size=(1, 64, 60000, 60000))["error"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"op": "forward"},
            "op is 'forward', expected 'fprop', 'dgrad', 'wgrad', 'product' or 'gram'",
        ),
        ({"op": "gram"}, "op is 'gram', expected 1x1 filters without groups for it"),
        ({"dtype": "int8"}, "dtype is 'int8', expected one of float64, float32"),
        ({"stride": (0, 1)}, "stride contains 0, expected values from 1"),
        ({"padding": (-1, 0)}, "padding contains -1"),
        ({"groups": 3}, "groups is 3, expected a divisor"),
        ({"x_size": (2, 64, 2, 2), "padding": (0, 0)}, "the window spans more than"),
        ({"x_size": (2, 64, 0, 2)}, "x_size contains 0"),
    ],
)
def test_impossible_geometry_is_a_value_error(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        plan(**changed)


def test_options_are_shared_by_every_handle_of_a_library() -> None:
    path = str(_selection.emulator_library(checked=False))
    options, other = _host.Emulator(path).options, _host.Emulator(path).options
    before = options.seed
    try:
        options.seed = 4711
        assert other.seed == 4711
    finally:
        options.seed = before


def test_a_library_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="cannot open"):
        _host.Emulator(str(tmp_path / "missing.so"))
    other = str(next((ROOT / "resnet_cuda").glob("_host*.so")))
    with pytest.raises(RuntimeError, match="does not export rnc_emulator_api"):
        _host.Emulator(other)
