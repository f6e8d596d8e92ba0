"""Made-up reports for tests: small, and with everything that a report can hold. No figure here was measured."""

from __future__ import annotations

from typing import Any

from resnet_cuda.bench.report import SCHEMA

OURS = "resnet_cuda"


def timing(us: float, spread: float = 0.02) -> dict[str, Any]:
    return {
        "median_us": us,
        "q1_us": us * (1 - spread),
        "q3_us": us * (1 + spread),
        "min_us": us * (1 - 2 * spread),
        "rounds": 5,
        "calls": 1,
    }


def row(candidate: str = OURS, us: float | None = 100.0, **fields: Any) -> dict[str, Any]:
    """One result; `us` None: without a time."""
    made = {
        "level": "op",
        "workload": "conv n8-64x56x56",
        "pass_name": "inference",
        "dtype": "float32",
        "candidate": candidate,
        "ours": candidate.startswith(OURS),
        "status": "ok",
        "message": "",
        "label": "",
        "timing": None if us is None else timing(us),
        "flops": 2_000_000_000,
        "bytes": 10_000_000,
        "images": 0,
        "count": 1,
        "peak_memory": None,
        "first_call_seconds": 0.1,
        "floor_us": 50.0,
        "memory_share": 0.0,
        "versus": {},
        "versus_quartiles": {},
        "facts": {},
    }
    assert fields.keys() <= made.keys(), f"no such field: {fields.keys() - made.keys()}"
    return {**made, **fields}


def comparison(times: dict[str, float], base: str = OURS, **fields: Any) -> list[dict[str, Any]]:
    """Rows of one workload, ours with its ratios."""
    rows = [row(name, us, **fields) for name, us in times.items()]
    for mine in rows:
        if mine["ours"]:
            own = mine["timing"]["median_us"]
            mine["versus"] = {n: us / own for n, us in times.items() if not n.startswith(base)}
    return rows


def report(results: list[dict[str, Any]] | None = None, **sections: Any) -> dict[str, Any]:
    data = {
        "schema": SCHEMA,
        "kind": "bench",
        "started": "2026-01-02 03:04:05 UTC",
        "seconds": 100.0,
        "finished": True,
        "stopped_by": None,
        "environment": {"kind": "cpu", "name": "a made-up CPU"},
        "notes": [],
        "results": results or [],
    }
    return {**data, **sections}


def every_status() -> list[dict[str, Any]]:
    """One workload whose candidates met every fate, one that was skipped, and one that nothing of ours did."""
    first = comparison({OURS: 100.0, "eager NCHW": 150.0, "eager channels_last": 50.0})
    first += [
        row("compile", None, status="failed", message="RuntimeError: no compiler"),
        row("oneDNN fused", None, status="wrong", message="3 times as far from fp64 as eager"),
        row("apex", None, status="absent", message="apex is not installed"),
    ]
    other = {"workload": "conv n8-128x28x28"}
    second = [
        row(OURS, None, status="wrong", message="9 times as far from fp64 as eager", **other),
        row("eager NCHW", 70.0, **other),
        row("apex", None, status="absent", message="apex is not installed", **other),
    ]
    late = {"workload": "conv n8-256x14x14", "status": "skipped", "message": "no time left"}
    third = [row(OURS, None, **late), row("eager NCHW", None, **late)]
    return first + second + third


def layers(level: str = "kernel", network: str = "resnet50") -> list[dict[str, Any]]:
    """Three layers in two passes; the last has no time of the peer."""
    rows: list[dict[str, Any]] = []
    for pass_name in ("conv_fprop", "conv_wgrad"):
        for i, (count, us) in enumerate(((3, 100.0), (1, 200.0), (2, 400.0))):
            fields = {
                "level": level,
                "workload": f"n256-{64 * 2**i}x{56 // 2**i}x{56 // 2**i}-k64-3x3-p1",
                "pass_name": pass_name,
                "dtype": "bfloat16",
                "count": count,
                "flops": 10**9 * (i + 1) ** 3,
                "bytes": 10**8 // (i + 1),
                "floor_us": us / 4,
                "memory_share": float(i == 0),
                "facts": {"network": network},
            }
            times = {OURS: us, "eager channels_last": us / 2}
            if i == 2:
                del times["eager channels_last"]
            rows += comparison(times, **fields)
            if i == 2:
                failed = {"status": "failed", "message": "RuntimeError: no algorithm"}
                rows.append(row("eager channels_last", None, **fields, **failed))
    return rows


