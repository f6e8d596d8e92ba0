"""What training a residual block moves, against the plan in closed form and against separate passes."""

from __future__ import annotations

import pytest

from benchmarks import block_traffic
from benchmarks.block_traffic import OF_PLAN, OF_UNFUSED, STAGES, Case, Line
from resnet_cuda import _raw

SMALL = Case(1, True, 2, 8)


@pytest.fixture(autouse=True)
def _built() -> None:
    if not _raw.is_built():
        pytest.skip("resnet_cuda._C is not built: run `make build`")


def check_goals(line: Line) -> None:
    assert line.of_plan <= OF_PLAN, f"{line.case} moves {line.of_plan:.3f} of the plan's bytes"
    assert line.of_unfused <= OF_UNFUSED, f"{line.case}: {line.of_unfused:.3f} of separate passes"


@pytest.mark.parametrize("projection", [False, True], ids=["identity", "projection"])
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_of_resnet50_keeps_the_goals_by_its_trace(stage: int, projection: bool) -> None:
    case = block_traffic.imagenet(stage, projection)
    check_goals(block_traffic.line(case, block_traffic.trace_of(case)))


@pytest.mark.parametrize("case", [SMALL, Case(2, True, 1, 8), Case(2, False, 1, 8)], ids=str)
def test_the_emulated_kernels_touch_what_the_trace_says_and_keep_the_goals(case: Case) -> None:
    traced = block_traffic.trace_of(case)
    measured = block_traffic.measure(case, traced)
    for one, found in zip(traced.passes, measured, strict=True):
        if found is not None:
            expected = one.bytes.activations
            assert found.kernel == one.plan.kernel, "explain would name another kernel"
            assert found.activations == expected, f"{one.phase}: {one.name} touches another number"
    check_goals(block_traffic.line(case, traced, measured))


def test_the_plan_counts_an_identity_block_as_it_was_derived() -> None:
    # In units of y2, with z four times that and bits a sixteenth of z: 17.25 forward, 34.75 backward.
    case = Case(2, False, 1, 8)
    unit = block_traffic.Tensors(case).y2
    assert block_traffic.total(block_traffic.plan(case)) == 52 * unit


def test_resnet50_s_blocks_add_up_to_the_figures_of_the_derivation() -> None:
    blocks = [(1, 3), (2, 4), (3, 6), (4, 3)]
    cases = [
        (block_traffic.imagenet(stage, projection), 1 if projection else count - 1)
        for stage, count in blocks
        for projection in (True, False)
    ]
    unfused = sum(count * block_traffic.total(block_traffic.unfused(c)) for c, count in cases)
    plan = sum(count * block_traffic.total(block_traffic.plan(c)) for c, count in cases)
    assert unfused / 1e9 == pytest.approx(43.5 + 69.3, rel=0.003)
    assert plan / 1e9 == pytest.approx(12.6 + 28.1, rel=0.01)  # which has the weights, too


def test_a_run_prints_every_pass_and_the_goals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert block_traffic.main(["--stage", "1", "--batch", "1", "--image", "8"]) == 0
    out = capsys.readouterr().out
    assert "bottleneck_expand_dgrad" in out, "a pass of the executor is missing"
    for projection in (True, False):
        case = Case(1, projection, 1, 8)
        figures = block_traffic.line(case, block_traffic.trace_of(case))
        assert f"{figures.plan / 1e6:.2f}" in out and f"{figures.of_unfused:.3f}" in out


def test_a_missed_goal_is_the_exit_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_traffic, "OF_PLAN", 1.0)
    assert block_traffic.main(["--stage", "4", "--trace"]) == 1
    assert "of the plan" in capsys.readouterr().out.splitlines()[-1]
