"""The scorer's own page, read back as figures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scorer.demo.gauges import NOTHING, STAGES, Gauges, Histogram, read
from scorer.metrics import BatchStats, Metrics

HALF = Histogram((0.01, 0.05, math.inf), (50.0, 90.0, 100.0), 3.0)


def test_quantiles_lie_on_a_line_within_the_bucket() -> None:
    assert HALF.quantile(0.25) == pytest.approx(0.005)
    assert HALF.quantile(0.5) == pytest.approx(0.01)
    assert HALF.quantile(0.7) == pytest.approx(0.03)
    assert HALF.quantile(0.99) == 0.05  # beyond the last bound nothing is known


def test_shares_and_means() -> None:
    assert HALF.share_within(0.05) == 0.9
    assert HALF.mean() == 0.03


def test_an_empty_histogram_says_nothing() -> None:
    assert Histogram().quantile(0.5) is None
    assert Histogram().mean() is None
    assert NOTHING.histogram("latency").share_within(math.inf) is None


def page(metrics: Metrics) -> str:
    return metrics.render().decode()


def test_the_page_of_the_service_is_understood() -> None:
    metrics = Metrics()
    metrics.partitions.replace({("owned",): 2, ("claiming",): 1})
    before = read(page(metrics), at=10.0)
    assert before.events == 0
    assert before.partitions == 2
    metrics.observe(
        BatchStats(
            consumed=4,
            scored=3,
            duplicate=1,
            bucket=8,
            wait=np.full(3, 0.004),
            latency=np.array([0.009, 0.009, 0.2]),
            stages={"decode": 0.001, "load": 0.001, "features": 0.001, "inference": 0.002, "publish": 0.003},
        )
    )
    gauges = Gauges()
    gauges.add(before)
    gauges.add(read(page(metrics), at=12.0))
    assert gauges.rate == 2.0
    assert gauges.recent.outcomes["scored"] == 3
    assert gauges.recent.histogram("latency").share_within(0.05) == pytest.approx(2 / 3)
    assert gauges.recent.histogram("batch").mean() == 4
    for stage in STAGES:
        assert gauges.recent.histogram(stage).quantile(0.5) is not None


def test_the_window_moves() -> None:
    gauges = Gauges(window_s=5)
    assert gauges.rate == 0.0
    for second in range(20):
        gauges.add(NOTHING._replace(at=float(second), outcomes={"scored": 100 * second}))
    assert gauges.recent.at == 5
    assert gauges.rate == 100.0
    assert gauges.whole.events == 1_900
