"""Tables: nothing is dropped, and they fit."""

from __future__ import annotations

import builtins
import io

import pytest

from resnet_cuda.bench import tables
from resnet_cuda.bench.report_tables import result_tables, totals_tables
from resnet_cuda.bench.tables import fit, natural_width, plain, show
from tests.bench import made_up
from tests.bench.made_up import OURS, comparison, report, row


def drawn(data: dict[str, object], width: int = 200) -> str:
    stream = io.StringIO()
    show(result_tables(data), stream, width)
    return stream.getvalue()


@pytest.mark.parametrize("width", [200, 90, 60, 30])
def test_every_status_shows_up_with_its_message(width: int) -> None:
    text = " ".join(drawn(report(made_up.every_status()), width).split())
    for status in ("failed (", "wrong (", "absent", "skipped"):
        assert status in text
    for message in (
        "compile: failed: RuntimeError: no compiler",
        "oneDNN fused: wrong: 3 times as far",
        f"{OURS}: wrong: 9 times as far",
        "apex: absent: apex is not installed [2 times]",
        "skipped (no time left): conv n8-256x14x14",
    ):
        assert message in text, f"{message!r} is not below the table:\n{text}"


def test_every_workload_and_peer_has_its_place() -> None:
    data = report(made_up.every_status() + made_up.layers() + made_up.sweep())
    text = drawn(data, 300)
    for result in data["results"]:
        assert result["workload"] in text
        words = result["candidate"].split()
        assert all(word in text for word in words), f"{result['candidate']} is missing"


def test_ratios_floor_throughput_and_memory_are_in_the_row() -> None:
    (table,) = result_tables(report(made_up.sweep()[:5]))
    first, graph = table.rows
    cells = dict(zip(table.header, (cell.text for cell in first), strict=True))
    assert cells[OURS] == "1.50 ms ±2%"
    assert cells["of floor"] == "20%"
    assert cells["images/s"] == "667"
    assert cells["memory"] == "1.00 GiB"
    assert cells["eager NCHW"] == "1.50x"
    assert graph[0].text.strip() == "+ graph"


def test_news_are_coloured_by_what_they_mean_for_us() -> None:
    (table,) = result_tables(
        report(comparison({OURS: 10.0, "slow": 20.0, "fast": 5.0, "even": 10.1}))
    )
    moods = dict(zip(table.header, (cell.mood for cell in table.rows[0]), strict=True))
    assert (moods["slow"], moods["fast"], moods["even"]) == (tables.GOOD, tables.BAD, "")


def test_without_a_time_of_ours_the_peers_keep_theirs() -> None:
    rows = [row(OURS, None, status="failed", message="boom"), row("eager NCHW", 70.0)]
    text = drawn(report(rows))
    assert "70.0 us" in text and "failed (1)" in text


def test_a_workload_without_ours_has_a_row() -> None:
    assert "70.0 us" in drawn(report([row("eager NCHW", 70.0)]))


@pytest.mark.parametrize("width", [200, 120, 90, 72])
def test_tables_fit_into_the_terminal(width: int) -> None:
    for table in result_tables(made_up.full()):
        text = plain(fit(table, width))
        widest = max(map(len, text.split("\n")))
        assert widest <= width, f"{widest} columns:\n{text}"


def test_narrow_tables_stack_the_peers() -> None:
    (table,) = result_tables(report(made_up.sweep()[:5]))
    fitted = fit(table, 80)
    assert len(fitted.header) < len(table.header)
    assert "0.80x compile" in plain(fitted) and "667 images/s" in plain(fitted)
    assert natural_width(fit(table, 300)) < 300


def test_totals_are_a_table_for_each_network() -> None:
    (table,) = totals_tables(report(made_up.layers()))
    assert table.title == "all layers of resnet50, kernel, bfloat16"
    assert [row[0].text for row in table.rows] == ["conv_fprop", "", "conv_wgrad", ""]
    assert "2 of 3 layers" in table.rows[1][1].text
    assert totals_tables(report(made_up.sweep())) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colours_and_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    show(result_tables(made_up.full()), stream, 120)
    text = stream.getvalue()
    assert "\x1b[" in text
    for words in ("n256-64x56x56-k64-3x3-p1", "failed (1)", "100 us ±2%", "0.50x"):
        assert words in text, f"{words!r} was cut off"


def test_without_rich_the_table_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.partition(".")[0] == "rich":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    stream = Terminal()
    show(result_tables(made_up.full()), stream, 120)
    assert "\x1b[" not in stream.getvalue() and "100 us ±2%" in stream.getvalue()


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0.41, "0.41 us"),
        (12.34, "12.3 us"),
        (999.6, "1.00 ms"),
        (123456, "123 ms"),
        (5e6, "5.00 s"),
    ],
)
def test_times_have_three_digits(us: float, text: str) -> None:
    assert tables.format_us(us) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(4e12, "4.00 TB/s"), (41.2e9, "41.2 GB/s"), (790e12, "790 TB/s")]
)
def test_rates_have_three_digits(rate: float, text: str) -> None:
    assert tables.format_rate(rate, "B/s") == text
