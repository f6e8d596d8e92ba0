"""Clocks and the rest of what the driver says, from stand-ins for pynvml and nvidia-smi."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from resnet_cuda.bench.gpu_monitor import GpuMonitor, NvidiaSmi, Nvml, open_monitor


class NVMLError(Exception):
    pass


def fake_nvml() -> Any:
    def no_power(gpu: str) -> int:
        raise NVMLError("Insufficient Permissions")

    return SimpleNamespace(
        NVMLError=NVMLError,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlSystemGetDriverVersion=lambda: "580.1",
        nvmlDeviceGetHandleByUUID=lambda uuid: {"GPU-a": "handle"}[uuid],
        nvmlDeviceGetHandleByIndex=lambda index: ["handle"][index],
        nvmlDeviceGetClockInfo=lambda gpu, which: {1: 1980, 2: 3201}[which],
        nvmlDeviceGetPowerUsage=no_power,
        nvmlDeviceGetTemperature=lambda gpu, which: 45,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda gpu: 0x01 | 0x04 | 0x40,
    )


@pytest.mark.parametrize("uuid", ["GPU-a", None])
def test_nvml_readings_leave_out_what_may_not_be_read(uuid: str | None) -> None:
    nvml = Nvml(uuid, 0, fake_nvml())
    assert nvml.driver() == "580.1"
    assert nvml.read() == {
        "sm_mhz": 1980,
        "memory_mhz": 3201,
        "temperature_c": 45,
        "throttle": ["software power cap", "hardware thermal slowdown"],
    }


def test_nvidia_smi_is_asked_for_one_gpu_and_its_output_understood() -> None:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert command[:2] == ["nvidia-smi", "--id=GPU-a"] and options["timeout"]
        fields = next(c for c in command if c.startswith("--query-gpu="))
        assert fields.count(",") == 5
        line = "580.1, 1980, 3201, [N/A], 45, 0x0000000000000008\n"
        return subprocess.CompletedProcess(command, 0, stdout=line)

    smi = NvidiaSmi("GPU-a", 0, run)
    assert smi.driver() == "580.1"
    assert smi.read() == {
        "sm_mhz": 1980,
        "memory_mhz": 3201,
        "temperature_c": 45,
        "throttle": ["hardware slowdown"],
    }


@pytest.mark.parametrize("known", ["clocks_event_reasons", "clocks_throttle_reasons", "nothing"])
def test_nvidia_smi_may_know_the_reasons_by_either_name_or_not_at_all(known: str) -> None:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if "reasons" not in command[2]:
            return subprocess.CompletedProcess(command, 0, stdout="580.1, 1980, 3201, 99.5, 45\n")
        if known not in command[2]:
            raise subprocess.CalledProcessError(2, command)
        return subprocess.CompletedProcess(command, 0, stdout="580.1, 1980, 3201, 99.5, 45, 0x4\n")

    smi = NvidiaSmi("GPU-a", 0, run)
    assert smi.driver() == "580.1"
    readings = {"sm_mhz": 1980, "memory_mhz": 3201, "power_w": 99.5, "temperature_c": 45}
    reasons = {} if known == "nothing" else {"throttle": ["software power cap"]}
    assert smi.read() == {**readings, **reasons}


def test_an_nvidia_smi_that_hangs_costs_a_reading_only() -> None:
    hangs = False

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if hangs:
            raise subprocess.TimeoutExpired(command, 10)
        return subprocess.CompletedProcess(command, 0, stdout="580.1, 1980, 3201, 99.5, 45, 0x0\n")

    smi = NvidiaSmi(None, 0, run)
    hangs = True
    assert smi.read() == {}


def test_a_renamed_function_of_nvml_costs_its_reading_only() -> None:
    nvml = fake_nvml()
    del nvml.nvmlDeviceGetTemperature, nvml.nvmlDeviceGetCurrentClocksThrottleReasons
    assert Nvml(None, 0, nvml).read() == {"sm_mhz": 1980, "memory_mhz": 3201}
    nvml.nvmlDeviceGetCurrentClocksEventReasons = lambda gpu: 0x08
    assert Nvml(None, 0, nvml).read()["throttle"] == ["hardware slowdown"]


def test_no_reading_ends_a_run() -> None:
    def read() -> dict[str, Any]:
        raise TypeError("a driver of another kind")

    assert GpuMonitor(SimpleNamespace(read=read, driver=lambda: None)).read() == {}


def test_costly_readings_are_rare_and_never_repeated() -> None:
    now = 0.0

    def read() -> dict[str, Any]:
        nonlocal now
        now += 0.1
        return {"sm_mhz": 1980}

    monitor = GpuMonitor(SimpleNamespace(read=read, driver=lambda: None), lambda: now)
    assert monitor.read() == {"sm_mhz": 1980}
    assert monitor.read() == {}, "an old reading must not stand for a new one"
    spent = now
    while now < 100:
        now += 0.05
        spent += 0.1 if monitor.read() else 0.0
    assert 0.02 * 100 < spent < 0.06 * 100


def test_without_nvml_and_nvidia_smi_there_are_no_readings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    monitor = open_monitor(None, 0)
    assert monitor.read() == {} and monitor.driver() is None
