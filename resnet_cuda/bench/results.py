"""Reading a report's results: which candidates belong to one workload, who is faster, by how much.

Everything here works on a report's data as `report.load` returns it, complete or cut off.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any

from resnet_cuda.bench.workload import ABSENT, FAILED, LEVELS, SKIPPED, WRONG, labelled, title

Row = Mapping[str, Any]  # a Result, as in reports
_GRAPH = "+ graph"
# Within this factor two candidates count as equally fast: what the harness' comparison with itself is allowed.
EQUAL = 1.03
FASTER, SLOWER, ALIKE, UNCLEAR = "faster", "slower", "equal", "unclear"
ERRORS_OF_NOISE = 2.0  # how many standard errors count as noise


@dataclass(frozen=True)
class Comparison:
    """The results of one workload's candidates, ours and the peers, in the report's order.

    label: tells it from the others of the same workload, which have other peers.
    """

    level: str
    workload: str
    pass_name: str
    dtype: str
    label: str
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """The workload's, with the label."""
        return labelled(self.workload, self.label)

    @property
    def ours(self) -> list[Row]:
        return [row for row in self.rows if row["ours"]]

    @property
    def peers(self) -> list[Row]:
        return [row for row in self.rows if not row["ours"]]

    @property
    def best_ours(self) -> Row | None:
        return fastest(self.ours)

    @property
    def best_peer(self) -> Row | None:
        """By the ratio to ours where there is one: medians of a busy machine are not to be compared."""
        ours = self.best_ours
        timed = [row for row in self.peers if row["timing"]]
        return min(timed, key=lambda row: self.speedup(row, ours) or median_us(row), default=None)

    @property
    def all_skipped(self) -> bool:
        return all(row["status"] == SKIPPED for row in self.rows)

    @property
    def title(self) -> str:
        return title(self.level, self.workload, self.pass_name, self.dtype, self.label)

    def peer(self, name: str) -> Row | None:
        return next((row for row in self.peers if row["candidate"] == name), None)

    def counterpart(self, peer: Row) -> Row | None:
        """Which of ours a peer is compared with: one in a CUDA graph with one in a graph, the others with the
        first."""
        graphed = peer["candidate"].endswith(_GRAPH)
        timed = [row for row in self.ours if row["timing"]]
        alike = [row for row in timed if row["candidate"].endswith(_GRAPH) == graphed]
        return next(iter(alike or timed), None)

    def speedup(self, peer: Row, ours: Row | None = None) -> float | None:
        """The peer's time over ours; None where one of them has no time. Round by round where they took turns, of the
        medians where memory was too short for that."""
        ours = ours or self.counterpart(peer)
        if ours is None or not (ours["timing"] and peer["timing"]):
            return None
        ratio = ours["versus"].get(peer["candidate"])
        return median_us(peer) / median_us(ours) if ratio is None else float(ratio)

    def speedup_error(self, peer: Row, ours: Row | None = None) -> float:
        """The standard error of `speedup`, relative to it; 0 where it is not known."""
        ours = ours or self.counterpart(peer)
        return 0.0 if ours is None else ratio_error(ours, peer)

    def speedup_spread(self, peer: Row, ours: Row | None = None) -> float | None:
        """Half the interquartile range of the rounds' ratios over their median; None where they took no turns."""
        ours = ours or self.counterpart(peer)
        found = (ours or {}).get("versus_quartiles") or {}
        if ours is None or peer["candidate"] not in found:
            return None
        low, high = found[peer["candidate"]]
        return float(high - low) / 2 / float(ours["versus"][peer["candidate"]])

    @property
    def speedup_over_best(self) -> float | None:
        """The fastest peer's time over our fastest candidate's."""
        if self.best_peer is None or self.best_ours is None:
            return None
        return self.speedup(self.best_peer, self.best_ours)


def ratio_error(ours: Row, peer: Row) -> float:
    """The standard error of our ratio to a peer, relative to it: that of a normal distribution's median, its width
    taken from the quartiles, which a few rounds with an interruption do not widen. 0 where the report has none."""
    quartiles = (ours.get("versus_quartiles") or {}).get(peer["candidate"])
    if not quartiles or not (ours["timing"] and peer["timing"]):
        return 0.0
    rounds = min(row["timing"]["rounds"] for row in (ours, peer))
    deviation = (quartiles[1] - quartiles[0]) / 1.349
    ratio = ours["versus"][peer["candidate"]]
    return float(math.sqrt(math.pi / 2) * deviation / math.sqrt(rounds) / ratio)


def fastest(rows: Iterable[Row]) -> Row | None:
    timed = [row for row in rows if row["timing"]]
    return min(timed, key=median_us, default=None)


def median_us(row: Row) -> float:
    return float(row["timing"]["median_us"])


def spread(row: Row) -> float:
    """Half the interquartile range over the median: the ± of the tables."""
    timing = row["timing"]
    return float(timing["q3_us"] - timing["q1_us"]) / 2 / median_us(row)


def comparisons(data: Mapping[str, Any]) -> list[Comparison]:
    """One for each workload, in the order of the levels, else as they were measured. A workload that was measured
    twice is there twice."""
    groups: list[dict[str, Row]] = []
    latest: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in data.get("results", []):
        network = (row.get("facts") or {}).get("network", "")
        key = (*identity(row), network)
        if key not in latest or row["candidate"] in latest[key]:
            latest[key] = {}
            groups.append(latest[key])
        latest[key][row["candidate"]] = row
    found = []
    for group in groups:
        rows = tuple(group.values())
        found.append(Comparison(*identity(rows[0]), rows))
    return sorted(found, key=lambda c: _level_order(c.level))


