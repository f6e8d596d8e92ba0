"""Choosing a backend: by name, by device, remembered by autograd; and what happens where one is missing."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

import resnet_cuda
from resnet_cuda import _raw, _selection, ops
from resnet_cuda.testing import emulated
from resnet_cuda.testing.problems import ConvProblem, make_inputs

PROBLEM = ConvProblem(2, 3, 5, 5, 4, 3, 3, padding=1)

needs_extension = pytest.mark.skipif(
    not _raw.is_built(), reason="resnet_cuda._C is not built: run `make build`"
)


def conv(inputs: object = None) -> torch.Tensor:
    given = make_inputs(PROBLEM, torch.float64, requires_grad=True) if inputs is None else inputs
    vectors = given.gamma, given.beta, given.running_mean, given.running_var
    return ops.conv_bn_relu(given.x, given.weight, *vectors, padding=1, training=True)


def test_names_nest_and_are_restored() -> None:
    outside = resnet_cuda.backend()
    with resnet_cuda.use_backend("reference"):
        assert resnet_cuda.backend() == "reference"
        with resnet_cuda.use_backend("cpu"):
            assert resnet_cuda.backend() == "cpu"
        assert resnet_cuda.backend() == "reference"
    assert resnet_cuda.backend() == outside


def test_an_error_inside_restores_the_choice() -> None:
    outside = resnet_cuda.backend()
    with pytest.raises(ZeroDivisionError), resnet_cuda.use_backend("reference"):
        raise ZeroDivisionError
    assert resnet_cuda.backend() == outside


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="backend is 'gpu'; accepted: 'cuda', 'cpu'"):
        with resnet_cuda.use_backend("gpu"):
            pass


@needs_extension
def test_backends_agree() -> None:
    results = []
    for name in ("cpu", "reference", "emulated"):
        with resnet_cuda.use_backend(name):
            results.append(conv())
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[2], results[1])


@needs_extension
def test_autograd_remembers_the_forwards_backend() -> None:
    inputs = make_inputs(PROBLEM, torch.float64, requires_grad=True)
    with emulated() as emulation:
        z = conv(inputs)
        forward = len(emulation.launches())
    z.sum().backward()
    kernels = [launch["kernel"] for launch in emulation.launches()[forward:]]
    assert any("wgrad" in kernel for kernel in kernels), f"the backward launched {kernels}"


@needs_extension
@pytest.mark.parametrize("schedule", ["reversed", "random"])
def test_schedules_give_the_same_bits_under_the_checks(schedule: str) -> None:
    with emulated(checked=True):
        expected = conv()
    with emulated(checked=True, schedule=schedule, seed=3) as emulation:
        assert emulation.checked
        assert torch.equal(conv(), expected)


@needs_extension
def test_counters_see_the_least_traffic_of_add_relu() -> None:
    x = torch.randn(2, 8, 4, 4)
    with emulated(count=True) as emulation:
        ops.add_relu(x, x.clone())
        (launch,) = emulation.launches()
    size = x.numel() * x.element_size()
    assert launch["counters"]["distinct_load_bytes"] == 2 * size
    assert launch["counters"]["distinct_store_bytes"] == size
    assert launch["counters"]["distinct_load_sectors"] == 2 * size // 32
    assert launch["counters"]["distinct_store_sectors"] == size // 32
    assert launch["counters"]["mma_instructions"] == 0
    assert launch["cluster"] == (1, 1, 1)


def test_unknown_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="schedule is 'fifo'; accepted: 'round_robin'"):
        with emulated(schedule="fifo"):
            pass


@pytest.mark.parametrize("family", ["cp_async", "tma", "wgmma"])
def test_unknown_completions_are_refused(family: str) -> None:
    expected = f"{family} is 'never'; accepted: 'late', 'early', 'random'"
    with pytest.raises(ValueError, match=expected):
        with emulated(**{family: "never"}):
            pass


@needs_extension
def test_completions_are_set_inside_the_context_only() -> None:
    from resnet_cuda import _host

    options = _host.Emulator(str(_selection.emulator_library(checked=False))).options
    before = (options.cp_async, options.tma, options.wgmma)
    with emulated(cp_async="random", tma="early"):
        assert (options.cp_async, options.tma, options.wgmma) == (2, 1, 0)
    assert (options.cp_async, options.tma, options.wgmma) == before


@needs_extension
def test_a_gpu_backend_refuses_cpu_tensors_or_says_what_is_missing() -> None:
    with pytest.raises(RuntimeError, match="accepts CUDA tensors|without nvcc"):
        with resnet_cuda.use_backend("cuda"):
            ops.add_relu(torch.randn(1, 1, 2, 2), torch.randn(1, 1, 2, 2))


def test_without_the_extension_the_package_works_and_says_how_to_build() -> None:
    program = """
        import sys
        sys.modules["resnet_cuda._C"] = None  # importing it raises ImportError
        import torch, resnet_cuda
        x = torch.randn(1, 2, 3, 3)
        assert resnet_cuda.ops.add_relu(x, x).shape == x.shape
        with resnet_cuda.use_backend("reference"):
            resnet_cuda.ops.add_relu(x, x)
        for name in ("emulated", "cuda"):
            try:
                with resnet_cuda.use_backend(name):
                    raise SystemExit(f"{name} did not raise")
            except RuntimeError as error:
                assert "not built" in str(error) and "make build" in str(error), error
        try:
            with resnet_cuda.testing.emulated():
                raise SystemExit("emulated() did not raise")
        except RuntimeError as error:
            assert "not built" in str(error), error
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr + run.stdout
