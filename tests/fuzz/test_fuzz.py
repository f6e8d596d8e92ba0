"""Both fuzzers with a fixed seed, and that they see faults. `python -m tests.fuzz` runs ten times as many."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from resnet_cuda import _fakes, ops
from tests.fuzz.__main__ import fuzz_calls
from tests.fuzz.blocks import OPS, programs
from tests.fuzz.calls import global_avg_pool
from tests.fuzz.nonsense import BACKENDS, check_call, survive, text_of
from tests.fuzz.program import REPEATS, Program
from tests.fuzz.search import search
from tests.fuzz.valid_calls import CALLS, PRELUDE, RAW, RAW_CALLS

EXAMPLES = 200
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_random_calls_agree_with_fp64_on_the_cpu_and_on_the_kernels() -> None:
    seen = fuzz_calls(EXAMPLES, seed=1)
    assert seen.total() >= EXAMPLES
    assert set(seen) == {op.__name__ for op in OPS}, (
        "these examples leave an op out: take another seed"
    )


def test_every_public_op_is_fuzzed() -> None:
    functions = {name for name in ops.__all__ if name.islower()}
    assert functions - {op.__name__ for op in OPS} == {"conv_unit"}  # conv_bn_relu of a description


def test_a_wrong_result_is_made_smaller_and_printed_as_a_program_that_repeats_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = ops.global_avg_pool

    def wrong_from_7_columns_on(x: Tensor) -> Tensor:
        return right(x) + (1.0 if x.shape[3] >= 7 else 0.0)

    monkeypatch.setattr(ops, "global_avg_pool", wrong_from_7_columns_on)
    with pytest.raises(AssertionError) as found:
        search(programs([global_avg_pool]), Program.check, 200, seed_=0)
    message = str(found.value)
    text = message.partition(f"{REPEATS}\n\n")[2]
    assert "torch.randn((2, 8, 1, 7))" in text, (
        f"this is not the smallest call that is wrong:\n{text}"
    )
    assert len(text.splitlines()) < 20

    program = tmp_path / "repeat.py"
    fault = "from resnet_cuda import ops\nright = ops.global_avg_pool\nops.global_avg_pool = lambda x: right(x) + 1.0\n"
    for planted, status in ((fault, 1), ("", 0)):
        program.write_text(planted + text)
        done = subprocess.run(
            [sys.executable, program],
            cwd=ROOT,
            env={"PYTHONPATH": "."},
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stderr
    assert "global_avg_pool" in text


def test_wrong_arguments_give_errors_or_the_right_answer() -> None:
    survive(["--examples", str(EXAMPLES), "--seed", "0"])


def test_the_calls_that_are_made_wrong_are_valid_and_those_of_every_raw_op() -> None:
    assert set(RAW) == {fake.__name__ for fake in _fakes.FAKES}
    names: dict[str, Any] = {}
    exec(PRELUDE, names)
    for target, arguments in (*CALLS, *RAW_CALLS):
        exec(text_of(BACKENDS[1], target, arguments), names)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("import os; os.kill(os.getpid(), 11)", "ended by signal 11"),
        ("with use_backend('cpu'): result = {}['x']", "KeyError is no sensible error"),
        ("raise RuntimeError('k: block (0,0,0) thread (1,0,0): out of bounds')", "out of bounds"),
    ],
)
def test_a_call_that_ends_badly_is_named(line: str, what: str) -> None:
    with pytest.raises(AssertionError) as found:
        survive([], ["result = 1", line, "result = 2"])
    assert what in str(found.value)
    assert f"{PRELUDE}\n{line}\n" in str(found.value)


def test_a_wrong_answer_is_seen() -> None:
    names = {"torch": torch}
    check_call("result = torch.ones(2)", names, "result = torch.ones(2)")
    with pytest.raises(AssertionError, match="a wrong answer"):
        check_call("result = torch.ones(2)", names, "result = torch.zeros(2)")
    with pytest.raises(AssertionError, match="this is no error"):
        check_call("result = 1", names, must_fail=True)


def test_a_single_tap_may_be_dilated_in_float16_on_the_cpu() -> None:
    vectors = "None, None, t(8, dtype=F32), t(8, dtype=F32)"
    geometry = "padding=(0, 1), stride=(1, 2), dilation=(1, d)"
    x = "t(1, 2, 4, 1, dtype=torch.float16).requires_grad_()"
    call = f"ops.conv_bn_relu(x, t(8, 2, 1, 1, dtype=torch.float16), {vectors}, {geometry})"
    calls = [f"d = {d}; z{d} = {call}; z{d}.sum().backward()" for d in (1, 3)]
    survive([], [f"x = {x}", *calls, "assert torch.equal(z1, z3)"])
