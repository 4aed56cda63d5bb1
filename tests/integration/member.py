"""A running member of the service, in this process, against real Kafka and Redis."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import ConsumerRecord, TopicPartition

from features.events import Event, encode
from scorer.config import Batching, Config, Kafka, Redis, Server
from scorer.contracts import Score
from scorer.kafka.client import stop_consumer
from scorer.service import Service
from tests.conftest import Topics


@dataclass
class Setup:
    """Topics of their own, and the configuration of a member that reads them."""

    config: Config
    partitions: int


async def make_setup(bootstrap: str, redis_url: str, topics: Topics, *, partitions: int = 4, **batching: Any) -> Setup:
    """Create the three topics; by default nothing is shed, because a test machine may be slow."""
    names = [await topics(name, partitions) for name in ("events", "scores", "dlq")]
    kafka = Kafka(
        bootstrap=bootstrap,
        group=f"g.{names[0]}",
        events_topic=names[0],
        scores_topic=names[1],
        dlq_topic=names[2],
        session_timeout_ms=6_000,
    )
    config = Config(
        kafka=kafka,
        redis=Redis(url=redis_url, timeout_ms=2_000),
        batching=Batching(**{"publish_late": True, **batching}),
        server=Server(port=0),
    )
    return Setup(config, partitions)


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[Service]:
    """Run one member until the block ends, then stop it in order."""
    service = Service(config)
    stop = asyncio.Event()
    try:
        await service.start()
        running = asyncio.create_task(service.serve(stop))
        try:
            yield service
        finally:
            stop.set()
            await running
    finally:
        await service.close()


async def produce(setup: Setup, records: Sequence[tuple[int, bytes | None, bytes | None]]) -> None:
    """Write (partition, key, value) to the events topic, in order."""
    producer = AIOKafkaProducer(bootstrap_servers=setup.config.kafka.bootstrap, linger_ms=2)
    await producer.start()
    topic = setup.config.kafka.events_topic
    waiting = [await producer.send(topic, value, key=key, partition=partition) for partition, key, value in records]
    await asyncio.gather(*waiting)
    await producer.stop()


def record(event: Event, partitions: int) -> tuple[int, bytes | None, bytes | None]:
    """Key and partition as a producer would choose them; any stable choice will do."""
    key = None if event.viewer_id is None else event.viewer_id.encode()
    return sum(key or event.room_id.encode()) % partitions, key, encode(event)


async def read_topic(setup: Setup, topic: str) -> dict[int, list[ConsumerRecord]]:
    """Everything in a topic now, by partition."""
    consumer = AIOKafkaConsumer(bootstrap_servers=setup.config.kafka.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    tps = [TopicPartition(topic, partition) for partition in range(setup.partitions)]
    consumer.assign(tps)
    ends = await consumer.end_offsets(tps)
    found: dict[int, list[ConsumerRecord]] = {tp.partition: [] for tp in tps}
    for tp in tps:
        while await consumer.position(tp) < ends[tp]:
            for at, records in (await consumer.getmany(timeout_ms=200)).items():
                found[at.partition] += records
    await stop_consumer(consumer)
    return found


class Scored(msgspec.Struct):
    """A published score and where it came from."""

    offset: int
    """Of the event."""
    score: Score


async def read_scores(setup: Setup) -> dict[int, list[Scored]]:
    """Published scores by partition, as written, repeats included."""
    decode = msgspec.json.Decoder(Score).decode
    found = await read_topic(setup, setup.config.kafka.scores_topic)
    return {
        partition: [Scored(source_offset(record), decode(record.value)) for record in records]
        for partition, records in found.items()
    }


def source_offset(record: ConsumerRecord) -> int:
    """The header that a reader drops duplicates by."""
    return int.from_bytes(dict(record.headers)["src-off"], "big")


def first_seen(scores: Mapping[int, Sequence[Scored]]) -> dict[int, list[Scored]]:
    """What a reader keeps that drops whatever is not above the highest offset it has seen."""
    kept: dict[int, list[Scored]] = {}
    for partition, published in scores.items():
        kept[partition] = []
        highest = -1
        for scored in published:
            if scored.offset > highest:
                kept[partition].append(scored)
                highest = scored.offset
    return kept


async def until_consumed(service: Service, count: int, seconds: float = 90.0) -> None:
    """Wait until the member has accounted for `count` records and made them durable."""
    async with asyncio.timeout(seconds):
        while service.metrics.totals().consumed < count:  # noqa: ASYNC110 -- another thread of work says when
            await asyncio.sleep(0.02)
        await service.settled()
