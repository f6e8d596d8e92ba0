"""Named barriers, mbarriers, elect.sync, setmaxnreg, clusters, grids that depend on each other."""

from __future__ import annotations

import numpy as np

from tests.probes.probe import HOPPER, Probe, Vectors, random, words


def named_barriers() -> Vectors:
    values = random(50, 0, 1000, 3, 4, 32)
    held = values.copy()
    for warp in range(1, 4):
        held[:, warp] += 2 * held[:, warp - 1, ::-1]
    return Vectors((words(values),), words(held[:, ::-1]))


def mbarrier_phases() -> Vectors:
    values = random(51, 0, 1000, 5, 128)
    # What try_wait said: a new barrier's phase -1 (parity 1) is complete and phase 0 is not; after five phases the last
    # one, of parity 0, is complete and the next is not; a second barrier in the same place starts anew.
    answers = [1, 0, 1, 0, 1]
    return Vectors((words(values),), words(np.concatenate([values[:, ::-1].ravel(), answers])))


def elect_one() -> Vectors:
    return Vectors((), words(np.concatenate([np.ones(128, np.int64), 1000 + np.arange(4)])))


def set_max_registers() -> Vectors:
    values = random(52, 0, 1000, 128)
    return Vectors((words(values),), words(np.outer([1, 2, 3], values)))


BLOCKS = 8


def cluster_rank(size: int) -> Vectors:
    rank = np.arange(BLOCKS) % size
    return Vectors((), words(np.repeat(rank * 100 + size, 32).reshape(BLOCKS, 32)))


def cluster_exchange(size: int, blocks: int) -> Vectors:
    values = random(53, 0, 1000, blocks, 64)
    block = np.arange(blocks)
    first, rank = block // size * size, block % size
    right = first + (rank + 1) % size
    read = values[right, ::-1]
    # The right neighbour's left neighbour is the block itself: it finds what that one read, plus one.
    out = np.stack([read, read[right] + 1, np.repeat(rank[right], 64).reshape(blocks, 64)], axis=1)
    return Vectors((words(values),), words(out))


def remote_arrive(size: int) -> Vectors:
    values = random(54, 0, 1000, 4, size)  # by giver and by the receiver's rank
    out = np.zeros((4, 64), np.int64)
    for block in range(4):
        first, rank = block // size * size, block % size
        out[block] = values[first + np.arange(64) % size, rank]
    return Vectors((words(values),), words(out))


def grid_dependency() -> Vectors:
    values = random(55, 0, 1000, 256)
    first = values.astype(np.uint32)
    for _ in range(20000):
        first = first * np.uint32(1664525) + np.uint32(1013904223)
    second = first[::-1] + np.uint32(1)
    return Vectors((words(values),), np.stack([first, second, second - first]))


PROBES = [
    Probe("named_barriers", "named_barriers", named_barriers, ("round", "warp", "lane")),
    Probe("mbarrier_phases", "mbarrier_phases", mbarrier_phases, ("word",), capability=HOPPER),
    Probe("elect_one", "elect_one", elect_one, ("word",), capability=HOPPER),
    Probe(
        "set_max_registers",
        "set_max_registers",
        set_max_registers,
        ("warpgroup", "thread"),
        capability=HOPPER,
    ),
    *(
        Probe(
            f"cluster_rank_of_{size}",
            f"cluster_rank_of_{size}",
            lambda size=size: cluster_rank(size),
            ("block", "thread"),
            capability=HOPPER,
        )
        for size in (1, 2, 4, 8)
    ),
    *(
        Probe(
            f"cluster_exchange_of_{size}",
            f"cluster_exchange_of_{size}",
            lambda size=size, blocks=blocks: cluster_exchange(size, blocks),
            ("block", "what", "thread"),
            capability=HOPPER,
        )
        for size, blocks in ((2, 4), (4, 8))
    ),
    *(
        Probe(
            f"remote_arrive_of_{size}",
            f"remote_arrive_of_{size}",
            lambda size=size: remote_arrive(size),
            ("block", "thread"),
            capability=HOPPER,
        )
        for size in (2, 4)
    ),
    Probe(
        "grid_dependency",
        "grid_dependency",
        grid_dependency,
        ("kernel", "thread"),
        capability=HOPPER,
    ),
]
