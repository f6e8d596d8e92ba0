"""Random calls with wrong arguments: an error of a sensible kind or the right answer, never the end of the process.

`python -m tests.fuzz.nonsense` is the process that may end; `survive` starts it, and says in which call it was.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

import resnet_cuda
from tests.fuzz.search import search
from tests.fuzz.valid_calls import CALLS, PRELUDE, RAW_CALLS

ACCEPTED = (TypeError, ValueError, RuntimeError)  # NotImplementedError is a RuntimeError
# torch's own layers, which modules are made of, also say this of numbers beyond 64 bits.
ACCEPTED_OF_MODULES = (*ACCEPTED, OverflowError)
ROOT = Path(__file__).parents[2]
# What is asked for and is not there is an error, not the end of the machine.
ADDRESS_SPACE = 12 << 30

INTEGERS = (
    *("0", "-1", "2", "3", "7", "1000", "2**31 - 1", "2**31", "-2**31", "2**32 + 1"),
    *("2**62", "2**63 - 1", "2**63", "-2**63", "2**64", "10**30"),
)
OTHERS = (
    *("None", "True", "1.5", "-0.5", "float('nan')", "float('inf')", "1j", "''", "'save'"),
    *("'no such thing'", "b'x'", "[]", "()", "{}", "object()", "int", "torch.float32", "lambda: 0"),
    *("(1,)", "(1, 2)", "(1, 2, 3)", "[1, 'a']", "(0, 0)", "(2**31, 1)", "(2**63 - 1, 2**63 - 1)"),
    *("[2, 8, 6]", "[2, 8, 6, 5]", "[0, 8, 6, 5]", "[2**31, 8, 6, 5]", "[2**62, 2**62, 1, 1]"),
    *("Identity()", "ZeroPad(1, 8)", "ZeroPad(0, -8)", "ZeroPad(2**31, 2**31)", "[unit(4, 4)]"),
    *("unit(4, 4)", "unit(8, 4)", "unit(4, 4, groups=0)", "unit(4, 4, stride=(0, 1))", "unit"),
    *("unit(4, 4, training=True)", "unit(4, 4, dropout=2.0)", "unit(4, 4, batch_norm=False)"),
    *("ConvUnit(t(), t(8), None, None, None)", "ConvUnit(t(4, 4, 1, 1), 1, 'x', [], {})"),
    *("ConvUnit(None, None, None, None, None)", "[None]", "sequential()", "torch.nn.ReLU"),
    *("torch.nn.Linear(2, 2)", "nn.BNReLU", "nn.AddReLU()", "ops.add_relu"),
)
TENSORS = (
    *("t()", "t(0)", "t(3)", "t(4)", "t(8)", "t(7, dtype=F32)", "t(2, 8)", "t(8, 6, 5)"),
    *("t(2, 4, 6, 5, 1)", "t(0, 4, 6, 5)", "t(2, 0, 6, 5)", "t(2, 4, 0, 5)", "t(2, 4, 6, 0)"),
    *("t(8, 4, 0, 0)", "t(0, 4, 3, 3)", "t(8, 0, 3, 3)", "t(8, 4, 9, 9)", "t(1, 1, 1, 1)"),
    *("t(2, 4, 6, 5, dtype=F32)", "t(2, 8, 6, 5, dtype=F32)", "t(2, 8, 6, 5)"),
    *("t(2, 4, 6, 5, dtype=torch.bfloat16)", "t(2, 4, 6, 5, dtype=torch.float16)"),
    *("t(2, 4, 6, 5, dtype=torch.int32)", "t(2, 8, 6, 5, dtype=torch.bool)"),
    *("t(2, 4, 6, 5, dtype=torch.complex64)", "t(2, 8, 6, 5, dtype=torch.float8_e4m3fn)"),
    *("t(8, dtype=torch.int64)", "t(8, dtype=torch.complex64)", "t(8, dtype=torch.bfloat16)"),
    *("t(2, 4, 6, 5).contiguous()", "t(2, 8, 6, 5, dtype=F32).contiguous()"),
    *("t(1, 8, 6, 5, dtype=F32).expand(2, 8, 6, 5)", "t(16, dtype=F32)[::2]", "t(16)[::2]"),
    *("t(2, 4, 6, 5).to_sparse()", "t(8).to_sparse()", "t(2, 4, 6, 5, dtype=F32).to_mkldnn()"),
    *("t(2, 4, 6, 5).to('meta')", "t(2, 8, 6, 5, dtype=F32).to('meta')", "t(8).to('meta')"),
    *("torch.empty(2**31, 8, 1, 1, device='meta')", "torch.empty(2**31, 2**31, device='meta')"),
    *("t(2, 4, 6, 5).requires_grad_()", "torch.nn.Parameter(t(8))", "t(8).requires_grad_()"),
    *("torch._neg_view(t(2, 4, 6, 5))", "t(2, 8, 6, 5, dtype=torch.complex64).conj().real"),
    *("torch.nested.nested_tensor([t(2, 3), t(4, 3)])", "torch.tensor(float('nan'))"),
    "torch.quantize_per_tensor(t(2, 4, 6, 5, dtype=F32), 0.1, 0, torch.qint8)",
    "t(2, 4, 6, 5) * float('inf')",
    "t(60, dtype=torch.uint8)",
    "t(59, dtype=torch.uint8)",
)
BACKENDS = ("use_backend('cpu')", "testing.emulated(checked=True)", "use_backend('reference')")
KINDS = ("nn.ConvBNReLU", "nn.BNReLU", "nn.AddReLU", "nn.BasicBlock", "nn.PreActBottleneck")


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, str, dict[str, str]]:
    """A valid call of which one to three arguments are replaced, left out or added: its backend, target and
    arguments as source text."""
    raw = draw(st.booleans())
    target, arguments = draw(st.sampled_from(RAW_CALLS if raw else CALLS))
    arguments = dict(arguments)
    values = st.one_of(*map(st.sampled_from, (INTEGERS, OTHERS, TENSORS)))
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(list(arguments)))
        change = draw(st.integers(0, 11))
        if change == 0 and len(arguments) > 1:
            del arguments[name]
        elif change == 1:
            arguments["no_such_argument"] = draw(values)
        else:
            arguments[name] = draw(values if name != "kind" else st.sampled_from(KINDS))
    backend = BACKENDS[1] if raw else draw(st.sampled_from(BACKENDS))
    return backend, target, arguments


def text_of(backend: str, target: str, arguments: dict[str, str]) -> str:
    """The call as a line of Python."""
    given = [
        value
        if target == "resnet_cuda.explain" and name in ("module_or_op", "x")
        else f"{name}={value}"
        for name, value in arguments.items()
    ]
    return f"with {backend}: result = {target}({', '.join(given)})"


def check_call(
    text: str, names: dict[str, Any], expected: str | None = None, must_fail: bool = False
) -> None:
    """Runs one line. Raises AssertionError for an error of another kind, one that a kernel made in memory, and a wrong
    answer; `expected` is the line whose result is right, or an error."""
    names.pop("result", None)
    accepted = ACCEPTED_OF_MODULES if " module(" in text else ACCEPTED
    try:
        exec(text, names)
    except accepted as error:
        faults = (" thread (", "internal error", "INTERNAL ASSERT")
        assert not any(fault in str(error) for fault in faults), f"{text}\n{error}"
        return
    except Exception as error:
        raise AssertionError(
            f"{type(error).__name__} is no sensible error: {error}\n{text}"
        ) from error
    assert not must_fail, f"this is no error:\n{text}"
    if expected is None:
        return
    ours = names.pop("result")
    try:
        exec(expected, names)
    except ACCEPTED:
        return  # plain torch is stricter: of a flag that is a number, say
    results = [of if isinstance(of, tuple) else (of,) for of in (ours, names.pop("result"))]
    for actual, right in zip(*results, strict=True):
        if isinstance(right, torch.Tensor):
            torch.testing.assert_close(
                actual, right, equal_nan=True, msg=lambda m: f"a wrong answer: {m}\n{text}"
            )


def fuzz(examples: int, seed: int, log: Path) -> None:
    """Runs that many calls in this process; `log` always names the one that runs."""
    names: dict[str, Any] = {}
    exec(PRELUDE, names)

    def run(call: tuple[str, str, dict[str, str]]) -> None:
        backend, target, arguments = call
        text = text_of(*call)
        log.write_text(text)
        expected = None
        if (
            target.startswith("ops.")
            and target != "ops.conv_unit"
            and "no_such_argument" not in arguments
        ):
            plain = {
                n: v
                for n, v in arguments.items()
                if n not in ("donate_input", "memory", "closed_form")
            }
            expected = text_of(
                "use_backend('reference')", target.replace("ops.", "resnet_cuda.reference."), plain
            )
        check_call(text, names, expected)

    search(calls(), run, examples, seed)


PACKAGE = str(Path(resnet_cuda.__file__).parents[1])
# The process imports what this one would, libraries built with a sanitizer too (scripts/ubsan.sh).
_CHILD = """\
import runpy, sys
sys.path.insert(0, {package!r})
import resnet_cuda
runpy.run_module("tests.fuzz.nonsense", run_name="__main__")
"""


def survive(arguments: Sequence[str], lines: Sequence[str] = ()) -> str:
    """Runs this module's process with `arguments`, and `lines` as its input; its output.

    Raises:
        AssertionError: it ended badly; the message has the call in which it was, to paste.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "call"
        done = subprocess.run(
            [sys.executable, "-c", _CHILD.format(package=PACKAGE), *arguments, "--log", str(log)],
            cwd=ROOT,
            input=json.dumps(list(lines)),
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            return done.stdout
        call = log.read_text() if log.exists() else "before the first call"
    ended = f"ended by signal {-done.returncode}" if done.returncode < 0 else "found a fault"
    raise AssertionError(f"{ended} in\n\n{PRELUDE}\n{call}\n\n{done.stderr[-4000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.nonsense", description=__doc__)
    parser.add_argument(
        "--examples", type=int, help="random calls; without it, the lines that are given as JSON"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--errors-only", action="store_true", help="every given line must raise")
    parser.add_argument("--log", type=Path, required=True, help="where the call that runs is noted")
    options = parser.parse_args()
    faulthandler.enable()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    if options.examples is not None:
        fuzz(options.examples, options.seed, options.log)
        return
    names: dict[str, Any] = {}
    exec(PRELUDE, names)
    for line in json.load(sys.stdin):
        options.log.write_text(line)
        check_call(line, names, must_fail=options.errors_only)


if __name__ == "__main__":
    main()
