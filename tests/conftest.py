"""Fixtures for the whole suite: seeds, backends, and other packages' networks where they are installed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

import resnet_cuda
from resnet_cuda import _raw, testing
from resnet_cuda.bench import peers
from resnet_cuda.ops import _closed_form

BACKENDS = ["cpu", "emulated", "cuda"] if torch.cuda.is_available() else ["cpu", "emulated"]


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _exact_float32() -> Iterator[None]:
    """On a GPU, too: torch and our kernels compute float32 in float32 unless a test asks for TF32."""
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = True


@pytest.fixture(autouse=True)
def _small_images_are_treated_as_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norm in closed form is chosen by itself from tens of pixels on, as it is from tens of thousands in use:
    tests have no such images. `tests/ops/test_closed_form.py` tests the choice."""
    monkeypatch.setattr(_closed_form, "ROWS_PER_CHANNEL", 0)


@pytest.fixture
def signals_arrive() -> Iterator[None]:
    """Also where the run ignores them (nohup, a job in the background), and what tests start would with it."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    ignored = [number for number in handlers if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, handlers[number])
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on the CPU's backend, on our kernels under the emulator, and on a GPU where there is one; tests put
    their tensors on `device`."""
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


@pytest.fixture(scope="session")
def torchvision_models() -> ModuleType:
    try:
        return peers.torchvision_models()
    except ImportError:
        pytest.skip("torchvision is not installed")


@pytest.fixture(scope="session")
def timm(torchvision_models: ModuleType) -> ModuleType:
    return pytest.importorskip("timm")
