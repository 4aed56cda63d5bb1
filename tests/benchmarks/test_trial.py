"""The harness itself, briefly: what is offered comes out once, and what it measures is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from scorer.embedded.child import ChildError
from tests.benchmarks.run import FLOOR
from tests.benchmarks.trial import Services, Subject, Trial
from tests.services.kafka import Broker
from tests.services.redis import Redis

ZIPF = "tests.benchmarks.traffic:zipf"


@pytest.fixture
def services(kafka_broker: Broker, redis_server: Redis, tmp_path: Path) -> Services:
    return Services(kafka_broker, redis_server, tmp_path)


@pytest.mark.kafka
async def test_steady_load(services: Services) -> None:
    figures = await Trial(services, Subject("pass-through", FLOOR), 1, ZIPF).steady(rate=500, seconds=3, warmup=1)
    assert figures["load"]["events"] == 1_500
    assert figures["scores_per_offered"] == 1.0
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["p999_ms"]
    assert 0 < figures["own"]["p50_ms"] <= figures["own"]["p99_ms"]
    assert figures["cpu_us_per_event"] > 0


@pytest.mark.kafka
async def test_backlog(services: Services) -> None:
    figures = await Trial(services, Subject("pass-through", FLOOR), 2, ZIPF).drain(20_000)
    assert figures["load"]["events"] == 20_000
    assert figures["scores_per_offered"] == 1.0
    assert figures["events_per_s"] > 0


@pytest.mark.kafka
async def test_a_process_that_fails_is_quoted(services: Services) -> None:
    broken = Subject("broken", "python -c \"raise SystemExit('no model')\"")
    with pytest.raises(ChildError, match=r"answered no event .*no model"):
        await Trial(services, broken, 3, ZIPF).steady(rate=500, seconds=3, warmup=1)
