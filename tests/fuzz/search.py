"""How both fuzzers look for a failure: as many random examples, the same for one seed; the first that fails is made
smaller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy


def search(
    strategy: SearchStrategy, judge: Callable[[Any], None], examples: int, seed_: int
) -> None:
    """Raises what `judge` says about the smallest failure that was found."""

    @seed(seed_)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(example: Any) -> None:
        judge(example)

    run()
