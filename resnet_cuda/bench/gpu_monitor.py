"""What the driver says of a GPU: clocks, power, temperature, why it is slowed down; by NVML, else nvidia-smi."""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable
from timeit import default_timer
from typing import Any, Protocol

# Bits of the mask of reasons, in NVML's words; the idle bit is left out, it is set between samples.
_THROTTLE_REASONS = {
    0x002: "application clocks",
    0x004: "software power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "hardware power brake",
    0x100: "display clocks",
}
_SMI_FIELDS = ("driver_version", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")
# nvidia-smi refuses a whole query for one name that it does not know, and drivers rename this one.
_SMI_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active", "")
_SHARE_OF_TIME = 0.05


class Source(Protocol):
    """Where readings come from."""

    def read(self) -> dict[str, Any]: ...

    def driver(self) -> str | None: ...


class GpuMonitor:
    """Readings of one GPU.

    Args:
        source: NVML or nvidia-smi; None: no readings.
        clock: seconds on the host.
    """

    def __init__(self, source: Source | None, clock: Callable[[], float] = default_timer) -> None:
        self._source, self._clock = source, clock
        self._not_before = float("-inf")

    def driver(self) -> str | None:
        """The driver's version, None if unknown."""
        return self._source.driver() if self._source else None

    def read(self) -> dict[str, Any]:
        """sm_mhz, memory_mhz, power_w, temperature_c, throttle: [reasons]; what cannot be read is left out.

        Empty where the last reading took so long (nvidia-smi: 100 ms) that another one so soon would cost more than
        a few percent of the time; an old reading is not repeated, it would be taken for a new one.
        """
        start = self._clock()
        if self._source is None or start < self._not_before:
            return {}
        try:
            reading = self._source.read()
        except (
            Exception
        ):  # of a driver or package that is other than expected; no clock is worth a measurement
            reading = {}
        end = self._clock()
        self._not_before = end + (end - start) / _SHARE_OF_TIME
        return reading


def open_monitor(uuid: str | None, index: int) -> GpuMonitor:
    """Of the GPU with that UUID (which CUDA_VISIBLE_DEVICES does not renumber), else with that number."""
    for source in (Nvml, NvidiaSmi):
        try:
            opened: Source = source(uuid, index)
            opened.driver()
            return GpuMonitor(opened)
        except Exception:  # no such package, library or program, or one that may not look
            continue
    return GpuMonitor(None)


class Nvml:
    """The driver's library, by the package pynvml (nvidia-ml-py)."""

    def __init__(self, uuid: str | None, index: int, nvml: Any = None) -> None:
        self._nvml = nvml or importlib.import_module("pynvml")
        self._nvml.nvmlInit()
        self._gpu = (
            self._nvml.nvmlDeviceGetHandleByUUID(uuid)
            if uuid
            else self._nvml.nvmlDeviceGetHandleByIndex(index)
        )

    def driver(self) -> str:
        version = self._nvml.nvmlSystemGetDriverVersion()
        return version.decode() if isinstance(version, bytes) else version

    def read(self) -> dict[str, Any]:
        nvml, gpu = self._nvml, self._gpu
        getters: dict[str, Callable[[], Any]] = {
            "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
            "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
            "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
            "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
            "throttle": lambda: _reasons(self._throttle_reasons()),
        }
        reading = {}
        for name, get in getters.items():
            try:
                reading[name] = get()
            except (
                nvml.NVMLError,
                AttributeError,
            ):  # not every GPU, user and package has every reading
                continue
        return reading

    def _throttle_reasons(self) -> int:
        """Throttle reasons are called event reasons in newer versions of the package."""
        nvml = self._nvml
        get = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        return int((get or nvml.nvmlDeviceGetCurrentClocksThrottleReasons)(self._gpu))


class NvidiaSmi:
    """The driver's program."""

    def __init__(
        self,
        uuid: str | None,
        index: int,
        run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run,
    ) -> None:
        self._run = run
        self._gpu = f"--id={uuid or index}"
        for reasons in _SMI_REASONS:
            self._fields = [*_SMI_FIELDS, *filter(None, [reasons])]
            try:
                self._query()
                return
            except subprocess.CalledProcessError:
                continue

    def driver(self) -> str | None:
        return self._query()[0]

    def read(self) -> dict[str, Any]:
        try:
            _, *values = self._query()
        except (OSError, subprocess.SubprocessError, IndexError):
            return {}
        names = ("sm_mhz", "memory_mhz", "power_w", "temperature_c")
        reading: dict[str, Any] = {
            name: float(value)
            for name, value in zip(names, values, strict=False)
            if _is_number(value)
        }
        mask = values[-1]
        if mask.startswith("0x"):
            reading["throttle"] = _reasons(int(mask, 16))
        return reading

    def _query(self) -> list[str]:
        command = ["nvidia-smi", self._gpu, f"--query-gpu={','.join(self._fields)}"]
        command.append("--format=csv,noheader,nounits")
        done = self._run(command, capture_output=True, text=True, timeout=10, check=True)
        return [cell.strip() for cell in done.stdout.splitlines()[0].split(",")]


def _reasons(mask: int) -> list[str]:
    return [name for bit, name in _THROTTLE_REASONS.items() if mask & bit]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:  # "[N/A]"
        return False
    return True
