"""The services that the other tests lean on: they start, answer, survive a kill with their data, and can be frozen."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from redis.asyncio import Redis as Client

from scorer.kafka.client import stop_consumer
from tests.conftest import Topics
from tests.services import kafka, redis
from tests.services.kafka import Broker
from tests.services.missing import require
from tests.services.redis import Redis
from tests.services.topics import create_topic


async def produce(bootstrap: str, topic: str, value: bytes, partition: int = 0) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
        await producer.send_and_wait(topic, value, partition=partition)


async def consume_one(bootstrap: str, topic: str, group: str | None = None) -> bytes:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest")
    await consumer.start()
    try:
        record = await consumer.getone()
        return bytes(record.value)
    finally:
        await stop_consumer(consumer)


@pytest.mark.kafka
async def test_a_topic_carries_records_through_a_group(kafka_broker: Broker, kafka_topics: Topics) -> None:
    topic = await kafka_topics("events", partitions=3)
    await produce(kafka_broker.bootstrap, topic, b"hello", partition=2)
    assert await consume_one(kafka_broker.bootstrap, topic, group=topic) == b"hello"


@pytest.mark.kafka
async def test_topics_of_one_name_differ(kafka_topics: Topics) -> None:
    assert await kafka_topics("events", partitions=1) != await kafka_topics("events", partitions=1)


@pytest.mark.kafka
async def test_a_killed_broker_comes_back_with_its_records(tmp_path: Path) -> None:
    require(kafka.missing())
    broker = Broker(tmp_path / "kafka", settings={"log.segment.bytes": "1048576"})
    broker.start()
    try:
        topic = await create_topic(broker.bootstrap, partitions=1)
        await produce(broker.bootstrap, topic, b"kept")
        broker.kill()
        assert not broker.listens()
        broker.start()
        assert await consume_one(broker.bootstrap, topic) == b"kept"
    finally:
        broker.stop()


async def test_databases_are_empty_and_apart(redis_url: str) -> None:
    async with Client.from_url(redis_url) as client:
        assert await client.dbsize() == 0
        assert (await client.config_get("maxmemory-policy"))["maxmemory-policy"] == "noeviction"


async def test_a_killed_redis_comes_back_with_its_keys(tmp_path: Path) -> None:
    require(redis.missing())
    server = Redis(tmp_path, settings={"appendfsync": "always"})
    server.start()
    try:
        async with Client.from_url(server.url) as client:
            await client.set("key", b"kept")
        server.kill()
        server.start()
        async with Client.from_url(server.url) as client:
            assert await client.get("key") == b"kept"
    finally:
        server.stop()


async def test_a_frozen_redis_keeps_its_connections_and_answers_later(tmp_path: Path) -> None:
    require(redis.missing())
    server = Redis(tmp_path)
    server.start()
    try:
        async with Client.from_url(server.url) as client:
            await client.ping()
            server.freeze()
            late = asyncio.ensure_future(client.ping())
            done, _ = await asyncio.wait([late], timeout=0.2)
            assert not done
            server.thaw()
            assert await late
    finally:
        server.stop()
