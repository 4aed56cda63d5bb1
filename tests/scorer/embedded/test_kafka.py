"""The embedded broker, as the scorer's own client sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from scorer.embedded.kafka import MockCluster, MockError
from scorer.kafka.client import stop_consumer


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    with contextlib.closing(MockCluster({"events": 3, "scores": 5})) as cluster:
        yield cluster


async def test_topics_have_the_partitions_asked_for(cluster: MockCluster) -> None:
    async with AIOKafkaProducer(bootstrap_servers=cluster.bootstrap) as producer:
        assert await producer.partitions_for("events") == {0, 1, 2}
        assert await producer.partitions_for("scores") == {0, 1, 2, 3, 4}


async def test_a_group_of_one_reads_and_commits(cluster: MockCluster) -> None:
    async with AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, enable_idempotence=True) as producer:
        batch = producer.create_batch()
        for i in range(100):
            assert batch.append(key=b"viewer", value=b"%d" % i, timestamp=1_000 + i, headers=[("src-off", b"8")])
        await (await producer.send_batch(batch, "events", partition=2))
    consumer = AIOKafkaConsumer(
        "events",
        bootstrap_servers=cluster.bootstrap,
        group_id="scorers",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=2,
    )
    await consumer.start()
    try:
        records = [await consumer.getone() for _ in range(100)]
        assert [int(record.value) for record in records] == list(range(100))
        assert records[7].timestamp == 1_007
        assert records[7].headers == (("src-off", b"8"),)
        await consumer.commit()
        assert await consumer.committed(TopicPartition("events", 2)) == 100
    finally:
        await stop_consumer(consumer)


def test_a_topic_without_partitions_is_refused() -> None:
    with pytest.raises(MockError, match="refused topic 'events' with 0 partitions"):
        MockCluster({"events": 0})


def test_closing_twice_is_harmless(cluster: MockCluster) -> None:
    cluster.close()
    cluster.close()
