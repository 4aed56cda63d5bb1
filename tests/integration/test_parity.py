"""The service and a replay of its recording agree: equal rows to the bit, equal scores, whatever befell the service."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from engines.cpu import OnnxModel
from features.catalogue import fingerprint
from features.engine import RowKey
from features.events import Event, decode, encode
from features.redis_store import RedisStore, connect
from replay.explain import SAME, explain
from replay.offline import Offline, score
from replay.published import open_scores
from replay.record import record as record_topic
from replay.recording import Recording
from replay.scores import Scores
from replay.simulate import Traffic, simulate
from scorer.service import REFERENCE_MODEL
from tests.conftest import Topics
from tests.integration.member import (
    Scored,
    Setup,
    first_seen,
    make_setup,
    produce,
    read_scores,
    serving,
    until_consumed,
)
from tests.services.kafka import Broker

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

Records = list[tuple[int, bytes | None, bytes | None]]
P_TIP = Mapping[str, float]


def traffic(partitions: int, seed: int) -> Records:
    """Simulated records, repeats and late ones among them, and an erasure; each room lies in one partition.

    So each partition knows all of its rooms: what other partitions tell it, and when, changes nothing.
    """
    records: Records = []
    rooms: dict[str, int] = {}
    for moment in simulate(Traffic(seed=seed, rate=60, duration_s=150, viewers=300, rooms=12, tips=40, diurnal=1)):
        for event in moment.events:
            partition = rooms.setdefault(event.room_id, len(rooms) % partitions)
            records.append((partition, (event.viewer_id or event.room_id).encode(), encode(event)))
    half = len(records) // 2
    events = decode([value for _, _, value in records[half:]], [key for _, key, _ in records[half:]]).events
    at, event = next((half + i, event) for i, event in enumerate(events) if event.viewer_id is not None)
    event.type, event.event_id = "erase", "erase-1"
    records.insert(at, (*records[at][:2], encode(event)))
    for last in range(partitions):  # one that is scored, so that its score tells that all before it is done
        event = Event(f"last-{last}", "comment", event.event_time_ms + 60_000, f"room-{last}", "streamer", "viewer")
        records.append((last, b"viewer", encode(event)))
    return records


async def replayed(setup: Setup, folder: Path) -> tuple[Offline, dict[tuple[int, int], P_TIP], list[RowKey]]:
    """Record the topic and score the recording: the pass, p_tip by partition and offset, and every row there may be."""
    path, out = folder / "recording.parquet", folder / "scores.parquet"
    await record_topic(setup.config.kafka, setup.config.kafka.events_topic, path)
    keys: set[RowKey] = set()
    with Recording(path) as recording:
        run = await score(recording, OnnxModel.load(REFERENCE_MODEL, features=fingerprint()), out, batch=100)
        await run.settle()
        for batch in recording.batches():
            decoded = decode([each.value for each in batch], [each.key for each in batch])
            for event, i in zip(decoded.events, decoded.index, strict=True):
                partition = batch[i].partition
                assert partition is not None
                keys.add(RowKey(partition, "room", event.room_id))
                if event.viewer_id is not None:
                    keys.add(RowKey(partition, "viewer", event.viewer_id))
                    keys.add(RowKey(partition, "pair", event.viewer_id, event.streamer_id))
    scores = Scores.read(out)
    names = {str(horizon): scores.about.p(horizon) for horizon in scores.about.horizons_s}
    columns = [scores.column(name).tolist() for name in ("partition", "offset", *names.values())]
    told: dict[tuple[int, int], P_TIP] = {
        (at, offset): dict(zip(names, p, strict=True)) for at, offset, *p in zip(*columns, strict=True)
    }
    return run, told, sorted(keys)


def variables(setup: Setup) -> dict[str, str]:
    """The configuration of another process."""
    kafka = setup.config.kafka
    names = ("bootstrap", "group", "events_topic", "scores_topic", "dlq_topic", "session_timeout_ms")
    return {
        **{f"TIPSTREAM_KAFKA__{name.upper()}": str(getattr(kafka, name)) for name in names},
        "TIPSTREAM_REDIS__URL": setup.config.redis.url,
        "TIPSTREAM_BATCHING__PUBLISH_LATE": "true",
        "TIPSTREAM_SERVER__PORT": "0",
    }


async def until_published(setup: Setup, count: int) -> None:
    """Wait until so many events have a score."""
    async with asyncio.timeout(40):
        while sum(map(len, first_seen(await read_scores(setup)).values())) < count:  # noqa: ASYNC110 -- Kafka says when
            await asyncio.sleep(0.1)


def assert_equal_scores(published: Mapping[int, Sequence[Scored]], told: Mapping[tuple[int, int], P_TIP]) -> None:
    """Repeats included: what was published twice was published equal."""
    found = [((partition, s.offset), s.score) for partition, each in published.items() for s in each]
    assert {at for at, _ in found} == told.keys()
    assert {score.mode for _, score in found} == {"full"}
    other = [(at, score, told[at]) for at, score in found if score.p_tip != pytest.approx(told[at], abs=1e-6)]
    assert other == []


async def assert_equal_rows(setup: Setup, run: Offline, keys: Sequence[RowKey]) -> None:
    """Redis holds, byte for byte, what the replay's store holds."""
    client = connect(setup.config.redis.url, username=None, password=None, cafile=None, cluster=False, timeout_s=5)
    kafka = setup.config.kafka
    store = RedisStore(client, group=kafka.group, topic=kafka.events_topic, fingerprint=fingerprint(), ttl_s=3_600)
    try:
        live, offline = await store.load(keys), await run.store.load(keys)
    finally:
        await store.close()
    assert sum(row is not None for row in offline) > 100
    assert dict(zip(keys, live, strict=True)) == dict(zip(keys, offline, strict=True))