def sweep() -> list[dict[str, Any]]:
    """Two networks, inference and a training step, batches 1 to 16."""
    rows: list[dict[str, Any]] = []
    for network, unit in (("resnet18", 1000.0), ("resnet50", 3000.0)):
        for pass_name, factor in (("inference", 1.0), ("training step", 3.0)):
            for batch in (1, 2, 4, 8, 16):
                us = factor * unit * (1 + 0.5 * batch)
                times = {
                    OURS: us,
                    OURS + " + graph": 0.9 * us,
                    "eager NCHW": 1.5 * us,
                    "eager channels_last": 1.2 * us,
                    "compile": 0.8 * us,
                }
                rows += comparison(
                    times,
                    level="model",
                    workload=f"{network} n{batch}-3x224x224",
                    pass_name=pass_name,
                    dtype="bfloat16",
                    images=batch,
                    peak_memory=2**30,
                    floor_us=us / 5,
                    memory_share=0.7,
                    facts={"network": network, "batch": batch},
                )
    return rows


CEILINGS = {
    "bandwidth": 4e12,
    "flops": {"bfloat16": 8e14, "float32": 5e13},
    "details": {
        "copy": {**timing(500.0), "bytes": 2 * 10**9, "bytes_per_second": 4e12, "seconds": 0.5},
        "matmul": [
            {**timing(1400.0), "dtype": "bfloat16", "edge": 8192, "flops": 8e14, "seconds": 0.5}
        ],
    },
}


def full() -> dict[str, Any]:
    """Everything at once, as a hardware run on a GPU reports it."""
    absent = {
        "name": "apex",
        "offers": "fused blocks",
        "version": "",
        "absent": "apex is not installed",
    }
    here = {"name": "timm", "offers": "its own ResNets", "version": "1.0", "absent": ""}
    return report(
        every_status() + layers() + sweep(),
        kind="hardware_run",
        environment={
            "kind": "cuda",
            "name": "Made-up GPU 9000",
            "commit": "abc1234",
            "torch": "2.11",
        },
        ceilings=CEILINGS,
        peers=[absent, here],
        notes=["model resnet50: 8 images instead of 16"],
        probes={"cuda": {"ok": 166, "wrong": 1, "failed": 0}},
        correctness=[
            {"name": "conv_fprop float32", "status": "ok", "message": ""},
            {"name": "conv_dgrad float32", "status": "wrong", "message": "off by 1"},
        ],
        safety=[{"name": "side stream", "status": "ok", "message": ""}],
        stages=[{"name": "build", "status": "ok", "seconds": 12.5, "message": ""}],
        harness=HARNESS,
        training_step=training_step(),
        traffic=TRAFFIC,
    )


def training_step() -> list[dict[str, Any]]:
    """The section of that name: two candidates."""
    return [
        {
            "network": "resnet50",
            "batch": 256,
            "image_size": 224,
            "dtype": "bfloat16",
            "candidate": name,
            "steps": 3,
            "step_us": 0.9 * wall,
            "wall_us": wall,
            "kinds": [
                {"kind": "convolution forward", "us": 0.5 * wall, "share": 0.5},
                {"kind": kind, "us": 0.4 * wall, "share": 0.4},
                {"kind": "idle", "us": 0.1 * wall, "share": 0.1},
            ],
            "unrecognised": [{"name": "strange_kernel", "us": 12.0}],
        }
        for name, wall, kind in (
            (OURS, 50000.0, "convolution dgrad"),
            ("eager channels_last", 100000.0, "batch norm forward"),
        )
    ]


HARNESS = {
    "ratio_of_medians": 1.012,
    "paired_ratio": 0.999,
    "margin": 0.03,
    "holds": True,
    "rounds": 200,
    "median_us": [100.0, 101.0],
    "spread": [0.02, 0.02],
    "nothing_us": 0.4,
    "seconds": 0.5,
}

TRAFFIC = [
    {
        "network": "resnet50",
        "mode": "inference",
        "batch": 4,
        "image_size": 128,
        "dtype": "bfloat16",
        "summary": "ours moves half of what eager moves",
        "bytes": {"ours": 2**30, "eager": 2 * 2**30, "minimum": 0.8 * 2**30},
        "kinds": [
            {"phase": "forward", "kind": kind, "ours": ours, "eager": eager, "minimum": ours}
            for kind, ours, eager in (("convolution", 2**29, 2**29), ("pooling", 2**29, 2**30))
        ],
        "ours": [{"phase": "forward", "name": "conv_fprop", "layer": "conv1", "distinct": 2**30}],
    }
]
