"""The limits of tensor maps: each field at its bounds, and the message beyond them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from named_kernels import NamedKernels
from tensor_maps import (
    BFLOAT16,
    FLOAT32,
    FLOAT64,
    SWIZZLE_32,
    SWIZZLE_64,
    SWIZZLE_128,
    UINT8,
    Im2colBox,
    Tensor,
    TiledBox,
)


def tensor(element: int, dims: list[int], strides_bytes: list[int] | None = None) -> Tensor:
    out = Tensor(element, dims)
    if strides_bytes is not None:
        out.strides_bytes = strides_bytes
    return out


TILED = TiledBox(tensor(FLOAT32, [64, 64, 64]), [32, 8, 8], [0, 0, 0])
IM2COL = Im2colBox(
    tensor(BFLOAT16, [64, 14, 14, 2]), 64, 128, [-1, -1], [-1, -1], [0, 0, 0, 0], [0, 0]
)


def columns(rank: int, lower: list[int], upper: list[int], dims: list[int]) -> Im2colBox:
    return replace(
        IM2COL,
        tensor=tensor(BFLOAT16, [64, *dims, 2], [128] * (rank - 1)),
        lower=lower,
        upper=upper,
        coordinates=[0] * rank,
        offsets=[0] * (rank - 2),
    )


def make(emulator: NamedKernels, box: TiledBox | Im2colBox, misalignment: int = 0) -> str:
    x = emulator.upload(np.zeros(1024, np.uint8), "x")
    x.address += misalignment
    return emulator.run("make_map", [x, x], box.numbers())


def tiled(**fields: object) -> TiledBox:
    return replace(TILED, **fields)


def im2col(**fields: object) -> Im2colBox:
    return replace(IM2COL, **fields)


ACCEPTED = {
    "tiled": TILED,
    "im2col": IM2COL,
    "dims": tiled(tensor=tensor(FLOAT32, [1 << 32, 1 << 32, 1], [16, 16])),
    "strides": tiled(tensor=tensor(FLOAT32, [64, 64, 64], [0, (1 << 40) - 16])),
    "box": tiled(box=[256, 256, 256]),
    "element strides": tiled(element_strides=[8, 8, 8]),
    "swizzle 32": tiled(box=[8, 8, 8], swizzle=SWIZZLE_32),
    "swizzle 64": tiled(box=[16, 8, 8], swizzle=SWIZZLE_64),
    "swizzle 128": tiled(box=[32, 8, 8], swizzle=SWIZZLE_128),
    "rank 1": TiledBox(tensor(UINT8, [100]), [16], [0]),
    "rank 5": TiledBox(tensor(FLOAT64, [2] * 5), [2] * 5, [0] * 5),
    "corners of rank 3": columns(3, [-32768], [32767], [1]),
    "corners of rank 4": columns(4, [-128, 127], [127, -128], [1, 256]),
    "corners of rank 5": columns(5, [-16, 15, 0], [15, -16, 0], [1, 32, 1]),
    "columns": im2col(channels=256, pixels=1024),
    "one pixel": columns(4, [3, 0], [-3, 0], [7, 1]),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_fields_at_their_limits_are_accepted(plain_copies: NamedKernels, name: str) -> None:
    assert make(plain_copies, ACCEPTED[name]) == ""


# description, what the message says after the function's name
REFUSED_TILED = [
    (
        tiled(tensor=tensor(FLOAT32, [64, 0, 64], [256, 256])),
        "dims[1] is 0; accepted: 1 to 2^32",
    ),
    (
        tiled(tensor=tensor(FLOAT32, [64, 64, (1 << 32) + 1], [256, 256])),
        "dims[2] is 4294967297; accepted: 1 to 2^32",
    ),
    (
        tiled(tensor=tensor(FLOAT32, [64, 64, 64], [256, 16392])),
        "strides_bytes[1] is 16392; accepted: a multiple of 16 below 2^40",
    ),
    (
        tiled(tensor=tensor(FLOAT32, [64, 64, 64], [1 << 40, 256])),
        "strides_bytes[0] is 1099511627776; accepted: a multiple of 16 below 2^40",
    ),
    (tiled(box=[32, 0, 8]), "box[1] is 0; accepted: 1 to 256"),
    (tiled(box=[32, 8, 257]), "box[2] is 257; accepted: 1 to 256"),
    (tiled(element_strides=[1, 0, 1]), "element_strides[1] is 0; accepted: 1 to 8"),
    (tiled(element_strides=[1, 1, 9]), "element_strides[2] is 9; accepted: 1 to 8"),
    (tiled(box=[6, 8, 8]), "box[0] in bytes is 24; accepted: a multiple of 16 bytes"),
    (tiled(swizzle=4), "swizzle is 4; accepted: kNone, k32, k64 or k128"),
    (
        tiled(box=[64, 8, 8], swizzle=SWIZZLE_128),
        "box[0] in bytes is 256; accepted: 128 bytes, as wide as the swizzle",
    ),
    (
        tiled(box=[4, 8, 8], swizzle=SWIZZLE_32),
        "box[0] in bytes is 16; accepted: 32 bytes, as wide as the swizzle",
    ),
]

REFUSED_IM2COL = [
    (
        im2col(tensor=tensor(BFLOAT16, [64, 14]), coordinates=[0, 0]),
        "rank is 2; accepted: 3 to 5",
    ),
    (
        columns(3, [-32769], [0], [8]),
        "lower[0] is -32769; accepted: -32768 to 32767 with rank 3",
    ),
    (columns(4, [0, -129], [0, 0], [8, 8]), "lower[1] is -129; accepted: -128 to 127 with rank 4"),
    (columns(4, [0, 0], [128, 0], [8, 8]), "upper[0] is 128; accepted: -128 to 127 with rank 4"),
    (
        columns(5, [0, 0, 0], [0, 0, 16], [8, 8, 8]),
        "upper[2] is 16; accepted: -16 to 15 with rank 5",
    ),
    (
        columns(4, [0, 2], [0, -6], [8, 8]),
        "bounding box[1] is 0; accepted: 1 or more, that is dims[i + 1] + upper[i] - lower[i]",
    ),
    (im2col(channels=0), "channels is 0; accepted: 1 to 256"),
    (im2col(channels=264), "channels is 264; accepted: 1 to 256"),
    (im2col(channels=12), "channels in bytes is 24; accepted: a multiple of 16 bytes"),
    (im2col(pixels=0), "pixels is 0; accepted: 1 to 1024"),
    (im2col(pixels=1025), "pixels is 1025; accepted: 1 to 1024"),
    (im2col(element_strides=[1, 1, 1, 9]), "element_strides[3] is 9; accepted: 1 to 8"),
    (
        im2col(swizzle=SWIZZLE_64),
        "channels in bytes is 128; accepted: 64 bytes, as wide as the swizzle",
    ),
]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        *((box, f"make_tiled_tensor_map: {message}") for box, message in REFUSED_TILED),
        *((box, f"make_im2col_tensor_map: {message}") for box, message in REFUSED_IM2COL),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fields_out_of_range_are_named_with_their_value(
    plain_copies: NamedKernels, box: TiledBox | Im2colBox, message: str
) -> None:
    assert make(plain_copies, box) == message


ELEMENT, RANK = 1, 2  # places in the numbers of a launch


@pytest.mark.parametrize(
    ("box", "place", "value", "message"),
    [
        (TILED, ELEMENT, 7, "make_tiled_tensor_map: element is 7; accepted: a TensorElement"),
        (TILED, RANK, 0, "make_tiled_tensor_map: rank is 0; accepted: 1 to 5"),
        (TILED, RANK, 6, "make_tiled_tensor_map: rank is 6; accepted: 1 to 5"),
        (IM2COL, RANK, 6, "make_im2col_tensor_map: rank is 6; accepted: 3 to 5"),
    ],
)
def test_ranks_and_elements_that_do_not_exist_are_named(
    plain_copies: NamedKernels, box: TiledBox | Im2colBox, place: int, value: int, message: str
) -> None:
    numbers = box.numbers()
    numbers[place] = value
    x = plain_copies.upload(np.zeros(16, np.uint8), "x")
    assert plain_copies.run("make_map", [x, x], numbers) == message


@pytest.mark.parametrize("box", [TILED, IM2COL], ids=["tiled", "im2col"])
def test_a_misaligned_base_is_named(plain_copies: NamedKernels, box: TiledBox | Im2colBox) -> None:
    error = make(plain_copies, box, misalignment=8)
    assert ": base is 0x" in error, error
    assert error.endswith("8; accepted: an address that is a multiple of 16"), error
