"""Metrics: what is counted is what is shown, and every record is accounted for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorer.instruments import Counter, Gauge, Histogram
from scorer.metrics import LATENCY, BatchStats, Metrics, Totals, merge

BATCH = BatchStats(
    consumed=12,
    scored=4,
    fallback=1,
    prior=1,
    shed=1,
    state_only=1,
    unknown=1,
    rejected={"schema": 1, "oversize": 1},
    duplicate=1,
    bucket=8,
    cache_hits=20,
    cache_misses=3,
    wait=np.array([0.001, 0.004]),
    latency=np.array([0.012, 0.060, -0.2]),
    stages={"decode": 0.0001, "inference": 0.001},
)


def samples(page: bytes) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in page.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_a_batch_is_shown_as_it_was_counted() -> None:
    metrics = Metrics()
    metrics.observe(BATCH)
    shown = samples(metrics.render())
    assert shown["tipstream_records_consumed_total"] == 12
    assert shown['tipstream_events_total{outcome="scored"}'] == 4
    assert shown['tipstream_events_total{outcome="rejected"}'] == 2
    assert shown['tipstream_rejects_total{reason="oversize"}'] == 1
    assert shown['tipstream_inferences_total{bucket="8"}'] == 1
    assert shown['tipstream_cache_lookups_total{result="hit"}'] == 20
    assert shown['tipstream_batch_records_bucket{le="16.0"}'] == 1
    assert shown['tipstream_event_latency_seconds_bucket{le="0.05"}'] == 2, "a negative latency counts as 0"
    assert shown['tipstream_event_latency_seconds_bucket{le="+Inf"}'] == 3
    assert shown["tipstream_event_latency_seconds_sum"] == pytest.approx(0.072)
    assert shown['tipstream_stage_seconds_count{stage="inference"}'] == 12, "once for each record"
    assert shown['tipstream_stage_seconds_sum{stage="inference"}'] == pytest.approx(0.012)
    assert shown["process_resident_memory_bytes"] > 0


def test_the_totals_account_for_every_record() -> None:
    metrics = Metrics()
    assert metrics.totals() == Totals(0, 0, 0, 0, 0, 0, 0, 0, 0)
    metrics.observe(BATCH)
    metrics.observe(BATCH)
    assert metrics.totals() == Totals(24, 8, 2, 2, 2, 2, 2, 4, 2)
    assert metrics.totals().unaccounted == 0
    metrics.observe(BatchStats(consumed=3, scored=2))
    assert metrics.totals().unaccounted == 1


def test_every_metric_has_a_name_of_its_own_and_a_sentence() -> None:
    instruments = Metrics().instruments()
    names = [instrument.name for instrument in instruments]
    assert len(set(names)) == len(names)
    for instrument in instruments:
        assert instrument.name.startswith("tipstream_")
        assert instrument.text.endswith(".")
        assert not {"viewer", "viewer_id", "room", "room_id", "event_id"} & set(instrument.labels)


def test_labels_come_and_go() -> None:
    metrics = Metrics()
    metrics.lag.set(7, "3")
    metrics.stopped.set(1, "3", "its offset is out of range")
    shown = samples(metrics.render())
    assert shown['tipstream_lag_records{partition="3"}'] == 7
    metrics.lag.replace({("4",): 9})
    assert samples(metrics.render())['tipstream_lag_records{partition="4"}'] == 9
    assert 'tipstream_lag_records{partition="3"}' not in samples(metrics.render())


@given(st.lists(st.floats(0, 100), max_size=200))
def test_many_values_at_once_count_as_one_by_one(values: list[float]) -> None:
    at_once, one_by_one = (Histogram("h", "H.", LATENCY) for _ in range(2))
    at_once.observe_many(np.array(values, np.float64))
    for value in values:
        one_by_one.observe(value)
    (left, left_sum), (right, right_sum) = at_once.snapshot()[""], one_by_one.snapshot()[""]
    assert left.tolist() == right.tolist()
    assert left_sum == pytest.approx(right_sum)
    for bound, below in zip(LATENCY, left.cumsum(), strict=False):
        assert below == sum(value <= bound for value in values)


def test_merged_pages_keep_every_worker_apart() -> None:
    first, second = Metrics(), Metrics()
    first.observe(BATCH)
    first.lag.set(5, "0")
    second.observe(BATCH)
    second.observe(BATCH)
    restarts = Counter("tipstream_worker_restarts", "Restarts.", "worker")
    restarts.add(2, "1")
    up = Gauge("tipstream_worker_up", "Up.", "worker")
    up.set(1, "0")
    page = merge({"0": first.render().decode(), "1": second.render().decode()}, [restarts, up])
    shown = samples(page)
    assert shown['tipstream_records_consumed_total{worker="0"}'] == 12
    assert shown['tipstream_records_consumed_total{worker="1"}'] == 24
    assert shown['tipstream_lag_records{partition="0",worker="0"}'] == 5
    assert shown['tipstream_event_latency_seconds_bucket{le="+Inf",worker="1"}'] == 6
    assert shown['tipstream_worker_restarts_total{worker="1"}'] == 2
    assert page.count(b"# TYPE tipstream_records_consumed_total counter") == 1
