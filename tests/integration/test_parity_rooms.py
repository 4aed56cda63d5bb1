"""How late a partition hears of what others saw of a room: measured event by event, and bounded."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer

from features.catalogue import FEATURES
from features.events import Event, encode
from replay.wording import unlg
from scorer.batcher import Portion
from scorer.pipeline import Pipeline, Work
from tests.conftest import Topics
from tests.integration.member import Setup, make_setup, serving, until_consumed
from tests.services.kafka import Broker

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

PARTITIONS = 4
EVENTS = 800
GAP_S = 0.005
REFRESH_MS = 250  # as configured by default
SLACK_MS = 350  # two exchanges late, on a machine that does other things


async def chat(setup: Setup) -> None:
    """Everybody comments in one room, each partition's viewer in turn, at a steady pace."""
    producer = AIOKafkaProducer(bootstrap_servers=setup.config.kafka.bootstrap)
    await producer.start()
    began = time.perf_counter()
    for i in range(EVENTS):
        await asyncio.sleep(max(0.0, began + i * GAP_S - time.perf_counter()))
        now_ms = time.time_ns() // 1_000_000
        event = Event(f"e{i}", "comment", now_ms, "room", "streamer", f"viewer-{i % PARTITIONS}")
        key = (event.viewer_id or "").encode()
        await producer.send(
            setup.config.kafka.events_topic, encode(event), key=key, partition=i % PARTITIONS, timestamp_ms=now_ms
        )
    await producer.stop()


def staleness_ms(works: Sequence[Work]) -> list[float]:
    """How much older than each event the oldest one is that the others have seen and its partition has not heard of."""
    at = [feature.name for feature in FEATURES].index("room_1h_events")
    lines = sorted(
        (int(work.events[i].event_id[1:]), work.events[i].event_time_ms, unlg(float(work.features[i, at])))
        for work in works
        for i in work.to_score.tolist()
    )
    assert len(lines) == EVENTS
    seen: dict[int, list[int]] = defaultdict(list)  # times of a partition's events so far
    others: dict[int, list[int]] = {
        partition: [time_ms for number, time_ms, _ in lines if number % PARTITIONS != partition]
        for partition in range(PARTITIONS)
    }
    late = []
    for number, time_ms, known in lines:
        partition = number % PARTITIONS
        seen[partition].append(time_ms)
        heard = known - len(seen[partition])
        assert heard >= 0, "a partition's own events are known exactly"
        unheard = others[partition][heard:]
        late.append(max(0.0, time_ms - unheard[0]) if unheard else 0.0)
    return late


async def test_rooms_are_heard_of_within_the_refresh(
    kafka_broker: Broker,
    kafka_topics: Topics,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Any,
) -> None:
    setup = await make_setup(kafka_broker.bootstrap, redis_url, kafka_topics, partitions=PARTITIONS)
    works: list[Work] = []
    read = Pipeline.read

    async def watched(self: Pipeline, portions: Sequence[Portion]) -> Work:
        works.append(await read(self, portions))
        return works[-1]

    monkeypatch.setattr(Pipeline, "read", watched)
    async with serving(setup.config) as service:
        await chat(setup)
        await until_consumed(service, EVENTS)
    late = staleness_ms(works)
    middle, high, most = (float(np.percentile(late, share)) for share in (50, 95, 100))
    record_property("staleness_ms", {"median": middle, "p95": high, "most": most})
    print(f"room counts of other partitions are late by {middle:.0f} ms, p95 {high:.0f}, most {most:.0f}")
    assert 20 < middle < REFRESH_MS
    assert high < REFRESH_MS + SLACK_MS / 2
    assert most < REFRESH_MS + SLACK_MS
