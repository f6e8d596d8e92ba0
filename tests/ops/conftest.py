"""Every behaviour is tested on each backend that computes: the CPU's, our kernels under the
emulator, and a GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import resnet_cuda
from resnet_cuda import _raw, testing

BACKENDS = ["cpu", "emulated", "cuda"] if torch.cuda.is_available() else ["cpu", "emulated"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on this backend; tests put their tensors on `device_of(backend)`."""
    name = request.param
    if name == "cpu":
        with resnet_cuda.use_backend("cpu"):
            yield name
        return
    if not _raw.is_built():
        pytest.skip("resnet_cuda._C is not built: run `make build`")
    if name == "cuda":
        with resnet_cuda.use_backend("cuda"):
            yield name
        return
    with testing.emulated():
        yield name


@pytest.fixture
def device(backend: str) -> str:
    return "cuda" if backend == "cuda" else "cpu"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """The tensors are tiny and tests run in parallel processes: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
