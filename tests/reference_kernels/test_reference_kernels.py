"""A GEMM and a convolution for each generation: right against torch, and the same bits whatever the timing."""

from __future__ import annotations

import pytest
import torch

from tests.device_library.library import DeviceError, DeviceLibrary
from tests.reference_kernels.launch import launch
from tests.reference_kernels.policies import MATRIX, RANDOM, Policy, random_policy
from tests.reference_kernels.problems import Problem, all_problems
from tests.reference_kernels.soak import equal_bits, soak

PROBLEMS = all_problems()


def run(libraries: dict[str, DeviceLibrary], problem: Problem, **options: int) -> list:
    library = libraries[problem.library]
    library.set_options(**options)
    return launch(library, problem.kernel, problem.buffers, problem.numbers)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_results_agree_with_torch_and_do_not_depend_on_timing(
    plain_libraries: dict[str, DeviceLibrary], problem: Problem
) -> None:
    first = None
    for policy in MATRIX:
        outputs = run(plain_libraries, problem, check=0, **policy.options())
        if first is None:
            assert not problem.complaint(outputs)
            first = outputs
        for output, other in zip(outputs, first, strict=True):
            assert equal_bits(output, other), f"the result differs under {policy}"


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_checked_mode_finds_no_fault_under_20_schedules(
    plain_libraries: dict[str, DeviceLibrary],
    checked_libraries: dict[str, DeviceLibrary],
    problem: Problem,
) -> None:
    expected = run(plain_libraries, problem, check=0, **MATRIX[0].options())
    for policy in (MATRIX[0], MATRIX[3], *(random_policy(seed) for seed in range(1, 19))):
        outputs = run(checked_libraries, problem, check=1, **policy.options())
        for output, other in zip(outputs, expected, strict=True):
            assert equal_bits(output, other), f"the result differs under {policy}"


def test_every_kernel_has_a_problem(plain_libraries: dict[str, DeviceLibrary]) -> None:
    kernels = {name for library in plain_libraries.values() for name in library.kernels()}
    assert kernels == {problem.kernel for problem in PROBLEMS}


def test_soak_complains_of_reports_and_of_differences() -> None:
    def depends_on_the_seed(policy: Policy) -> list[torch.Tensor]:
        return [torch.tensor([policy.seed // 2])]

    def reports(policy: Policy) -> list[torch.Tensor]:
        if policy.seed == 2:
            raise DeviceError("race in shared memory")
        return [torch.zeros(3)]

    policies = [Policy(RANDOM, seed) for seed in (0, 1, 2)]
    complaints = soak([("shaky", depends_on_the_seed), ("racy", reports)], policies)
    assert len(complaints) == 2
    assert "shaky" in complaints[0] and "differs" in complaints[0] and "random 2" in complaints[0]
    assert "race in shared memory" in complaints[1]
