"""The engine against the oracle, to the bit, however the events are cut into batches and rows are lost and found."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings

from features.engine import FeatureEngine
from tests.features.harness import Lines, Record, Rows, assert_same, run_batch
from tests.features.oracle import Oracle
from tests.features.traffic import streams

LONGER = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def engine_of(partitions: int, capacity: int = 64) -> FeatureEngine:
    engine = FeatureEngine(capacity=capacity)
    for partition in range(partitions):
        engine.open(partition)
    return engine


def oracle_lines(oracle: Oracle, records: list[Record]) -> Lines:
    lines = [oracle.see(*record) for record in records]
    return Lines(
        np.array([line.features for line in lines]),
        np.array([line.history for line in lines]),
        np.array([line.status for line in lines], np.uint8),
        np.array([line.flags for line in lines], np.uint8),
    )


@LONGER
@given(streams())
def test_the_engine_says_what_the_oracle_says(records: list[Record]) -> None:
    got = run_batch(engine_of(2), Rows(), records)

    assert_same(got, oracle_lines(Oracle(), records))
