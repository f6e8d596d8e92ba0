"""Pictures: at most four, only of what a report has, and never a reason to fail."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest

from resnet_cuda.bench import plots
from tests.bench import made_up
from tests.bench.made_up import report

PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def _matplotlib() -> None:
    pytest.importorskip("matplotlib")


def texts(figure: object) -> str:
    from matplotlib.text import Text

    return "\n".join(t.get_text() for t in figure.findobj(Text))  # type: ignore[attr-defined]


def test_a_full_report_has_all_of_them(tmp_path: Path) -> None:
    assert plots.draw(made_up.full(), tmp_path) == []
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["roofline.png", "speedup.png", "sweep.png", "traffic.png", "training_step.png"]
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert content.startswith(PNG) and len(content) > 10_000


def test_what_a_report_lacks_is_not_drawn(tmp_path: Path) -> None:
    assert plots.draw({}, tmp_path) == []
    assert plots.draw(report(), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_one_batch_is_no_sweep() -> None:
    rows = [row for row in made_up.sweep() if row["images"] == 4]
    assert plots.sweep(report(rows)) is None
    assert plots.sweep(report(made_up.sweep())) is not None


def test_the_roofline_names_kernels_roofs_and_fractions() -> None:
    said = texts(plots.roofline(report(made_up.layers(), ceilings=made_up.CEILINGS)))
    for words in (
        "kernel, conv_fprop, bfloat16",
        "1 n256-64x56x56-k64-3x3-p1    25%   50%",
        "bfloat16 800 TFLOP/s",
        "copy 4.00 TB/s",
        "a made-up CPU",
    ):
        assert words in said
    assert plots.roofline(report(made_up.layers())) is None, "there is no roof without ceilings"


def test_passes_without_arithmetic_are_shown_by_their_bandwidth() -> None:
    rows = made_up.comparison(
        {made_up.OURS: 100.0, "eager NCHW": 200.0}, workload="add", flops=0, memory_share=1.0
    )
    said = texts(plots.roofline(report(rows, ceilings=made_up.CEILINGS)))
    assert "passes without arithmetic" in said and "add, inference, float32" in said


def test_a_dtype_without_a_ceiling_has_a_slope_alone() -> None:
    rows = made_up.comparison({made_up.OURS: 100.0, "eager NCHW": 200.0}, dtype="float64")
    said = texts(plots.roofline(report(rows, ceilings=made_up.CEILINGS)))
    assert "copy 4.00 TB/s" in said and "TFLOP/s" not in said


def test_bars_name_the_fastest_peer_and_what_has_none() -> None:
    said = texts(plots.speedup(report(made_up.every_status() + made_up.layers())))
    assert "0.50  eager channels_last" in said
    assert "wrong" in said and "no peer ran" in said


def test_nothing_is_drawn_beyond_the_edges() -> None:
    """Long names, long peers, ratios far apart."""
    rows = []
    for i in range(60):
        times = {made_up.OURS: 10.0, "autocast bfloat16 channels_last": 10.0 * 1.1 ** (i - 30)}
        name = f"bottleneck_expand n2-64x28x28-k256-1x1 + projection n2-64x28x28-k256-1x{i}"
        rows += made_up.comparison(times, workload=name)
    data = report(rows, ceilings=made_up.CEILINGS, training_step=made_up.training_step())
    for picture in (plots.speedup, plots.roofline, plots.training_step):
        figure = picture(data)
        figure.draw_without_rendering()
        width, height = figure.get_size_inches()
        box = figure.get_tightbbox()
        assert box.x0 >= -0.01 and box.x1 <= width + 0.01, f"{picture.__name__}: {box}, {width}"
        assert box.y0 >= -0.01 and box.y1 <= height + 0.01, f"{picture.__name__}: {box}, {height}"


def test_labels_of_short_axes_do_not_overlap() -> None:
    """A single workload, so that the roofs span less than a decade."""
    rows = made_up.comparison({made_up.OURS: 100.0, "eager NCHW": 90.0})
    figure = plots.roofline(report(rows, ceilings=made_up.CEILINGS))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    for labels, side in (
        (axes.get_xticklabels(which="both"), "width"),
        (axes.get_yticklabels(which="both"), "height"),
    ):
        boxes = [t.get_window_extent() for t in labels if t.get_text() and t.get_visible()]
        starts = sorted((b.x0 if side == "width" else b.y0, getattr(b, side)) for b in boxes)
        assert len(starts) >= 2
        for (at, size), (following, _) in zip(starts, starts[1:], strict=False):
            assert at + size <= following, "tick labels overlap"


def test_comparisons_of_one_workload_have_different_names() -> None:
    rows = made_up.comparison({made_up.OURS: 10.0, "eager NCHW": 20.0})
    rows += made_up.comparison({made_up.OURS: 10.0, "compile": 5.0}, label="compile")
    said = texts(plots.speedup(report(rows))).splitlines()
    assert {"conv n8-64x56x56", "conv n8-64x56x56 [compile]"} <= set(said)


def test_a_group_that_goes_on_in_the_next_column_has_its_heading_there() -> None:
    rows = []
    for i in range(80):
        times = {made_up.OURS: 10.0, "eager NCHW": 20.0}
        rows += made_up.comparison(times, workload=f"layer {i}")
    columns = plots.speedup(report(rows)).axes
    assert len(columns) == 2
    for axes in columns:
        assert axes.get_yticklabels()[0].get_text() == "op, inference, float32"


def test_a_sweep_joins_comparisons_by_ratios() -> None:
    """The machine was twice as fast when what compiles was measured: the rate of ours then is not drawn, and the peer's
    is by how much it is faster than ours."""
    fields = {"level": "model", "images": 4, "facts": {"network": "resnet18"}}
    rows = made_up.comparison({made_up.OURS: 4e6, "eager NCHW": 8e6}, **fields)
    rows += made_up.comparison({made_up.OURS: 2e6, "compile": 1e6}, label="compile", **fields)
    (lines,) = plots._rates(plots.comparisons(report(rows))).values()
    assert lines == {made_up.OURS: {4: 1.0}, "eager NCHW": {4: 0.5}, "compile": {4: 2.0}}


def test_a_long_report_is_drawn_in_part_and_says_so() -> None:
    rows = []
    for i in range(200):
        times = {made_up.OURS: 10.0, "eager NCHW": 20.0}
        rows += made_up.comparison(times, workload=f"layer {i}")
    said = texts(plots.speedup(report(rows)))
    assert "more workloads in report.md" in said


def test_the_training_step_names_what_takes_more_than_a_sliver() -> None:
    said = texts(plots.training_step(report(training_step=made_up.training_step())))
    for words in (
        "convolution dgrad",
        "batch norm forward",
        "idle",
        "50%",
        "resnet50 n256 bfloat16",
    ):
        assert words in said


def test_a_cut_off_run_is_marked() -> None:
    assert "not finished" in texts(plots.speedup(report(made_up.layers(), finished=False)))


def test_a_picture_that_fails_is_a_remark(tmp_path: Path) -> None:
    data = made_up.full()
    data["training_step"] = [{"unexpected": 1}]
    remarks = plots.draw(data, tmp_path)
    assert len(remarks) == 1 and remarks[0].startswith("training_step.png could not be drawn")
    assert (tmp_path / "sweep.png").exists()


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    (remark,) = plots.draw(made_up.full(), tmp_path)
    assert "pip install matplotlib" in remark
    assert list(tmp_path.iterdir()) == []
