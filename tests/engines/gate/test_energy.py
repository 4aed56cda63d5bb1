"""Energy: the arithmetic on a counter whose figures are known, and counters that wrap, stand still or are not there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engines.gate import energy
from engines.gate.energy import Counter, Plan, cpu_counter, gpu_counter
from engines.gate.verdict import Energy
from engines.model import ModelError
from tests.engines.gate import made

SPENT = Energy(
    counter="a counter",
    size=64,
    windows=3,
    seconds=10.0,
    idle_w=100.0,
    busy_w=300.0,
    per_second=1_000_000.0,
    joules_per_1000=0.3,
    spread=0.01,
    grid_g_per_kwh=475.0,
    pue=1.2,
)


def test_energy_becomes_carbon_by_the_formula() -> None:
    assert SPENT.marginal_joules_per_1000 == pytest.approx(0.2)
    assert SPENT.watts_at(0) == 100
    assert SPENT.watts_at(1_000_000) == pytest.approx(300)
    assert SPENT.grams_per_million == pytest.approx(300 / 3.6e6 * 1.2 * 475)


def test_windows_under_load_are_told_from_idling() -> None:
    model = made.wrong(made.sound)
    working = 0.0
    infer = model.infer

    def counted(*rows: object) -> object:
        nonlocal working
        began = time.perf_counter()
        try:
            return infer(*rows)  # type: ignore[arg-type]
        finally:
            working += time.perf_counter() - began

    model.infer = counted  # type: ignore[method-assign, assignment]
    started = time.perf_counter()
    counter = Counter("made up", lambda: 10 * (time.perf_counter() - started) + 90 * working)  # 10 W, 90 W more at work
    plan = Plan(size=8, windows=2, seconds=0.2, grid_g_per_kwh=100.0, pue=1.5)
    found = energy.measure(model, counter, [made.sample(8)[:2]], plan)
    assert 5 < found.idle_w < 10.01  # a machine that is busy elsewhere may stop us between two looks at the clock
    assert 50 < found.busy_w <= 101
    assert found.joules_per_1000 == pytest.approx(found.busy_w / found.per_second * 1000, rel=0.01)
    assert (found.size, found.windows, found.pue) == (8, 2, 1.5)


def test_a_counter_that_stands_still_gives_no_figure() -> None:
    with pytest.raises(ModelError, match="stood still under load"):
        energy.measure(made.wrong(made.sound), Counter("still", lambda: 1.0), [made.sample(8)[:2]], Plan(8, 1, 0.01))


def test_the_cpus_counters_are_added_and_wrap(tmp_path: Path) -> None:
    for zone in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "max_energy_range_uj").write_text("1000000\n")
        (tmp_path / zone / "energy_uj").write_text("900000\n")
    counter = cpu_counter(tmp_path)
    assert counter.read() == 0
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("950000\n")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("100000\n")  # wrapped
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("999999\n")  # part of the package: counted there
    assert counter.read() == pytest.approx(0.25)


def test_a_gpu_that_cannot_be_asked_says_so() -> None:
    try:
        counter = gpu_counter("999")
    except ModelError as error:
        assert "cannot be watched" in str(error) or "nvidia-ml-py" in str(error)  # noqa: PT017  as the machine is
    else:
        pytest.fail(f"GPU 999 answered: {counter}")


def test_a_cpu_without_a_counter_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="shows no energy counter"):
        cpu_counter(tmp_path)
    (tmp_path / "intel-rapl:0").mkdir()
    with pytest.raises(ModelError, match="cannot be read"):
        cpu_counter(tmp_path)
