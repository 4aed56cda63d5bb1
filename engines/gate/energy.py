"""What scoring costs in energy, by the device's own counter over windows of unbroken load."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from engines.gate.speed import Rows, flow
from engines.gate.verdict import Energy
from engines.model import Model, ModelError

_RAPL: Final = Path("/sys/class/powercap")
_CHUNK: Final = 50  # batches between two looks at the clock
_SETTLE_S: Final = 0.3  # counters advance about ten times a second: a window begins when the load is seen by them


class Counter(NamedTuple):
    """Joules since some moment."""

    name: str
    read: Callable[[], float]


class Plan(NamedTuple):
    """How to measure, and what the power's origin is said to be."""

    size: int = 64
    """Rows a batch."""
    windows: int = 3
    seconds: float = 10.0
    """Of each window; shorter ones are within the counter's own error."""
    grid_g_per_kwh: float = 475.0
    """GCO2e a kWh: the world's mean (IEA, 2019)."""
    pue: float = 1.0


def measure(model: Model, counter: Counter, rows: Sequence[Rows], plan: Plan) -> Energy:
    """Let the device idle, then load it window by window; rows are batches of `plan.size`. Takes their seconds."""
    idle_w = _idle(counter, plan.seconds)
    found = []
    for _ in range(plan.windows):
        _load(model, rows, _SETTLE_S)
        found.append(_window(model, counter, rows, plan))
    joules, seconds, scores = (np.array(column) for column in zip(*found, strict=True))
    if not joules.all():
        raise ModelError(f"{counter.name} stood still under load: it does not count on this device.")
    each = joules / scores * 1000
    return Energy(
        counter=counter.name,
        size=plan.size,
        windows=plan.windows,
        seconds=plan.seconds,
        idle_w=round(idle_w, 2),
        busy_w=round(float(joules.sum() / seconds.sum()), 2),
        per_second=round(float(scores.sum() / seconds.sum()), 1),
        joules_per_1000=float(f"{joules.sum() / scores.sum() * 1000:.4g}"),
        spread=round(float((each.max() - each.min()) / each.mean()), 4),
        grid_g_per_kwh=plan.grid_g_per_kwh,
        pue=plan.pue,
    )


def gpu_counter(device: str = "") -> Counter:
    """Return the GPU's counter; raises ModelError where there is none, as on a MIG instance."""
    try:
        from engines.tensorrt.nvml import Nvml
    except ImportError as error:
        raise ModelError("Energy needs nvidia-ml-py: pip install 'tipstream[gpu]'") from error
    nvml = Nvml(device)

    def read() -> float:
        joules = nvml.read().energy_j
        if joules is None:
            raise ModelError("This GPU does not tell its energy (a MIG instance and many virtual GPUs do not).")
        return joules

    read()
    return Counter("NVML energy counter of the GPU", read)


def cpu_counter(root: Path = _RAPL) -> Counter:
    """Return the CPU packages' counter (RAPL); raises ModelError where it cannot be read."""
    zones = sorted(path for path in root.glob("intel-rapl:*") if path.name.count(":") == 1)
    try:
        tops = [float((zone / "max_energy_range_uj").read_text()) for zone in zones]
        first = [float((zone / "energy_uj").read_text()) for zone in zones]
    except (OSError, ValueError) as error:
        raise ModelError(f"The CPU's energy counter cannot be read ({error}): it may be root's alone.") from error
    if not zones:
        raise ModelError("This CPU shows no energy counter (virtual machines seldom do).")
    last, total = first, 0.0

    def read() -> float:
        nonlocal last, total
        now = [float((zone / "energy_uj").read_text()) for zone in zones]
        total += sum((a - b) % top for a, b, top in zip(now, last, tops, strict=True))  # counters wrap
        last = now
        return total / 1e6

    return Counter("RAPL counter of the CPU packages", read)


def _idle(counter: Counter, seconds: float) -> float:
    time.sleep(_SETTLE_S)
    began, before = time.perf_counter(), counter.read()
    time.sleep(seconds)
    return (counter.read() - before) / (time.perf_counter() - began)


def _load(model: Model, rows: Sequence[Rows], seconds: float) -> int:
    """Score batches for some seconds and return how many."""
    until, batches = time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        flow(model, rows, _CHUNK)
        batches += _CHUNK
    return batches


def _window(model: Model, counter: Counter, rows: Sequence[Rows], plan: Plan) -> tuple[float, float, float]:
    """Joules, seconds and scores of one window; `infer` waits for the device, so nothing is left running."""
    began, before = time.perf_counter(), counter.read()
    batches = _load(model, rows, plan.seconds)
    return counter.read() - before, time.perf_counter() - began, float(batches * plan.size)
