"""The whole service against real Kafka and Redis: every event scored once, state exact, whatever happens between."""

import asyncio
import random

import pytest
from redis.asyncio import Redis as Client

from features.events import Event
from tests.conftest import Topics
from tests.integration.member import (
    first_seen,
    make_setup,
    produce,
    read_scores,
    read_topic,
    record,
    serving,
    until_consumed,
)
from tests.services.kafka import Broker

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

T0 = 1_700_000_000_000


def chatter(n: int, *, viewers: int = 40, rooms: int = 3, seed: int = 0) -> list[Event]:
    rng = random.Random(seed)
    events = []
    for i in range(n):
        viewer, room = rng.randrange(viewers), rng.randrange(rooms)
        kind = rng.choices(["comment", "heartbeat", "gift", "like"], [10, 5, 1, 3])[0]
        event = Event(f"e{seed}-{i}", kind, T0 + i * 250, f"r{room}", f"s{room}", viewer_id=f"v{viewer}")
        if kind == "gift":
            event.gift_tx_id, event.amount_minor, event.coin_type = f"tx{i}", rng.choice([100, 500]), "paid"
        events.append(event)
    return events


async def test_every_event_is_scored_once_in_order(kafka_broker: Broker, kafka_topics: Topics, redis_url: str) -> None:
    setup = await make_setup(kafka_broker.bootstrap, redis_url, kafka_topics)
    events = chatter(600)
    await produce(setup, [record(event, setup.partitions) for event in events])
    async with serving(setup.config) as service:
        await until_consumed(service, len(events))
        totals = service.metrics.totals()
    assert (totals.scored, totals.unaccounted) == (len(events), 0)
    scores = await read_scores(setup)
    assert sorted(s.score.event_id for part in scores.values() for s in part) == sorted(e.event_id for e in events)
    for partition, published in scores.items():
        assert [s.offset for s in published] == sorted(s.offset for s in published)
        for s in published:
            assert s.score.viewer_id is not None
            assert sum(s.score.viewer_id.encode()) % setup.partitions == partition
            assert list(s.score.p_tip) == ["60", "600"]
            assert s.score.p_tip["60"] <= s.score.p_tip["600"]


async def test_bad_records_go_to_the_dead_letters_and_nothing_else_is_lost(
    kafka_broker: Broker, kafka_topics: Topics, redis_url: str
) -> None:
    setup = await make_setup(kafka_broker.bootstrap, redis_url, kafka_topics)
    good = [record(event, setup.partitions) for event in chatter(50)]
    bad = [(1, b"k", b"not json"), (1, b"v1", None), (2, b"x", b"\xff\xfe"), (0, b"v", b"[" * 20_000)]
    unknown = (3, b"v", b'{"event_id":"u","type":"from-the-future","event_time_ms":1,"room_id":"r","streamer_id":"s"}')
    mixed = [x for pair in zip(good, (bad * 20)[:50], strict=True) for x in pair] + [unknown]
    await produce(setup, mixed)
    async with serving(setup.config) as service:
        await until_consumed(service, len(mixed))
        totals = service.metrics.totals()
    assert (totals.scored, totals.rejected, totals.unknown, totals.unaccounted) == (50, 50, 1, 0)
    letters = [r for part in (await read_topic(setup, setup.config.kafka.dlq_topic)).values() for r in part]
    assert len(letters) == 50
    for letter in letters:
        headers = dict(letter.headers)
        assert headers["dlq.topic"].decode() == setup.config.kafka.events_topic
        assert int(headers["dlq.partition"]) == letter.partition
        assert headers["dlq.reason"]
    assert {(r.key, r.value) for r in letters} == {(key, value) for _, key, value in bad}


async def test_a_restart_goes_on_where_it_ended(kafka_broker: Broker, kafka_topics: Topics, redis_url: str) -> None:
    setup = await make_setup(kafka_broker.bootstrap, redis_url, kafka_topics, partitions=2)
    events = chatter(400, seed=1)
    for half in (events[:150], events[150:]):
        await produce(setup, [record(event, 2) for event in half])
        async with serving(setup.config) as service:
            await until_consumed(service, len(half))
            assert service.metrics.totals().unaccounted == 0
    scores = await read_scores(setup)
    assert sum(map(len, scores.values())) == len(events)
    assert first_seen(scores) == scores


async def test_a_row_that_cannot_be_read_stops_its_partition_and_no_other(
    kafka_broker: Broker, kafka_topics: Topics, redis_url: str
) -> None:
    setup = await make_setup(kafka_broker.bootstrap, redis_url, kafka_topics, partitions=2)
    before, after = chatter(100, seed=7), chatter(100, seed=8)
    await produce(setup, [record(event, 2) for event in before])
    async with serving(setup.config) as service:
        await until_consumed(service, len(before))
    async with Client.from_url(redis_url) as client:
        spoilt = [key async for key in client.scan_iter("ts:*.1}:v:*")]
        good = {key: await client.hget(key, "") for key in spoilt}
        for key in spoilt:
            await client.hset(key, "", "no row")
        await produce(setup, [record(event, 2) for event in after])
        others = sum(record(event, 2)[0] == 0 for event in after)
        async with serving(setup.config) as service:
            async with asyncio.timeout(60):
                while True:
                    told = [why for why in service.health.against_readiness() if "Partition 1" in why]
                    if told and service.metrics.totals().scored >= others:
                        break
                    await asyncio.sleep(0.05)
            (reason,) = told
            assert "A stored viewer row" in reason
            assert service.health.against_life() == []
        assert len((await read_scores(setup))[0]) == sum(record(event, 2)[0] == 0 for event in before + after)
        for key, row in good.items():
            await client.hset(key, "", row)
    async with serving(setup.config) as service:
        await until_consumed(service, len(after) - others)
    scores = await read_scores(setup)
    assert sum(map(len, scores.values())) == len(before + after), "and mended, it goes on where it was"
    assert first_seen(scores) == scores


async def test_two_halves_score_as_the_whole(kafka_broker: Broker, kafka_topics: Topics, redis_url: str) -> None:
    """State read back from Redis is the state that was in memory: with one partition, to the last bit."""
    events = chatter(300, seed=2)
    published = []
    for cuts in ([len(events)], [97, len(events)]):
        setup = await make_setup(kafka_broker.bootstrap, redis_url, kafka_topics, partitions=1)
        start = 0
        for end in cuts:
            await produce(setup, [record(event, 1) for event in events[start:end]])
            async with serving(setup.config) as service:
                await until_consumed(service, end - start)
                assert service.metrics.totals().unaccounted == 0
            start = end
        published.append({s.score.event_id: s.score.p_tip for s in (await read_scores(setup))[0]})
    assert published[0].keys() == published[1].keys()
    for event_id, p_tip in published[0].items():
        assert published[1][event_id] == pytest.approx(p_tip, abs=1e-6)


async def test_late_events_are_shed_and_their_state_counts(
    kafka_broker: Broker, kafka_topics: Topics, redis_url: str
) -> None:
    setup = await make_setup(
        kafka_broker.bootstrap, redis_url, kafka_topics, partitions=1, publish_late=False, deadline_ms=1
    )
    events = chatter(100, seed=3)
    await produce(setup, [record(event, 1) for event in events])
    async with serving(setup.config) as service:
        await until_consumed(service, len(events))
        totals = service.metrics.totals()
    assert (totals.shed, totals.unaccounted) == (100, 0)
    assert await read_scores(setup) == {0: []}
