"""What the metrics say of a GPU."""

import asyncio

import pytest

from engines.tensorrt.nvml import Reading
from scorer.gpu_watch import GpuWatch, watch
from scorer.metrics import Metrics

READING = Reading(utilisation=0.25, memory_bytes=2e9, temperature_c=41.0, power_w=120.5, energy_j=1000.0)


def test_a_reading_is_shown_and_energy_counts_from_the_first_look() -> None:
    metrics = Metrics()
    watching = GpuWatch(metrics, "GPU-1")
    watching.take(READING)
    watching.take(READING._replace(energy_j=1012.5, power_w=130.0))
    page = metrics.render().decode()
    for line in (
        'tipstream_gpu_utilisation_ratio{gpu="GPU-1"} 0.25',
        'tipstream_gpu_memory_bytes{gpu="GPU-1"} 2e+09',
        'tipstream_gpu_temperature_celsius{gpu="GPU-1"} 41.0',
        'tipstream_gpu_power_watts{gpu="GPU-1"} 130.0',
        'tipstream_gpu_energy_joules_total{gpu="GPU-1"} 12.5',
    ):
        assert line in page


def test_what_a_mig_instance_does_not_tell_is_not_shown() -> None:
    metrics = Metrics()
    watching = GpuWatch(metrics, "MIG-1")
    watching.take(READING)
    watching.take(Reading(None, 1e9, None, None, None))
    page = metrics.render().decode()
    assert 'tipstream_gpu_memory_bytes{gpu="MIG-1"} 1e+09' in page
    assert "tipstream_gpu_power_watts{" not in page
    assert "tipstream_gpu_utilisation_ratio{" not in page


def test_a_driver_that_was_loaded_anew_takes_no_energy_back() -> None:
    metrics = Metrics()
    watching = GpuWatch(metrics, "0")
    for energy in (50.0, 60.0, 5.0, 8.0):
        watching.take(READING._replace(energy_j=energy))
    assert metrics.gpu_energy.values["0",] == 13.0


async def test_looks_off_the_loop_until_it_is_ended() -> None:
    metrics = Metrics()
    loop, looked = asyncio.get_running_loop(), asyncio.Event()

    def read() -> Reading:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        loop.call_soon_threadsafe(looked.set)
        return READING

    running = asyncio.create_task(GpuWatch(metrics, "0").run(read))
    async with asyncio.timeout(10):
        await looked.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_no_gpu_is_said_once_and_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    await watch(Metrics(), "GPU-of-another-machine")
    assert "No metrics of the GPU: The GPU GPU-of-another-machine cannot be watched" in caplog.text
