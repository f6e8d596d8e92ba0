"""A random call of an op as a short Python program, which is both what runs and what a failure prints."""

from __future__ import annotations

from dataclasses import dataclass

# The rule is about largest errors, and of a handful of numbers the largest error is luck: a call that breaks it is
# judged again over this many draws of its data taken together.
POOLED = 32
REPEATS = "This program repeats it:"


@dataclass(frozen=True)
class Program:
    """One call: how its tensors are made, the views and the call itself, and where it runs."""

    leaves: tuple[tuple[str, str], ...]  # name, expression
    body: tuple[str, ...]  # statements in front of the call: views of the leaves
    result: str
    preactivation: str | None  # None: no ReLU, or one whose gates are compared in float64 alone
    gradient: str | None  # of the output; None: nothing is differentiated
    differentiated: tuple[str, ...]
    buffers: tuple[str, ...]
    seed: int
    emulated: str  # arguments of testing.emulated
    onednn: bool  # whether torch's convolutions may use it

    @property
    def op(self) -> str:
        return self.result.partition("(")[0].removeprefix("module.")

    @property
    def backends(self) -> tuple[str, ...]:
        return ('use_backend("cpu")', f"testing.emulated({self.emulated})")

    def text(self, backend: str, pooled: bool = True) -> str:
        """The program that judges this call on one backend: a file of its own."""
        names = "".join(f"{name}, " for name, _ in self.leaves if name != "dz")
        lines = ["import torch", "from resnet_cuda import ops, testing, use_backend"]
        if "Unit(" in self.result:
            lines.append("from resnet_cuda.ops import ConvUnit, Identity, NormUnit, ZeroPad")
        lines += ["from tests.fuzz.judge import judge", "", "def inputs():", "    return dict("]
        lines += [f"        {name}={expression}," for name, expression in self.leaves]
        lines += ["    )", ""]
        options = ""
        functions = {"call": self.result, "preactivation": self.preactivation}
        for name, result in functions.items():
            if result is not None:
                lines += [f"def {name}(module, {names}**_):"]
                lines += [f"    {line}" for line in (*self.body, f"return {result}")] + [""]
        if self.gradient is not None:
            options = f", gradient=lambda dz, **_: {self.gradient}"
            if self.preactivation is not None:
                options += ", preactivation=preactivation"
        for name in ("differentiated", "buffers"):
            if getattr(self, name):
                options += f", {name}={list(getattr(self, name))}"
        if not self.onednn:
            options += ", onednn=False"
        seeds = f"range({self.seed}, {self.seed + POOLED})" if pooled else f"[{self.seed}]"
        lines.append(f"judge({backend}, {seeds}, inputs, call{options})")
        return "\n".join(lines) + "\n"

    def check(self) -> None:
        """Raises AssertionError with the program in its message where an op raises, and where a backend breaks
        the rule."""
        for backend in self.backends:
            try:
                self._run(backend, pooled=False)
            except AssertionError:
                self._run(backend, pooled=True)

    def _run(self, backend: str, pooled: bool) -> None:
        text = self.text(backend, pooled)
        try:
            exec(compile(text, "<a random call>", "exec"), {})
        except Exception as error:
            if isinstance(error, AssertionError) and not pooled:
                raise
            raise AssertionError(
                f"{type(error).__name__}: {error}\n\n{REPEATS}\n\n{text}"
            ) from error
