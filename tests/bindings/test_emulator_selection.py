"""Which library serves raw ops on CPU tensors, and what happens when none can."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from resnet_cuda import _host, _raw, _selection

raw = torch.ops.resnet_cuda


def add_ones() -> torch.Tensor:
    x = torch.ones(1, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    return raw._add_relu_forward(x, x, False)[0]


def test_cpu_tensors_without_an_emulator_raise_and_name_the_context_manager(
    no_emulator: None,
) -> None:
    with pytest.raises(RuntimeError, match=r"none is selected.*resnet_cuda\.testing\.emulated\(\)"):
        add_ones()


def test_selecting_and_deselecting(no_emulator: None) -> None:
    raw._select_emulator(str(_selection.emulator_library(checked=False)))
    assert torch.equal(add_ones(), torch.full((1, 3, 2, 2), 2.0))
    raw._select_emulator("")
    with pytest.raises(RuntimeError, match="none is selected"):
        add_ones()


@pytest.mark.parametrize("checked", [False, True])
def test_the_selected_library_records_the_launch(emulator: None, checked: bool) -> None:
    library = _selection.emulator_library(checked)
    _selection.select_emulator(library)
    handle = _host.Emulator(str(library))
    handle.clear()
    add_ones()
    assert handle.checked == checked
    assert [launch["kernel"] for launch in handle.launches()] == ["add_relu_forward"]


def test_both_libraries_can_be_open_and_keep_their_own_state(emulator: None) -> None:
    plain, checked = (_host.Emulator(str(_selection.emulator_library(c))) for c in (False, True))
    plain.clear()
    checked.clear()
    add_ones()
    assert len(plain.launches()) == 1
    assert checked.launches() == []


def test_a_missing_library_is_named(emulator: None, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.so")
    with pytest.raises(RuntimeError, match=f"cannot open {missing}"):
        raw._select_emulator(missing)
    add_ones()  # the former selection stands


def test_a_library_without_kernels_is_refused(emulator: None) -> None:
    other = str(next(Path(_raw.__file__).parent.glob("_host*.so")))
    with pytest.raises(RuntimeError, match="does not export rnc_kernel_library"):
        raw._select_emulator(other)
    add_ones()
