"""In which order threads run, and when asynchronous operations complete: what the hardware leaves open."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass

ROUND_ROBIN, REVERSED, RANDOM = 0, 1, 2
LATE, EARLY, AT_RANDOM = 0, 1, 2


@dataclass(frozen=True)
class Policy:
    """Options of the emulator; two runs with equal policies are equal."""

    schedule: int = ROUND_ROBIN
    seed: int = 1
    cp_async: int = LATE
    tma: int = LATE
    wgmma: int = LATE

    def options(self) -> dict[str, int]:
        return asdict(self)

    def __str__(self) -> str:
        schedule = ("round robin", "reversed", f"random {self.seed}")[self.schedule]
        late = ("late", "early", "random")
        return f"{schedule}, cp.async {late[self.cp_async]}, TMA {late[self.tma]}, wgmma {late[self.wgmma]}"


def completing(when: int, schedule: int = ROUND_ROBIN, seed: int = 1) -> Policy:
    return Policy(schedule, seed, when, when, when)


# Every schedule with every completion, and the mixtures in which one unit is ahead of the other.
MATRIX = [
    *(completing(when, schedule) for schedule in (ROUND_ROBIN, REVERSED) for when in (LATE, EARLY)),
    *(completing(when, RANDOM, seed) for seed in (1, 2) for when in (LATE, EARLY, AT_RANDOM)),
    Policy(tma=EARLY, wgmma=LATE),
    Policy(tma=LATE, wgmma=EARLY),
]


def random_policy(seed: int) -> Policy:
    choose = random.Random(seed)
    return Policy(
        schedule=choose.choices((ROUND_ROBIN, REVERSED, RANDOM), weights=(1, 1, 6))[0],
        seed=seed,
        cp_async=choose.randrange(3),
        tma=choose.randrange(3),
        wgmma=choose.randrange(3),
    )
