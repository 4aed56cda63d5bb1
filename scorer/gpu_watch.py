"""Looks at the GPU once a second and tells the metrics: how busy, how full, how hot, how much power and energy."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from engines.model import ModelError
from scorer.metrics import Metrics

if TYPE_CHECKING:
    from engines.tensorrt.nvml import Reading

log = logging.getLogger(__name__)

_EVERY_S = 1.0


class GpuWatch:
    """Puts readings of one GPU, called `name` in the metrics, where Prometheus finds them."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._metrics = metrics
        self._name = name
        self._energy_j: float | None = None

    def take(self, reading: Reading) -> None:
        """Take one reading; what the GPU does not tell is not exported."""
        metrics = self._metrics
        for gauge, value in (
            (metrics.gpu_utilisation, reading.utilisation),
            (metrics.gpu_memory, reading.memory_bytes),
            (metrics.gpu_temperature, reading.temperature_c),
            (metrics.gpu_power, reading.power_w),
        ):
            gauge.replace({} if value is None else {(self._name,): value})
        if reading.energy_j is not None:
            if self._energy_j is not None:  # it counts from when the driver was loaded; we from now
                metrics.gpu_energy.add(max(0.0, reading.energy_j - self._energy_j), self._name)
            self._energy_j = reading.energy_j

    async def run(self, read: Callable[[], Reading]) -> NoReturn:
        """Look for ever, in a thread: an idle GPU takes milliseconds to answer."""
        while True:
            self.take(await asyncio.to_thread(read))
            await asyncio.sleep(_EVERY_S)


async def watch(metrics: Metrics, device: str) -> None:
    """Watch a GPU, by number or UUID, for ever; says so and returns where it cannot be watched."""
    try:
        from engines.tensorrt.nvml import Nvml  # of the extra for GPUs

        with Nvml(device) as nvml:
            await GpuWatch(metrics, device or "0").run(nvml.read)
    except (ModuleNotFoundError, ModelError) as error:
        log.warning("No metrics of the GPU: %s", error)
