"""Where results stand under the roofline, and the totals of a network's layers."""

from __future__ import annotations

import pytest

from resnet_cuda.bench.roofline import ARITHMETIC, MEMORY, point, points, totals
from tests.bench import made_up
from tests.bench.made_up import OURS, report, row


def test_a_point_has_rates_intensity_and_fraction() -> None:
    place = point(row(us=100.0, flops=2 * 10**9, bytes=10**7, floor_us=25.0))
    assert place is not None
    assert place.intensity == 200.0
    assert place.flops_per_second == pytest.approx(2e13)
    assert place.bytes_per_second == pytest.approx(1e11)
    assert place.fraction == 0.25


@pytest.mark.parametrize(("share", "bound"), [(0.0, ARITHMETIC), (0.4, ARITHMETIC), (0.7, MEMORY)])
def test_what_bounds_is_what_sets_most_of_the_floor(share: float, bound: str) -> None:
    place = point(row(memory_share=share))
    assert place is not None and place.bound == bound


def test_what_has_no_time_or_no_floor_has_no_place() -> None:
    rows = [row(us=None, status="failed"), row(floor_us=None), row(floor_us=0.0)]
    assert points(rows) == []


def test_a_pass_without_arithmetic_has_no_intensity() -> None:
    place = point(row(flops=0, memory_share=1.0))
    assert place is not None and place.intensity is None and place.bound == MEMORY


def test_totals_count_each_layer_as_often_as_the_network_has_it() -> None:
    ours, eager = (t for t in totals(report(made_up.layers())) if t.pass_name == "conv_fprop")
    assert (ours.candidate, ours.layers, ours.of) == (OURS, 3, 3)
    assert ours.us == 3 * 100 + 200 + 2 * 400
    assert ours.floor_us == ours.us / 4
    assert (eager.layers, eager.of) == (2, 3), "one layer of the peer failed"
    assert eager.us == 3 * 50 + 100


def test_ratios_of_totals_are_over_the_layers_that_both_have() -> None:
    _, eager = (t for t in totals(report(made_up.layers())) if t.pass_name == "conv_fprop")
    assert eager.ratio == 0.5, "the failed layer must not make the peer look fast"


def test_totals_keep_networks_levels_and_passes_apart() -> None:
    rows = made_up.layers() + made_up.layers(network="resnet18") + made_up.layers(level="op")
    found = {(t.network, t.level, t.pass_name) for t in totals(report(rows))}
    assert len(found) == 6


def test_models_and_layers_of_no_network_have_no_totals() -> None:
    assert totals(report(made_up.sweep() + made_up.every_status())) == []
    assert totals({}) == []