def identity(row: Row) -> tuple[str, str, str, str, str]:
    """Level, workload, pass, dtype and label: which comparison a result belongs to."""
    label = row.get("label") or ""
    return row["level"], row["workload"], row["pass_name"], row["dtype"], label


def by_level_and_pass(
    found: Iterable[Comparison],
) -> dict[tuple[str, str], list[Comparison]]:
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in found:
        groups.setdefault((comparison.level, comparison.pass_name), []).append(comparison)
    return groups


@dataclass(frozen=True)
class Verdict:
    """How ours compares with one peer (`peer`; "" is the fastest of each workload) over the workloads of a level,
    pass and dtype that both ran. `mean`: geometric, of the peer's time over ours; above 1 ours is faster."""

    level: str
    pass_name: str
    dtype: str
    peer: str
    ratios: Mapping[str, float]  # by workload
    errors: Mapping[str, float]  # of the ratios, relative

    @property
    def mean(self) -> float:
        return geometric_mean(self.ratios.values())

    @property
    def noise(self) -> float:
        """By how much the mean may be off, relative to it."""
        of_sum = math.hypot(*(self.errors[name] for name in self.ratios))
        return ERRORS_OF_NOISE * of_sum / len(self.ratios)

    @property
    def word(self) -> str:
        if 1 / EQUAL <= self.mean <= EQUAL:
            return ALIKE
        if abs(math.log(self.mean)) <= self.noise:
            return UNCLEAR
        return FASTER if self.mean > 1 else SLOWER

    @property
    def faster(self) -> int:
        return sum(ratio > EQUAL for ratio in self.ratios.values())

    @property
    def slower(self) -> int:
        return sum(ratio < 1 / EQUAL for ratio in self.ratios.values())

    @property
    def worst(self) -> tuple[str, float]:
        return min(self.ratios.items(), key=lambda item: item[1])


def verdicts(data: Mapping[str, Any]) -> list[Verdict]:
    """For each level, pass and dtype: against the fastest peer of each workload, then against each peer. None of a dry
    run: its times are the emulator's.

    A workload whose only comparison has a label has few peers, the fastest of which says little: a batch sweep, say,
    has eager alone. It counts against each peer.
    """
    if is_dry(data):
        return []
    found = comparisons(data)
    with_all_peers = {identity(c.rows[0])[:-1] for c in found if not c.label}
    # Of each workload (ratio, error).
    groups: dict[tuple[str, str, str], dict[str, dict[str, tuple[float, float]]]] = {}
    for comparison in found:
        key = (comparison.level, comparison.pass_name, comparison.dtype)
        peers = groups.setdefault(key, {"": {}})
        among_all = identity(comparison.rows[0])[:-1] in with_all_peers
        pairs = [(p["candidate"], p, comparison.counterpart(p)) for p in comparison.peers]
        if among_all and (best := comparison.best_peer):
            pairs.append(("", best, comparison.best_ours))
        for name, peer, ours in pairs:
            ratio = comparison.speedup(peer, ours) if ours else None
            if ratio is not None:
                known = peers.setdefault(name, {})
                new = (ratio, comparison.speedup_error(peer, ours))
                # The same workload against other peers, or again: what speaks least for us.
                known[comparison.workload] = min(new, known.get(comparison.workload, new))
    return [
        Verdict(
            *key,
            peer,
            {name: ratio for name, (ratio, _) in found.items()},
            {name: error for name, (_, error) in found.items()},
        )
        for key, peers in groups.items()
        for peer, found in peers.items()
        if found
    ]


def is_dry(data: Mapping[str, Any]) -> bool:
    return (data.get("environment") or {}).get("kind") == "dry-run"


def complaints(data: Mapping[str, Any]) -> list[str]:
    """What of ours is wrong or failed, of the benchmarks and of the hardware run's checks: exit code 1."""
    found = [
        f"{title(*identity(row))}, {row['candidate']}: {row['status']}: {row['message']}"
        for row in data.get("results", [])
        if row["ours"] and row["status"] in (WRONG, FAILED)
    ]
    for section in ("correctness", "safety"):
        found += [
            f"{section}, {entry['name']}: {entry['status']}: {entry.get('message', '')}"
            for entry in data.get(section) or []
            if entry["status"] in (WRONG, FAILED)
        ]
    return found


def statuses(data: Mapping[str, Any]) -> dict[str, int]:
    """How many results there are of each status, the most frequent first."""
    counts: dict[str, int] = {}
    for row in data.get("results", []):
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def absent(data: Mapping[str, Any]) -> dict[str, str]:
    """{peer: why it is not here}, of packages and of candidates that no workload could run."""
    found = {p["name"]: p["absent"] for p in data.get("peers") or [] if p["absent"]}
    ran = {r["candidate"] for r in data.get("results", []) if r["status"] != ABSENT}
    for row in data.get("results", []):
        if row["status"] == ABSENT and row["candidate"] not in ran:
            found.setdefault(row["candidate"], row["message"])
    return found


def _level_order(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)
