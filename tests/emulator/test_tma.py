"""TMA under emulation: what boxes hold bit for bit, when they arrive, and the faults that checked mode reports."""

from __future__ import annotations

import numpy as np
import pytest
from emulator_library import EARLY, LATE, RANDOM_COMPLETION
from named_kernels import NamedKernels
from tensor_maps import (
    BFLOAT16,
    ELEMENT_BYTES,
    FLOAT32,
    SWIZZLE_BYTES,
    SWIZZLE_NONE,
    UINT8,
    Im2colBox,
    Tensor,
    TiledBox,
    swizzle,
)

MAX_BOX_BYTES = 16 * 1024

# ---------------------------------------------------------------- boxes, bit for bit


def random_bytes(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(1, 256, count, dtype=np.uint8)


def load(emulator: NamedKernels, box: TiledBox | Im2colBox, memory: np.ndarray) -> np.ndarray:
    kind = "load_box_im2col" if isinstance(box, Im2colBox) else "load_box"
    x, y = emulator.upload(memory, "x"), emulator.empty(box.bytes, np.uint8, "y")
    error = emulator.run(f"{kind}_{box.tensor.rank}", [x, y], box.numbers())
    assert not error, f"{box}: {error}"
    result = y.array.copy()
    emulator.free()
    return result


def check_load(emulator: NamedKernels, box: TiledBox | Im2colBox, memory: np.ndarray) -> None:
    expected = swizzle(box.load(memory), box.swizzle, box.row_bytes, box.start)
    np.testing.assert_array_equal(load(emulator, box, memory), expected, err_msg=str(box))


def random_row(rng: np.random.Generator, element_bytes: int) -> tuple[int, int]:
    """Elements of a row, and the swizzle."""
    mode = int(rng.integers(0, 4))
    if mode != SWIZZLE_NONE:
        return SWIZZLE_BYTES[mode] // element_bytes, mode
    return int(rng.integers(1, 17)) * 16 // element_bytes, mode


def random_tensor(rng: np.random.Generator, rank: int, largest: int) -> Tensor:
    element = int(rng.integers(0, len(ELEMENT_BYTES)))
    dims = [int(rng.integers(1, 80)), *(int(n) for n in rng.integers(1, largest + 1, rank - 1))]
    return Tensor(element, dims, [16 * int(n) for n in rng.integers(0, 3, rank - 1)])


def random_tile(rng: np.random.Generator, rank: int) -> TiledBox:
    tensor = random_tensor(rng, rank, 12 if rank < 4 else 5)
    while True:
        row, mode = random_row(rng, tensor.element_bytes)
        box = TiledBox(
            tensor,
            [row, *(int(n) for n in rng.integers(1, 10, rank - 1))],
            [int(rng.integers(-row, dim + row)) for dim in tensor.dims[:1]]
            + [int(rng.integers(-6, dim + 6)) for dim in tensor.dims[1:]],
            [int(n) for n in rng.choice([1, 1, 1, 2, 3, 8], rank)],
            mode,
            128 * int(rng.integers(0, 9)),
        )
        if row <= 256 and box.bytes <= MAX_BOX_BYTES:
            return box


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_tiled_loads_are_what_numpy_says(plain_copies: NamedKernels, rank: int) -> None:
    rng = np.random.default_rng(rank)
    for _ in range(300):
        box = random_tile(rng, rank)
        plain_copies.options.tma = int(rng.integers(0, 3))
        check_load(plain_copies, box, random_bytes(rng, box.tensor.bytes))


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_tiled_stores_are_what_numpy_says(plain_copies: NamedKernels, rank: int) -> None:
    rng = np.random.default_rng(10 + rank)
    for _ in range(300):
        box = random_tile(rng, rank)
        plain_copies.options.tma = int(rng.integers(0, 3))
        memory, content = random_bytes(rng, box.tensor.bytes), random_bytes(rng, box.bytes)
        x = plain_copies.upload(memory, "x")
        shared = swizzle(content, box.swizzle, box.row_bytes, box.start)
        y = plain_copies.upload(shared, "y")
        error = plain_copies.run(f"store_box_{rank}", [x, y], box.numbers())
        assert not error, f"{box}: {error}"
        expected = memory.copy()
        box.store(expected, content)
        np.testing.assert_array_equal(x.array, expected, err_msg=str(box))
        plain_copies.free()


@pytest.mark.parametrize(
    "coordinates",
    [[0, 2**31 - 1], [0, -(2**31)], [2**31 - 1, 0], [-(2**31), 0], [-3, 2**31 - 4], [5, -4]],
)
def test_coordinates_reach_to_the_ends_of_their_range(
    plain_copies: NamedKernels, coordinates: list[int]
) -> None:
    tensor = Tensor(FLOAT32, [16, 2**32])
    tensor.strides_bytes = [0]  # every row is the same
    memory = random_bytes(np.random.default_rng(1), 64)
    check_load(plain_copies, TiledBox(tensor, [16, 8], coordinates), memory)


def random_column(rng: np.random.Generator, rank: int) -> Im2colBox:
    """The boxes of a convolution: any filter, stride, dilation, padding; any start in the bounding box."""
    spatial = rank - 2
    element = int(rng.choice([UINT8, BFLOAT16, FLOAT32]))
    limit = {3: 40, 4: 12, 5: 6}[rank]
    dims = [int(n) for n in rng.integers(1, limit, spatial)]
    filters = [int(n) for n in rng.integers(1, 4, spatial)]
    dilations = [int(n) for n in rng.integers(1, 3, spatial)]
    reaches = [(f - 1) * d for f, d in zip(filters, dilations, strict=True)]
    pads = [int(rng.integers(0, reach + 1)) for reach in reaches]
    # The filter must fit into the padded image.
    dims = [max(n, reach - 2 * pad + 1) for n, reach, pad in zip(dims, reaches, pads, strict=True)]
    lower = [-pad for pad in pads]
    upper = [pad - reach for pad, reach in zip(pads, reaches, strict=True)]
    strides = [int(n) for n in rng.integers(1, 4, spatial)]
    starts = [
        int(rng.integers(low, dim + up)) for low, dim, up in zip(lower, dims, upper, strict=True)
    ]
    channels, mode = random_row(rng, ELEMENT_BYTES[element])
    images = int(rng.integers(1, 4))
    tensor = Tensor(element, [int(rng.integers(1, 100)), *dims, images])
    pixels = int(rng.integers(1, min(1024, MAX_BOX_BYTES // (channels * tensor.element_bytes)) + 1))
    return Im2colBox(
        tensor,
        min(channels, 256),
        pixels,
        lower,
        upper,
        [int(rng.integers(-8, tensor.dims[0])), *starts, int(rng.integers(-1, images + 1))],
        [
            int(rng.integers(0, f)) * dilation
            for f, dilation in zip(filters, dilations, strict=True)
        ],
        [1, *strides, int(rng.choice([1, 1, 2]))],
        mode,
        128 * int(rng.integers(0, 9)),
    )


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_im2col_loads_are_what_numpy_says(plain_copies: NamedKernels, rank: int) -> None:
    rng = np.random.default_rng(20 + rank)
    for _ in range(600):
        box = random_column(rng, rank)
        plain_copies.options.tma = int(rng.integers(0, 3))
        check_load(plain_copies, box, random_bytes(rng, box.tensor.bytes))


def test_a_column_of_a_convolution_is_its_shifted_input(plain_copies: NamedKernels) -> None:
    """Filter 3 x 3, padding 1, stride 2: all output pixels of two images, tap by tap."""
    n, h, w, c, stride, pad = 2, 9, 7, 32, 2, 1
    p, q = (h + 2 * pad - 3) // stride + 1, (w + 2 * pad - 3) // stride + 1
    image = np.arange(1, n * h * w * c + 1, dtype=np.float32).reshape(n, h, w, c)
    surrounded = np.pad(image, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    for r in range(3):
        for s in range(3):
            box = Im2colBox(
                Tensor(FLOAT32, [c, w, h, n]),
                c,
                n * p * q,
                [-pad, -pad],
                [pad - 2, pad - 2],
                [0, -pad, -pad, 0],
                [s, r],
                [1, stride, stride, 1],
            )
            column = load(plain_copies, box, image.view(np.uint8).ravel()).view(np.float32)
            taps = surrounded[:, r : r + stride * p : stride, s : s + stride * q : stride]
            np.testing.assert_array_equal(column.reshape(n, p, q, c), taps)


@pytest.mark.parametrize("completion", [LATE, EARLY, RANDOM_COMPLETION])
def test_boxes_raise_no_alarm_in_checked_mode(
    checked_copies: NamedKernels, completion: int
) -> None:
    rng = np.random.default_rng(30 + completion)
    checked_copies.options.tma = completion
    for rank in (1, 2, 3, 4, 5):
        for _ in range(3):
            box = random_tile(rng, rank)
            check_load(checked_copies, box, random_bytes(rng, box.tensor.bytes))
    for rank in (3, 4, 5):
        for _ in range(3):
            box = random_column(rng, rank)
            check_load(checked_copies, box, random_bytes(rng, box.tensor.bytes))
