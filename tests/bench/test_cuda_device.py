"""CudaDevice on a fake GPU that is as asynchronous as a real one."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from resnet_cuda.bench.cuda_device import CudaDevice
from resnet_cuda.bench.device import CaptureFailed
from resnet_cuda.bench.timing import Effort, measure
from tests.bench.fake_cuda import FakeCudaDevice, FakeGpu

EFFORT = Effort(seconds=0.05, min_rounds=7)
MS = 1e-3


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


@pytest.fixture
def device(gpu: FakeGpu) -> FakeCudaDevice:
    return FakeCudaDevice(gpu)


# The fake is like the real one.

FAKE_NAMES = sorted(vars(FakeGpu().cuda))


@pytest.mark.parametrize("name", FAKE_NAMES)
def test_the_fake_offers_nothing_that_torch_does_not(name: str) -> None:
    fake, real = getattr(FakeGpu().cuda, name), getattr(torch.cuda, name)
    if isinstance(
        fake, SimpleNamespace
    ):  # a module; without a GPU its functions have no signatures
        assert not [inner for inner in vars(fake) if not hasattr(real, inner)]
        return
    pairs = [(fake, real)]
    if inspect.isclass(fake):
        methods = [m for m in vars(fake) if not m.startswith("_")]
        pairs += [(getattr(fake, method), getattr(real, method)) for method in methods]
    for of_fake, of_real in pairs:
        offered = list(inspect.signature(of_fake).parameters)
        accepted = list(inspect.signature(of_real).parameters)
        assert set(offered) <= set(accepted), (name, of_fake, accepted)
        assert offered == accepted[: len(offered)], f"{name}: other order than {accepted}"


def test_the_fake_has_properties_that_torch_has() -> None:
    stub = (Path(torch.__file__).parent / "_C" / "__init__.pyi").read_text()
    real = re.search(r"class _CudaDeviceProperties:\n((?:    .*\n)+)", stub)
    assert real, "torch's stubs no longer describe _CudaDeviceProperties"
    names = set(re.findall(r"^    (\w+):", real[1], flags=re.M))
    assert set(vars(FakeGpu().cuda.get_device_properties())) <= names


def test_the_fake_s_events_are_not_complete_before_the_device_got_there(gpu: FakeGpu) -> None:
    start, end = (gpu.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    gpu.launch(1 * MS)
    end.record()
    with pytest.raises(RuntimeError, match="not ready"):
        start.elapsed_time(end)
    gpu.cuda.synchronize()
    assert start.elapsed_time(end) == pytest.approx(1.0, rel=0.01)


# Timing.


def test_work_is_timed_that_is_under_way_when_the_function_returns(
    gpu: FakeGpu, device: FakeCudaDevice
) -> None:
    timing = measure(device, {"f": lambda: gpu.launch(1 * MS)}, EFFORT)["f"]
    assert timing.median == pytest.approx(1 * MS, rel=1e-6)
    assert max(timing.host) < 0.1 * MS, "the function returns long before its work is done"


def test_marks_read_without_synchronising_raise_instead_of_lying(
    gpu: FakeGpu, device: FakeCudaDevice
) -> None:
    start = device.mark()
    gpu.launch(1 * MS)
    end = device.mark()
    with pytest.raises(RuntimeError, match="not ready"):
        device.seconds(start, end)


@pytest.mark.parametrize("forgotten", ["synchronize", "mark"])
def test_a_harness_that_forgets_a_step_is_caught(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    device = FakeCudaDevice(gpu)
    device.before_sample()  # the flush is sized with everything in place
    device.synchronize()
    if forgotten == "synchronize":
        monkeypatch.setattr(device, "synchronize", lambda: None)
        with pytest.raises(RuntimeError, match="not ready"):
            measure(device, {"f": lambda: gpu.launch(1 * MS)}, EFFORT)
    else:  # the host's clock instead of marks on the device's timeline sees no kernel
        monkeypatch.setattr(device, "mark", device.now)
        monkeypatch.setattr(device, "seconds", lambda start, end: end - start)
        timing = measure(device, {"f": lambda: gpu.launch(1 * MS)}, EFFORT)["f"]
        assert timing.median < 0.1 * MS, "this fake cannot tell a good harness from a bad one"


def test_work_queued_by_one_candidate_is_not_in_the_next_one_s_sample(
    gpu: FakeGpu, device: FakeCudaDevice
) -> None:
    functions = {"long": lambda: gpu.launch(20 * MS), "short": lambda: gpu.launch(0.1 * MS)}
    timings = measure(device, functions, Effort(seconds=0.2))
    assert max(timings["short"].samples) == pytest.approx(0.1 * MS, rel=1e-6)


def test_the_flush_lies_outside_of_the_marks_and_evicts_the_cache(
    gpu: FakeGpu, device: FakeCudaDevice
) -> None:
    timing = measure(device, {"f": lambda: gpu.launch(1 * MS, "kernel", cached=0.4 * MS)}, EFFORT)[
        "f"
    ]
    assert min(timing.samples) == pytest.approx(1 * MS, rel=1e-6), "a sample found its data in L2"
    names = [name for name, _, _ in gpu.log]
    before = {names[i - 1] for i, name in enumerate(names) if name == "kernel"}
    assert before == {f"write {2**28} bytes"}, "each kernel comes right behind a flush"


def test_the_buffer_written_is_twice_the_l2_where_that_is_larger() -> None:
    gpu = FakeGpu(l2_bytes=2**28)
    FakeCudaDevice(gpu).before_sample()
    assert {name for name, _, _ in gpu.log} == {f"write {2**29} bytes"}


def test_launches_are_hidden_behind_the_flush(gpu: FakeGpu, device: FakeCudaDevice) -> None:
    def many_small_kernels() -> None:
        for _ in range(50):
            gpu.launch(1e-6)

    timing = measure(device, {"f": many_small_kernels}, EFFORT)["f"]
    assert timing.median == pytest.approx(50e-6, rel=1e-6), (
        "50 kernels of 1 us, launched in 250 us, keep the device busy for 50 us"
    )


# CUDA graphs.


def test_a_graph_replays_what_was_captured_and_is_timed(
    gpu: FakeGpu, device: FakeCudaDevice
) -> None:
    def function() -> str:
        for _ in range(3):
            gpu.launch(1 * MS)
        return "output"

    stream = gpu.stream
    replay = device.graph(function)
    assert gpu.stream is stream
    assert len(gpu.log) == 9, "three calls to warm up; the capture itself runs nothing"
    assert replay() == "output"
    timing = measure(device, {"graph": replay}, EFFORT)["graph"]
    assert timing.median == pytest.approx(3 * MS, rel=1e-6)


def test_a_failed_capture_says_why_and_leaves_the_device_usable(
    gpu: FakeGpu, device: FakeCudaDevice
) -> None:
    def synchronises() -> None:
        gpu.launch(1 * MS)
        device.synchronize()

    stream = gpu.stream
    with pytest.raises(CaptureFailed, match="not permitted when stream is capturing"):
        device.graph(synchronises)
    assert gpu.stream is stream, "work would go on in the stream of the capture"
    device.release_memory()
    gpu.rand()
    assert measure(device, {"f": lambda: gpu.launch(1 * MS)}, EFFORT)


def test_out_of_memory_during_capture_stays_out_of_memory(
    gpu: FakeGpu, device: FakeCudaDevice
) -> None:
    def too_large() -> None:
        if gpu.capturing is not None:
            gpu.take(2 * gpu.memory_bytes)

    with pytest.raises(torch.OutOfMemoryError):
        device.graph(too_large)
    device.release_memory()


# Memory.


def test_peak_memory_is_that_of_one_call(gpu: FakeGpu, device: FakeCudaDevice) -> None:
    with gpu.allocate(5000):
        pass
    gpu.take(100)

    def function() -> None:
        with gpu.allocate(1000):
            gpu.launch(1 * MS)

    assert device.allocated() == 100
    assert device.peak_memory(function) == 1100


def test_peak_memory_of_a_graph_counts_its_intermediates(
    gpu: FakeGpu, device: FakeCudaDevice
) -> None:
    def function() -> None:
        with gpu.allocate(1000):
            gpu.launch(1 * MS)

    gpu.take(100)
    assert device.peak_memory(device.graph(function)) == 1100
    assert device.peak_memory(lambda: None) == 100, "the graph's is not that of others"


def test_memory_that_the_allocator_holds_unused_counts_as_free(
    gpu: FakeGpu, device: FakeCudaDevice
) -> None:
    with gpu.allocate(2**30):
        assert device.free_memory() == gpu.memory_bytes - 2**30
    assert gpu.reserved == 2**30
    assert device.free_memory() == gpu.memory_bytes
    device.release_memory()
    assert gpu.reserved == 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_recognised_even_when_wrapped(
    device: FakeCudaDevice, error: Exception, expected: bool
) -> None:
    assert device.is_out_of_memory(error) is expected
    try:
        try:
            raise error
        except Exception as inner:
            raise KeyError("a compiler's own error") from inner
    except KeyError as wrapper:
        assert device.is_out_of_memory(wrapper) is expected


# Which GPU.


def test_no_gpu_is_an_error_that_says_what_is_needed() -> None:
    with pytest.raises(RuntimeError, match=r"finds no GPU; needed: .* 8\.0 or newer"):
        CudaDevice(FakeGpu(available=False).cuda)


def test_an_old_gpu_is_an_error_that_names_it() -> None:
    with pytest.raises(RuntimeError, match=r"Fake H200 of compute capability 7\.5; needed: 8\.0"):
        CudaDevice(FakeGpu(capability=(7, 5)).cuda)


def test_facts_describe_the_gpu(device: FakeCudaDevice) -> None:
    facts = device.facts()
    assert facts == {
        "kind": "cuda",
        "name": "Fake H200",
        "capability": "9.0",
        "sms": 132,
        "l2_bytes": 2**26,
        "memory_bytes": 2**36,
        "driver": None,
    }
