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
        line = "1980, 3201, [N/A], 45, 0x0000000000000008, 580.1\n"
        return subprocess.CompletedProcess(command, 0, stdout=line)

    smi = NvidiaSmi("GPU-a", 0, run)
    assert smi.driver() == "580.1"
    assert smi.read() == {
        "sm_mhz": 1980,
        "memory_mhz": 3201,
        "temperature_c": 45,
        "throttle": ["hardware slowdown"],
    }


def test_an_nvidia_smi_that_hangs_costs_a_reading_only() -> None:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(command, 10)

    assert NvidiaSmi(None, 0, run).read() == {}


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
