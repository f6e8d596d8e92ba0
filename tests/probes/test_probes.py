"""All probes on the emulator, and the command that runs them. (`python -m tests.probes` runs them on a GPU, too.)"""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.probes import golden, workers
from tests.probes.__main__ import main
from tests.probes.probe import Probe, Vectors
from tests.probes.registry import PROBES
from tests.probes.runner import POLICIES, Backend, Result, first_difference

ROOT = Path(__file__).parents[2]
BY_NAME = {probe.name: probe for probe in PROBES}


@cache
def backend(name: str) -> Backend:
    return Backend(name)


@cache
def vectors() -> dict[str, Vectors]:
    return golden.load()


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("where", ["emulated", "checked"])
def test_probe_gives_the_golden_output_under_every_policy(where: str, name: str) -> None:
    result = backend(where).run(BY_NAME[name], vectors()[name])
    assert (result.status, result.message) == ("passed", "")
    assert len(result.policies) == len(POLICIES[where]) > 1


@pytest.mark.parametrize("name", BY_NAME)
def test_golden_vectors_are_what_the_descriptions_say(name: str) -> None:
    kept, described = vectors()[name], BY_NAME[name].describe()

    def bits(held: Vectors) -> list:
        initial = [] if held.initial is None else [held.initial]
        return [
            (np.ascontiguousarray(array).tobytes(), array.dtype, array.shape)
            for array in (*held.inputs, held.expected, *initial)
        ]

    assert bits(kept) == bits(described), "run: python -m tests.probes.generate_golden"


def test_golden_file_is_small_and_holds_the_probes_only() -> None:
    assert set(vectors()) == set(BY_NAME)
    assert golden.PATH.stat().st_size < 300_000


def test_every_kernel_is_some_probes_and_every_probe_has_its_kernel() -> None:
    for library, opened in backend("emulated").libraries.items():
        probes = {probe.kernel for probe in PROBES if probe.library == library}
        assert set(opened.kernels()) == probes, library


def test_every_wrapper_is_probed() -> None:
    wrapper = re.compile(r"^__device__ __forceinline__ (?!constexpr)[\w:<>]+ (\w+)\(", flags=re.M)
    detail = re.compile(r"^namespace detail \{.*?^\}  // namespace detail$", flags=re.M | re.S)
    wrappers = {
        name
        for path in (ROOT / "csrc/ptx").glob("*.cuh")
        for name in wrapper.findall(detail.sub("", path.read_text()))
    }
    probed = "".join(path.read_text() for path in Path(__file__).parent.glob("*.cu*"))
    missing = sorted(name for name in wrappers if not re.search(rf"\b{name}\b", probed))
    assert len(wrappers) > 40
    assert not missing, f"no kernel of tests/probes uses {missing}"


# ---------------------------------------------------------------- what a failure looks like


def example() -> tuple[Probe, Vectors]:
    return BY_NAME["ldmatrix_x4"], vectors()["ldmatrix_x4"]


def test_the_first_differing_element_is_named() -> None:
    probe, held = example()
    wrong = held.expected.copy()
    wrong[3, 1] ^= 0x10
    wrong[5, 0] = 0
    message = first_difference(probe, held.expected, wrong)
    assert re.match(r"at lane 3, register 1: got \d+ \(0x[0-9a-f]{8}\), expected \d+ \(", message)
    assert message.endswith("2 of 128 elements differ")
    assert first_difference(probe, held.expected, held.expected) == ""


def test_bits_count_and_not_values() -> None:
    probe = Probe("zero", "zero", lambda: Vectors((), np.zeros(1)), ("element",))
    zero = np.zeros(1, np.float32)
    assert first_difference(probe, zero, -zero)
    assert not first_difference(probe, zero / np.float32(1), zero)


def test_a_mismatch_on_a_backend_is_a_failure() -> None:
    probe, held = example()
    inputs = (held.inputs[0] + 1, *held.inputs[1:])
    result = backend("emulated").run(probe, Vectors(inputs, held.expected))
    assert result.status == "failed"
    assert "(round_robin, late, seed 1) at lane 0, register 0: got" in result.message


def test_an_error_of_the_emulator_is_a_failure() -> None:
    probe, held = example()
    rows = held.inputs[1] + 1  # one lane names a row behind the last
    result = backend("checked").run(probe, Vectors((held.inputs[0], rows), held.expected))
    assert result.status == "failed"
    assert "ldmatrix" in result.message


# ---------------------------------------------------------------- the command


def test_command_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    assert main(["--backend", "checked", "--report", str(report), "mma_m16n8k16"]) == 0
    assert "2 passed" in capsys.readouterr().out
    held = json.loads(report.read_text())["checked"]
    assert [probe["status"] for probe in held["probes"]] == ["passed", "passed"]
    assert held["device"] == "the device emulator"


def test_command_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RNC_TEST_LIB_DIR", str(tmp_path))
    assert main(["--backend", "emulated"]) == 1
    assert "build the CMake target probes" in capsys.readouterr().out
    assert main(["no such probe"]) == 2


WORKER = """
import json, os, sys, time
from dataclasses import asdict
from tests.probes.runner import Result
def say(**line):
    print(json.dumps(line), flush=True)
say(device="a device", capability=90)
for name in sys.argv[2:]:
    say(begin=name)
    if name == "shuffle":
        time.sleep(600)
    if name == "vote":
        os.abort()
    say(end=asdict(Result(name, name, "passed")))
"""


def test_a_probe_that_hangs_or_dies_is_named_and_the_others_go_on() -> None:
    names = ["global_1_byte", "shuffle", "vote", "atomics"]
    command = (sys.executable, "-c", WORKER)
    about, *results = workers.run("cuda", names, limit=1.0, command=command)
    assert about == {"device": "a device", "capability": 90}
    assert all(isinstance(result, Result) for result in results)
    assert [(result.probe, result.status) for result in results] == [
        ("global_1_byte", "passed"),
        ("shuffle", "hung"),
        ("vote", "failed"),
        ("atomics", "passed"),
    ]
    assert results[1].message == "no answer within 1 s"
    assert "status -6" in results[2].message
