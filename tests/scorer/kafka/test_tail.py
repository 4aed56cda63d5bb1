"""Looking on at topics of the embedded broker."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from scorer.config import Kafka
from scorer.embedded.kafka import MockCluster
from scorer.kafka.tail import Seen, Tail


async def test_it_sees_what_was_there_and_what_comes() -> None:
    with contextlib.closing(MockCluster({"events": 2, "scores": 1})) as cluster:
        tail = Tail(Kafka(bootstrap=cluster.bootstrap), ["events", "scores"])
        async with AIOKafkaProducer(bootstrap_servers=cluster.bootstrap) as producer:
            await producer.send_and_wait("events", key=b"a", value=b"1", partition=0)
            await tail.start()
            assert await until(tail, 1) == {"events": [Seen(b"a", b"1")], "scores": []}
            await producer.send_and_wait("events", key=b"b", value=b"2", partition=1)
            await producer.send_and_wait("scores", key=b"b", value=None, partition=0)
            assert await until(tail, 2) == {"events": [Seen(b"b", b"2")], "scores": [Seen(b"b", None)]}
            assert tail.take() == {"events": [], "scores": []}
        await tail.stop()


async def test_no_broker_is_an_error() -> None:
    with pytest.raises(KafkaError):
        await Tail(Kafka(bootstrap="127.0.0.1:1"), ["events"]).start()


async def test_stopping_what_never_started() -> None:
    await Tail(Kafka(), ["events"]).stop()


async def until(tail: Tail, records: int) -> dict[str, list[Seen]]:
    """Collect what is taken until there are so many records."""
    found: dict[str, list[Seen]] = {"events": [], "scores": []}
    while sum(map(len, found.values())) < records:
        await asyncio.sleep(0.01)
        for topic, seen in tail.take().items():
            found[topic] += seen
    return found
