"""Writes golden.npz from the probes' descriptions: python -m tests.probes.generate_golden"""

from __future__ import annotations

from tests.probes import golden
from tests.probes.probe import INPUTS, NUMBERS
from tests.probes.registry import PROBES


def main() -> None:
    vectors = {}
    for probe in PROBES:
        assert probe.name not in vectors, f"two probes are called {probe.name}"
        assert len(probe.numbers) <= NUMBERS, probe.name
        held = probe.describe()
        assert len(held.inputs) <= INPUTS, probe.name
        assert held.expected.ndim == len(probe.axes), probe.name
        assert held.initial is None or held.initial.nbytes == held.expected.nbytes, probe.name
        vectors[probe.name] = held
    golden.save(vectors)
    print(f"{golden.PATH.name}: {len(vectors)} probes, {golden.PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
