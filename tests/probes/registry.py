"""All probes."""

from __future__ import annotations

from tests.probes.families import (
    matrix,
    memory,
    synchronisation,
    tma_im2col,
    tma_tile,
    wgmma,
)
from tests.probes.probe import Probe

PROBES: list[Probe] = [
    *memory.PROBES,
    *matrix.PROBES,
    *synchronisation.PROBES,
    *tma_tile.PROBES,
    *tma_im2col.PROBES,
    *wgmma.PROBES,
]
