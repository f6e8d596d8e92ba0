"""The model of the Hopper kernels, held against sums that are done by hand, and what it says of the gates."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from benchmarks.hardware import gates as stage
from benchmarks.hardware.child import Context
from benchmarks.hardware.conclusion import conclusion
from benchmarks.hardware.protocol import heard
from benchmarks.kernels import early_start, gates, planned, prediction
from benchmarks.kernels.__main__ import main
from benchmarks.kernels.predicted_docs import DOCS, with_tables
from benchmarks.kernels.prediction import H100, H200, Gemms
from resnet_cuda.bench.device import open_device
from resnet_cuda.trace.gpus import GPUS
from tests.bench.made_up import row

DEVICE = open_device("dry-run")


def of_layer(text: str) -> prediction.Prediction:
    """The only pass of ResNet-50 with this in its title."""
    (found,) = [
        prediction.of_workload(workload, conv, prediction.plan_of(workload, conv), H200)
        for workload, conv in planned.passes(DEVICE, "resnet50", torch.bfloat16, 256, None)
        if text in workload.title
    ]
    assert found is not None
    return found


def test_clocks_of_a_slice_are_those_of_its_tile() -> None:
    wide = Gemms(rows=128, columns=256, tiles=1, slices=(1,))
    assert wide.clocks_of_tensor_cores(H200) == 2 * 128 * 256 * 64 / 4096 == 1024
    # TMA writes 48 KB; each warpgroup reads 8 KB of its own rows and all 32 KB of the columns.
    assert wide.clocks_of_shared_memory(H200) == (48 + 2 * 8 + 2 * 32) * 1024 / 128
    flat = replace(wide, rows=64)  # the warpgroups lie side by side and share the rows
    assert flat.clocks_of_shared_memory(H200) == (40 + 2 * 8 + 32) * 1024 / 128
    changed = replace(wide, changed=128)  # 16 KB are read and written once more
    extra = changed.clocks_of_shared_memory(H200) - wide.clocks_of_shared_memory(H200)
    assert extra == 2 * 16 * 1024 / 128
    assert wide.clocks_of_prologue(H200) == 0 < changed.clocks_of_prologue(H200)


@pytest.mark.parametrize(
    ("tiles", "slices", "blocks", "busiest"),
    [
        (132, (5,), 1, (1, 5)),
        (133, (5,), 1, (2, 10)),
        (265, (5,), 2, (2, 10)),
        (3, (7, 1), 1, (1, 7)),
        # Block 0 gets tiles 0 and 132 of the first GEMM, then 64 and 196 of the second.
        (200, (4, 1), 1, (4, 10)),
    ],
)
def test_the_busiest_block_is_found_in_the_static_order(
    tiles: int, slices: tuple[int, ...], blocks: int, busiest: tuple[int, int]
) -> None:
    gemms = Gemms(128, 128, tiles, slices, blocks)
    grid = min(gemms.all_tiles, 132 * blocks)
    by_hand = [[slices[i // tiles] for i in range(b, gemms.all_tiles, grid)] for b in range(grid)]
    assert gemms.busiest(H200)[1] == max(map(sum, by_hand))
    assert gemms.busiest(H200) == busiest


def test_a_prediction_is_the_longest_wait_and_what_overlaps_with_nothing() -> None:
    found = of_layer("n256-256x14x14-k256-3x3-p1 statistics conv_fprop")
    # 392 tiles of 128 x 256 on 132 multiprocessors, 36 slices of 32 KB each: pairs share their filters.
    assert found.l2 == pytest.approx(1e6 * 392 * 36 * 32 * 1024 / 5.5e12)
    assert found.shared == pytest.approx(1e6 * 3 * 36 * 1024 / 1.755e9)
    assert found.tiles == 3 and found.evenness == pytest.approx(392 / (3 * 132))
    assert found.limit == "tensor cores"
    assert found.us == pytest.approx(found.tensor + found.between + 3)


def test_squares_load_their_pixels_once_for_three_taps_and_store_beside_each_other() -> None:
    found = of_layer("n256-64x56x56-k64-3x3-p1 statistics conv_fprop")
    # 49 squares of each image in tiles of 4; of each 3 boxes of 10 x 8 pixels, and 9 filters once in each block.
    tiles, boxes, filters = 256 * 49 // 4, 4 * 3 * 80 * 128, 9 * 64 * 128
    of_block = 24 * boxes + filters
    assert found.tiles == 24
    assert found.l2 == pytest.approx(
        1e6 * max((tiles * boxes + 132 * filters) / 5.5e12, of_block / 64 / 1.755e9)
    )
    # In shared memory a box is written once; 4 warpgroups read 64 rows and 64 columns under each of 9 taps.
    products = boxes + 9 * 4 * (64 + 64) * 128
    assert found.shared == pytest.approx(1e6 * 24 * products / 128 / 1.755e9)
    # Epilogues overlap with products, but their rows go through the same memory: in once and out once, as float32.
    stored = 24 * 2 * 256 * 64 * 4 / 128 / 1.755e9
    assert found.us == pytest.approx(found.shared + 1e6 * stored + 3)


def test_parts_of_a_weight_s_gradient_are_written_and_added_up() -> None:
    found = of_layer("n256-512x28x28-k128-1x1 conv_wgrad")
    tensors = 2 * 256 * 28 * 28 * (512 + 128) + 2 * 512 * 128
    parts = 33 * 4 * 512 * 128
    assert found.memory == pytest.approx(1e6 * (tensors + parts) / 4.3e12)
    assert found.added == pytest.approx(2 * 3 + 1e6 * parts / 4.3e12)


def test_classes_of_a_strided_gradient_see_their_own_taps() -> None:
    for workload, conv in planned.passes(DEVICE, "resnet50", torch.bfloat16, 256, None):
        if workload.pass_name == "conv_dgrad" and "k128-3x3-s2" in workload.name:
            gemms = prediction.gemms_of(workload, conv, prediction.plan_of(workload, conv))
            # Of 9 taps even pixels see 1 along an axis, odd ones 2; 2 slices of 64 for 128 filters.
            assert gemms.slices == (2, 4, 4, 8)
            return
    pytest.fail("ResNet-50 has no such layer any more: choose another")


def test_kernels_of_other_generations_are_not_predicted() -> None:
    for workload, conv in planned.passes(DEVICE, "resnet50", torch.float32, 2, 2):
        plan = prediction.plan_of(workload, conv)
        assert "_sm90_" not in plan["kernel"]
        assert prediction.of_workload(workload, conv, plan, H200) is None


def test_tf32_has_half_the_depth_and_half_the_rate() -> None:
    def fprop(dtype: torch.dtype) -> prediction.Prediction:
        (found,) = [
            prediction.of_workload(workload, conv, prediction.plan_of(workload, conv, True), H200)
            for workload, conv in planned.passes(DEVICE, "resnet50", dtype, 256, None)
            if workload.name == "n256-256x14x14-k256-3x3-p1 statistics"
        ]
        assert found is not None
        return found

    half, single = fprop(torch.bfloat16), fprop(torch.float32)
    assert single.tensor == pytest.approx(2 * half.tensor)
    assert single.l2 == pytest.approx(2 * half.l2)
    assert 1.9 < single.memory / half.memory <= 2


def test_tf32_is_predicted_of_forward_passes_alone() -> None:
    for workload, conv in planned.passes(DEVICE, "resnet50", torch.float32, 2, 3):
        plan = prediction.plan_of(workload, conv, tf32=True)
        found = prediction.of_workload(workload, conv, plan, H200)
        takes = workload.pass_name == "conv_fprop" and conv.C > 3
        assert (found is not None) == takes, workload.title
        one = planned.planned("resnet50", workload, conv, GPUS["H200"], tf32=True)
        # A max-pool has no kernel in float32, which is none of TF32 either.
        multiplies_tf32 = any(of in one.kernel for of in ("_sm80_", "_sm90_"))
        assert one.dtype == ("TF32" if multiplies_tf32 else "float32"), workload.title


def test_gates_are_about_the_sizes_that_they_name() -> None:
    found = {w.facts["gate"]: (w, conv) for w, conv in gates.workloads(DEVICE)}
    product, conv = found["8192^3"]
    assert product.flops == 2 * 8192**3 and conv.N * conv.H * conv.W == conv.C == conv.K == 8192
    reduce, conv = found["stage 1's reduce"]
    assert (conv.N * conv.H * conv.W, conv.C, conv.K) == (802816, 256, 64)
    limits = {one.gate: one.limit_us for one in gates.predicted(DEVICE, H200)}
    assert limits["8192^3: 700 TFLOP/s"] == pytest.approx(1e6 * 2 * 8192**3 / 700e12)
    assert limits["stage 1's reduce: 88% of a copy's bandwidth"] == pytest.approx(
        1e6 * reduce.bytes / (0.88 * 4.3e12)
    )
    assert set(found) == {gate.of.name for gate in gates.GATES} and len(gates.GATES) == 10


def test_gates_are_judged_by_what_was_measured_of_ours() -> None:
    def result(gate: str, us: float | None, candidate: str = "resnet_cuda", size: int = 0) -> dict:
        return row(candidate, us, level="kernel", facts={"gate": gate}, bytes=size)

    rows = [
        result("8192^3", 1500.0),
        result("stage 1's reduce", 140.0, size=514_000_000),
        result("stage 2's 3x3", 106.0),
        result("stage 2's 3x3 on load", 111.0),
        result("stage 3's 3x3", 50.0, "cuDNN"),  # a peer's
        result("stage 4's 3x3", None),  # wrong, so without a time
        result("stage 4's 3x3 on load", 100.0),  # and nothing to compare it with
    ]
    found = {one.gate: one for one in gates.measured(rows, 4.0e12)}
    verdicts = {name: one.verdict for name, one in found.items()}
    assert verdicts["8192^3: 700 TFLOP/s"] == "met"
    assert verdicts["stage 1's reduce: 88% of a copy's bandwidth"] == "met"
    assert verdicts["stage 2's 3x3: 105 us"] == "not met"
    assert verdicts["stage 2's 3x3 on load: within 5% of plain"] == "met"
    assert [name for name, verdict in verdicts.items() if verdict == "not measured"] == [
        "stage 1's 3x3: 125 us",
        "stage 3's 3x3: 105 us",
        "stage 4's 3x3: 115 us",
        "stage 1's 3x3 on load: within 5% of plain",
        "stage 3's 3x3 on load: within 5% of plain",
        "stage 4's 3x3 on load: within 5% of plain",
    ]
    slower = {one.gate: one for one in gates.measured(rows, 4.4e12)}
    assert slower["stage 1's reduce: 88% of a copy's bandwidth"].verdict == "not met"
    data = {"gates": [one.to_json() for one in found.values()]}
    said = "\n".join(conclusion(data, []))
    assert "gate stage 2's 3x3: 105 us: not met, 106.0 us, limit 105.0 us" in said
    assert "gate stage 4's 3x3: 115 us: not measured" in said


def test_a_dry_run_of_the_stage_measures_every_gate_and_gives_no_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [gate for gate in gates.GATES if gate.text.startswith(("8192", "stage 2's"))]
    monkeypatch.setattr(gates, "GATES", chosen)
    for workload, conv in gates.workloads(DEVICE, small=True):
        assert "_sm90_" in prediction.plan_of(workload, conv)["kernel"]
    assert stage.run(Context("gates", "dry-run")) == 0
    told = [found for line in capsys.readouterr().out.splitlines() if (found := heard(line))]
    results = [value for what, value in told if what == "result" and value["ours"]]
    assert [one["status"] for one in results] == ["ok"] * 4
    (pair,) = [one["versus"] for one in results if "in a row" in one["workload"]]
    assert pair.keys() == {early_start.IN_ORDER}, "nothing says what an early start is worth"
    (rows,) = [value[1] for what, value in told if what == "section" and value[0] == "gates"]
    assert [one["gate"] for one in rows] == [gate.text for gate in chosen]
    assert all(one["us"] and one["verdict"] == "a dry run: no verdict" for one in rows)


def test_other_gpus_are_told_that_the_gates_are_not_theirs() -> None:
    class Ampere:
        kind = "cuda"

        def facts(self) -> dict[str, str]:
            return {"capability": "8.0"}

    assert "this GPU has 8.0" in stage._why_not(Ampere())  # type: ignore[arg-type]
    assert not stage._why_not(DEVICE)


def test_the_table_puts_a_report_beside_what_is_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "n2-64x56x56-k64-3x3-p1 statistics"
    facts = {"network": "resnet50", "op": "statistics"}
    kernel = row(level="kernel", workload=name, pass_name="conv_fprop", facts=facts)
    kernel["dtype"] = "bfloat16"
    reached = gates.Reached("stage 1's 3x3: 125 us", 120.0, 125.0).to_json()
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"results": [kernel], "gates": [reached]}))
    options = ["--predict", "--batch", "2", "--only", name, "--report", str(report)]
    assert main([*options, "--gpu", "H100", "--out", str(tmp_path)]) == 0
    assert "Predicted for H100, not measured" in capsys.readouterr().out
    text = (tmp_path / "kernels.md").read_text()
    (line,) = [x for x in text.splitlines() if x.startswith(f"| fprop {name} |")]
    (found,) = [
        p["predicted"]
        for p in json.loads((tmp_path / "kernels.json").read_text())
        if p["workload"] == name
    ]
    assert line.endswith(f"| 100 | {100 / found['us']:.2f} |")
    assert "| 120 | met |" in text and "assumed, L2 to shared memory" in text
    assert main([*options[:-1], str(tmp_path / "none")]) == 2
    assert "which cannot be read" in capsys.readouterr().err


def test_every_number_of_the_model_says_where_it_comes_from() -> None:
    for machine in (H200, H100):
        figures = dict(machine.figures())
        assert set(asdict(machine)) - set(figures) == {"name"}
        for name, figure in figures.items():
            known = ("measured", "datasheet", "assumed", "machine code", "programming guide")
            assert figure.source.startswith(known), f"{name} needs a source"


def test_the_tables_in_the_docs_are_those_of_the_model() -> None:
    text = DOCS.read_text()
    assert with_tables(text) == text, (
        "docs/kernels.md is of another plan or model: python -m benchmarks.kernels --predict --docs, and read what it "
        "says about the gates again"
    )
