"""The sink against a real broker, through what aiokafka does not recover from on its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from scorer.config import Kafka
from scorer.kafka.client import stop_consumer
from scorer.kafka.sink import Message, Outgoing, Sink
from tests.conftest import Topics
from tests.services import kafka
from tests.services.kafka import Broker
from tests.services.missing import require
from tests.services.topics import create_topic

pytestmark = pytest.mark.kafka


@asynccontextmanager
async def publishing(broker: Broker, **options: Any) -> AsyncIterator[Sink]:
    sink = Sink(Kafka(bootstrap=broker.bootstrap), **options)
    await sink.start()
    try:
        yield sink
    finally:
        await sink.stop(2.0)


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker of the test's own, to be frozen and killed."""
    require(kafka.missing())
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.child and broker.child.kill()


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
    await stop_consumer(consumer)
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
    recreated: list[None] = []
    async with publishing(kafka_broker, recycle_after=20, recreated=lambda: recreated.append(None)) as sink:
        first = sink._producer
        for i in range(0, 100, 5):
            await sink.publish([numbered(topic, 0, range(i, i + 5))])
        assert sink._producer is not first
    assert 1 <= len(recreated) <= 5, "each time counted once"
    assert await everything(kafka_broker, topic, 0) == list(range(100))


async def test_more_than_a_batch_holds_in_one_message_is_published_too(
    kafka_broker: Broker, kafka_topics: Topics
) -> None:
    topic = await kafka_topics("sink", 1)
    message = Message(b"k", b"0", [("pad", b"x" * 600_000)])
    async with publishing(kafka_broker) as sink:
        await asyncio.wait_for(sink.publish([Outgoing(topic, 0, [message, message, message])]), 20)
    assert await everything(kafka_broker, topic, 0) == [0, 0, 0]


async def test_a_producer_that_was_replaced_leaves_nothing_running(broker: Broker) -> None:
    """Left alone it would go on trying for ever, one more with each replacement while Kafka is away."""
    topic = await create_topic(broker.bootstrap, "sink", 1)
    async with publishing(broker) as sink:
        await sink.publish([numbered(topic, 0, range(5))])
        before = len(asyncio.all_tasks())
        broker.freeze()
        waiting = asyncio.ensure_future(sink.publish([numbered(topic, 0, range(5, 10))]))
        await asyncio.sleep(0.1)
        first = sink._producer
        sink._fail(first, KafkaError("refused"))
        await asyncio.sleep(1.5)  # longer than it may take to retire
        broker.thaw()
        await asyncio.wait_for(waiting, 30)
        async with asyncio.timeout(10):
            while sink._producer is first or len(asyncio.all_tasks()) > before:  # noqa: ASYNC110 -- until all have ended
                await asyncio.sleep(0.05)
    found = await everything(broker, topic, 0)
    assert list(dict.fromkeys(found)) == list(range(10))


async def test_a_repair_that_fails_fails_what_waits_for_it(
    kafka_broker: Broker, kafka_topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repair that ended without a word would leave every publication waiting for ever."""
    topic = await kafka_topics("sink", 1)

    async def broken() -> None:
        raise ValueError("a bug")

    async with publishing(kafka_broker) as sink:
        await sink.publish([numbered(topic, 0, range(5))])
        monkeypatch.setattr(sink, "_new_producer", broken)
        sink._fail(sink._producer, KafkaError("refused"))
        with pytest.raises(ValueError, match="a bug"):
            await asyncio.wait_for(sink.publish([numbered(topic, 0, range(5))]), 5)


async def test_a_broker_that_dies_and_comes_back_loses_nothing(broker: Broker) -> None:
    topic = await create_topic(broker.bootstrap, "sink", 1)
    async with publishing(broker) as sink:
        await sink.publish([numbered(topic, 0, range(5))])
        broker.kill()
        waiting = asyncio.gather(*(sink.publish([numbered(topic, 0, range(i, i + 5))]) for i in range(5, 30, 5)))
        await asyncio.to_thread(broker.start)
        await asyncio.wait_for(waiting, 40)
    found = await everything(broker, topic, 0)
    assert list(dict.fromkeys(found)) == list(range(30))  # repeats keep their order


async def test_a_partition_that_the_topic_lacks_is_waited_for_in_words(
    kafka_broker: Broker, kafka_topics: Topics, caplog: pytest.LogCaptureFixture
) -> None:
    """As where the events were given more partitions than the scores: nothing is lost, and nothing ends."""
    topic = await kafka_topics("scores", 1)
    async with publishing(kafka_broker) as sink:
        waiting = asyncio.create_task(sink.publish([numbered(topic, 2, range(3))]))
        async with asyncio.timeout(60):
            while "has no partition 2" not in caplog.text:  # noqa: ASYNC110 -- the sink tries by itself
                await asyncio.sleep(0.01)
        assert sink.broken
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap)
        await admin.start()
        await admin.create_partitions({topic: NewPartitions(3)})
        await admin.close()
        async with asyncio.timeout(60):
            await waiting
    assert await everything(kafka_broker, topic, 2) == [0, 1, 2]
