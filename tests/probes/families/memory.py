"""Global and shared memory, warp functions, atomics, cp.async."""

from __future__ import annotations

import numpy as np

from tests.probes.probe import HOPPER, Probe, Vectors, random, words

UNTOUCHED = 0xCD


def reversed_elements(dtype: str, width: int) -> Vectors:
    values = random(width, 0, 256, 64, width).astype(np.uint8).view(dtype)
    backwards = values[::-1]
    return Vectors((values,), np.concatenate([backwards, backwards]))


def reversed_in_shared(width: int) -> Vectors:
    values = random(30 + width, 0, 256, 64, width).astype(np.uint8).view("u4")
    return Vectors((values,), values[::-1])


def prefetched() -> Vectors:
    values = random(15, 0, 1000, 128)
    return Vectors((words(values),), words(values[::-1]))


def shuffles() -> Vectors:
    values = random(11, 0, 1 << 16, 32)
    lane = np.arange(32)
    out = []
    for width in (32, 16, 8):
        base, within = lane // width * width, lane % width
        out.append(values[base + lane * 5 % 32 % width])
        out.append(values[np.where(within >= 3, lane - 3, lane)])
        out.append(values[np.where(within + 3 < width, lane + 3, lane)])
        # Lanes of other segments can be read where they come before one's own.
        other = within ^ 5
        out.append(values[np.where(other < width, base + other, lane)])
    out.append(lane ^ 9)
    out.append(values[lane ^ 9])
    return Vectors((words(values),), words(np.stack(out)))


def votes() -> Vectors:
    values = random(12, 0, 16, 32)
    values[:] |= 4  # a vote of all
    values[:] &= ~8  # a vote of nobody
    out = np.zeros((4, 4, 32), np.int64)
    for bit in range(4):
        predicate = values >> bit & 1
        mask = int((predicate << np.arange(32)).sum())
        out[bit, 0] = mask
        out[bit, 1] = mask != 0
        out[bit, 2] = mask == 0xFFFFFFFF
        out[bit, 3] = np.where(np.arange(32) < 11, mask & 0x7FF, mask & ~0x7FF)
    return Vectors((words(values),), words(out))


def atomics() -> Vectors:
    values = random(13, 1, 200, 64)
    out = np.zeros(83, np.int64)
    out[0] = values.sum()
    out[1] = values.min()
    out[2] = values.max()
    out[3] = np.bitwise_and.reduce(values | 0x10)
    out[4] = np.bitwise_or.reduce(values)
    out[5] = np.bitwise_xor.reduce(values)
    out[6] = min(0, values.min() - 100)
    out[7] = max(0, values.max() - 100)
    total = int(values.sum()) << 30
    out[8], out[9] = total & 0xFFFFFFFF, total >> 32
    out[16:80] = values * 100 + np.arange(64)
    out[80] = values.sum()
    out[81] = values.max()
    out[82] = 1
    return Vectors((words(values),), words(out), np.zeros(83, np.uint32))


def arithmetic() -> Vectors:
    values = random(14, 0, 1 << 32, 32)
    values[:4] = 0, 1, 1 << 31, (1 << 32) - 1
    values[4:12] = 1 << np.arange(3, 27, 3)
    bits = [f"{value:032b}" for value in values]
    out = [
        [text.count("1") for text in bits],
        [text[::-1].find("1") + 1 for text in bits],
        [(text + "1").index("1") for text in bits],
        [int(value) * 0x9E3779B9 >> 32 for value in values],
        values,
    ]
    return Vectors((words(values),), words(np.array(out)))


def cp_async(width: int) -> Vectors:
    source = random(20 + width, 0, 256, 64, width).astype(np.uint8)
    sizes = np.arange(64) * 7 % (width + 1)
    sizes[:2] = 0, width
    out = np.full((64 + 16 // width, width), UNTOUCHED, np.uint8)
    out[:64] = np.where(np.arange(width) < sizes[:, None], source, 0)[::-1]
    return Vectors((source, words(sizes)), out)


def cp_async_groups() -> Vectors:
    source = words(random(25, 0, 1 << 20, 4, 64, 4))
    return Vectors((source,), source)


PROBES = [
    *(
        Probe(
            f"global_{width}_byte{'s' if width > 1 else ''}",
            f"global_{width}_byte{'s' if width > 1 else ''}",
            lambda dtype=dtype, width=width: reversed_elements(dtype, width),
            ("element", "word"),
        )
        for width, dtype in ((1, "u1"), (2, "u2"), (4, "u4"), (8, "u4"), (16, "u4"))
    ),
    *(
        Probe(
            f"shared_{width}_bytes",
            f"shared_{width}_bytes",
            lambda width=width: reversed_in_shared(width),
            ("element", "word"),
        )
        for width in (4, 8, 16)
    ),
    Probe("prefetch_l2", "prefetch_l2", prefetched, ("word",), capability=HOPPER),
    Probe("shuffle", "shuffle", shuffles, ("shuffle", "lane")),
    Probe("vote", "vote", votes, ("bit", "vote", "lane")),
    Probe("atomics", "atomics", atomics, ("word",)),
    Probe("arithmetic", "arithmetic", arithmetic, ("function", "lane")),
    *(
        Probe(
            f"cp_async_{width}",
            f"cp_async_{width}",
            lambda width=width: cp_async(width),
            ("chunk", "byte"),
        )
        for width in (4, 8, 16)
    ),
    Probe("cp_async_groups", "cp_async_groups", cp_async_groups, ("group", "thread", "word")),
]
