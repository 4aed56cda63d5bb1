"""The GPU's own figures, from NVIDIA's management library: utilisation, memory, temperature, power, energy."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

import pynvml

from engines.model import ModelError


class Reading(NamedTuple):
    """One look at a GPU; None where it does not tell, as a MIG instance does not tell its power."""

    utilisation: float | None
    """Share of the last sampling period with a kernel running, 0 to 1."""
    memory_bytes: float | None
    temperature_c: float | None
    power_w: float | None
    energy_j: float | None
    """Since the driver was loaded; advances about ten times a second, so differences need seconds."""


class Nvml:
    """A connection to the management library for the GPU that this process uses."""

    def __init__(self, device: str = "") -> None:
        """Connect; `device` is a number or UUID, by default the first of CUDA_VISIBLE_DEVICES; raises ModelError."""
        chosen = device or os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
        try:
            pynvml.nvmlInit()
            by_number = chosen.isdecimal()
            find = pynvml.nvmlDeviceGetHandleByIndex if by_number else pynvml.nvmlDeviceGetHandleByUUID
            self._handle = find(int(chosen) if by_number else chosen)
        except pynvml.NVMLError as error:
            raise ModelError(
                f"The GPU {chosen} cannot be watched ({error}). Check NVIDIA's driver and CUDA_VISIBLE_DEVICES."
            ) from error

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Disconnect."""
        pynvml.nvmlShutdown()

    def read(self) -> Reading:
        """Look once; a few tens of microseconds, up to milliseconds on an idle GPU."""
        return Reading(
            utilisation=self._ask(lambda: pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100),
            memory_bytes=self._ask(lambda: float(pynvml.nvmlDeviceGetMemoryInfo(self._handle).used)),
            temperature_c=self._ask(
                lambda: float(pynvml.nvmlDeviceGetTemperature(self._handle, pynvml.NVML_TEMPERATURE_GPU))
            ),
            power_w=self._ask(lambda: pynvml.nvmlDeviceGetPowerUsage(self._handle) / 1e3),
            energy_j=self._ask(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3),
        )

    @staticmethod
    def _ask(question: Callable[[], float]) -> float | None:
        try:
            return question()
        except pynvml.NVMLError:  # not supported here
            return None