async def test_one_partition(kafka_broker: Broker, kafka_topics: Topics, redis_url: str, tmp_path: Path) -> None:
    setup = await make_setup(kafka_broker.bootstrap, redis_url, kafka_topics, partitions=1)
    records = traffic(1, seed=5)
    await produce(setup, records)
    async with serving(setup.config) as service:
        await until_consumed(service, len(records))
        totals = service.metrics.totals()
    run, told, keys = await replayed(setup, tmp_path)
    assert totals.duplicate > 0
    assert (totals.scored, totals.duplicate, totals.state_only) == tuple(
        run.counts[name] for name in ("scored", "duplicate", "state_only")
    )
    assert_equal_scores(await read_scores(setup), told)
    await assert_equal_rows(setup, run, keys)
    scores = tmp_path / "published.parquet"
    await record_topic(setup.config.kafka, setup.config.kafka.scores_topic, scores)
    assert open_scores(scores).table.num_rows == len(told)
    found = await asyncio.to_thread(explain, "last-0", scores, tmp_path / "recording.parquet")
    assert found.same
    assert found.tolerance == SAME


async def test_two_members_of_which_one_is_killed(
    kafka_broker: Broker, kafka_topics: Topics, redis_url: str, tmp_path: Path
) -> None:
    setup = await make_setup(kafka_broker.bootstrap, redis_url, kafka_topics, partitions=4)
    records = traffic(4, seed=6)
    third = len(records) // 3
    await produce(setup, records[:third])
    serve = (sys.executable, "-m", "scorer.cli", "serve")
    other = await asyncio.create_subprocess_exec(*serve, env=os.environ | variables(setup))
    try:
        await until_published(setup, third // 2)
        async with serving(setup.config) as service:
            await produce(setup, records[third : 2 * third])
            await until_consumed(service, 100)  # it has taken partitions over
            other.kill()
            await other.wait()
            await produce(setup, records[2 * third :])
            run, told, keys = await replayed(setup, tmp_path)
            await until_published(setup, len(told))
            await service.settled()
    finally:
        if other.returncode is None:
            other.kill()
            await other.wait()
    assert_equal_scores(await read_scores(setup), told)
    await assert_equal_rows(setup, run, keys)
