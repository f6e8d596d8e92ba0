"""What a launch record says: traffic, sectors, bank conflicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from emulator_library import DeviceArray, Emulator
from memory_kernels import N, launch, values

from resnet_cuda import _raw
from resnet_cuda.testing import emulated


def test_distinct_bytes_of_a_copy_equal_its_size(either: Emulator) -> None:
    either.options.count = 1
    error, _, _ = launch(either, "vector_copy")
    assert not error, error
    (record,) = either.launches()
    counters = record.counters
    size = 2048 * 4
    assert counters.global_load_bytes == counters.distinct_load_bytes == size
    assert counters.global_store_bytes == counters.distinct_store_bytes == size
    assert counters.global_load_sectors == counters.global_store_sectors == size // 32
    assert counters.distinct_load_sectors == counters.distinct_store_sectors == size // 32


def test_distinct_bytes_are_told_apart_by_tensor() -> None:
    if not _raw.is_built():
        pytest.skip("resnet_cuda._C is not built: run `make build`")
    x = torch.ones(2, 8, 4, 4).to(memory_format=torch.channels_last)
    with emulated(count=True) as emulation:
        torch.ops.resnet_cuda._add_relu_forward(x, x.clone(), True)
        (launch,) = emulation.launches()
    size = x.numel() * 4
    assert launch["tensors"] == {
        "x": (size, 0),
        "residual": (size, 0),
        "z": (0, size),
        "mask": (0, x.numel() // 8),
    }
    loaded, stored = (sum(sizes) for sizes in zip(*launch["tensors"].values(), strict=True))
    assert loaded == launch["counters"]["distinct_load_bytes"]
    assert stored == launch["counters"]["distinct_store_bytes"]


@pytest.mark.parametrize("misalignment", [0, 8, 20, 28])
def test_distinct_sectors_are_counted_where_they_lie(either: Emulator, misalignment: int) -> None:
    count = 1000
    addresses = [either.api.device_malloc(4 * count, misalignment, b"t", 1) for _ in range(2)]
    either.allocated += addresses
    x, y = (DeviceArray(address, np.empty(0)) for address in addresses)
    either.options.count = 1
    assert not either.launch("write_workspace", (16,), (64,), x, y, n=count)
    (record,) = either.launches()
    sectors = (misalignment % 32 + 4 * count + 31) // 32
    assert record.counters.distinct_load_sectors == sectors
    assert record.counters.distinct_store_sectors == sectors


def test_bytes_read_twice_are_distinct_once(either: Emulator) -> None:
    x, y = either.upload(values(64), "x"), either.empty(63, np.float32, "y")
    either.options.count = 1
    # Four blocks of 64 one-byte elements, each one byte beside the last: 253 distinct ones.
    assert not either.launch("narrow_elements", (4,), (64,), x, y)
    (record,) = either.launches()
    assert record.counters.global_load_bytes == 4 * 64
    assert record.counters.distinct_load_bytes == 4 * 63 + 1
    assert record.counters.distinct_store_bytes == 4 * 63


def test_bank_conflicts_show_as_wavefronts(checked: Emulator) -> None:
    checked.options.count = 1
    assert not launch(checked, "transpose")[0]
    assert not launch(checked, "transpose_bank_conflicts")[0]
    padded, unpadded = (record.counters for record in checked.launches())
    warps = N * N // 32
    assert padded.shared_load_bytes == padded.shared_store_bytes == N * N * 4
    assert padded.shared_wavefronts == padded.shared_wavefronts_ideal == 2 * warps
    assert unpadded.shared_wavefronts_ideal == 2 * warps
    assert unpadded.shared_wavefronts == warps + 32 * warps, "column reads take 32 passes each"


def test_launches_are_recorded_until_cleared(either: Emulator) -> None:
    launch(either, "transpose")
    launch(either, "exchange")
    first, second = either.launches()
    assert (first.kernel, tuple(first.grid), tuple(first.block)) == (
        b"transpose",
        (2, 2, 1),
        (32, 8, 1),
    )
    assert first.shared_bytes == 32 * 33 * 4
    assert second.kernel == b"exchange"
    assert second.counters.global_load_bytes == 0, "counters are filled only on request"
    either.api.clear_launches()
    assert either.launches() == []
