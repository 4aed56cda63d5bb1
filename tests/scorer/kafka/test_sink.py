"""The sink against a real broker, through what aiokafka does not recover from on its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from scorer.config import Kafka
from scorer.kafka.sink import Message, Outgoing, Sink
from tests.conftest import Topics
from tests.services.kafka import Broker

pytestmark = pytest.mark.kafka


@asynccontextmanager
async def publishing(broker: Broker, **options: Any) -> AsyncIterator[Sink]:
    sink = Sink(Kafka(bootstrap=broker.bootstrap), **options)
    await sink.start()
    try:
        yield sink
    finally:
        await sink.stop(2.0)


def numbered(topic: str, partition: int, numbers: range) -> Outgoing:
    return Outgoing(topic, partition, [Message(b"k", b"%d" % i, [("n", b"%d" % i)]) for i in numbers])


async def everything(broker: Broker, topic: str, partition: int) -> list[int]:
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    tp = TopicPartition(topic, partition)
    consumer.assign([tp])
    end = (await consumer.end_offsets([tp]))[tp]
    found: list[int] = []
    while await consumer.position(tp) < end:
        for records in (await consumer.getmany(timeout_ms=200)).values():
            found += [int(record.value) for record in records]
    await consumer.stop()
    return found


async def test_publish_returns_with_everything_in_order(kafka_broker: Broker, kafka_topics: Topics) -> None:
    topic = await kafka_topics("sink", 2)
    async with publishing(kafka_broker) as sink:
        await asyncio.gather(
            *(
                sink.publish([numbered(topic, 0, range(i, i + 10)), numbered(topic, 1, range(i, i + 3))])
                for i in range(0, 200, 10)
            )
        )
    assert await everything(kafka_broker, topic, 0) == list(range(200))


async def test_more_than_a_batch_holds_is_split_and_stays_in_order(kafka_broker: Broker, kafka_topics: Topics) -> None:
    topic = await kafka_topics("sink", 1)
    big = Outgoing(topic, 0, [Message(b"k", b"%d" % i, [("pad", b"x" * 1000)]) for i in range(700)])
    async with publishing(kafka_broker) as sink:
        await sink.publish([big])
    assert await everything(kafka_broker, topic, 0) == list(range(700))


async def test_a_sequence_gap_is_healed_and_all_is_sent_again_in_order(
    kafka_broker: Broker, kafka_topics: Topics
) -> None:
    topic = await kafka_topics("sink", 1)
    recreated: list[None] = []
    async with publishing(kafka_broker, recreated=lambda: recreated.append(None)) as sink:
        await sink.publish([numbered(topic, 0, range(5))])
        # What a refused batch leaves behind: the sequence has moved on, the broker has not.
        sink._producer._txn_manager.increment_sequence_number(TopicPartition(topic, 0), 7)  # type: ignore[union-attr]
        await asyncio.gather(*(sink.publish([numbered(topic, 0, range(i, i + 5))]) for i in range(5, 50, 5)))
    assert recreated
    assert await everything(kafka_broker, topic, 0) == list(range(50))


async def test_a_producer_is_replaced_before_its_sequence_wraps(kafka_broker: Broker, kafka_topics: Topics) -> None:
    topic = await kafka_topics("sink", 1)
    async with publishing(kafka_broker, recycle_after=20) as sink:
        first = sink._producer
        for i in range(0, 100, 5):
            await sink.publish([numbered(topic, 0, range(i, i + 5))])
        assert sink._producer is not first
    assert await everything(kafka_broker, topic, 0) == list(range(100))


async def test_a_broker_that_dies_and_comes_back_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    from tests.services import kafka
    from tests.services.missing import require
    from tests.services.topics import create_topic

    require(kafka.missing())
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    await asyncio.to_thread(broker.start)
    try:
        topic = await create_topic(broker.bootstrap, "sink", 1)
        async with publishing(broker) as sink:
            await sink.publish([numbered(topic, 0, range(5))])
            broker.kill()
            waiting = asyncio.gather(*(sink.publish([numbered(topic, 0, range(i, i + 5))]) for i in range(5, 30, 5)))
            await asyncio.to_thread(broker.start)
            await asyncio.wait_for(waiting, 40)
        found = await everything(broker, topic, 0)
        assert list(dict.fromkeys(found)) == list(range(30))  # repeats keep their order
    finally:
        broker.stop()
