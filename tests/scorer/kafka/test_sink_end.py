"""The sink's end, and that of a producer it gives up, on the embedded broker: whatever was cut short, nothing stays."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from scorer.config import Kafka
from scorer.embedded.kafka import MockCluster
from scorer.kafka.refusal import Unreachable
from scorer.kafka.sink import Message, Outgoing, Sink
from tests.services.authority import Authority


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    with contextlib.closing(MockCluster({"scores": 1})) as cluster:
        sink = Sink(Kafka(bootstrap=cluster.bootstrap))
        await sink.start()
        await sink.publish([Outgoing("scores", 0, [Message(b"k", b"v", [])])])
        yield sink
        await sink.stop(1.0)


def producer_of(sink: Sink) -> AIOKafkaProducer:
    assert sink._producer is not None
    return sink._producer


def ended(producer: AIOKafkaProducer) -> bool:
    open_ = any(connection.connected() for connection in producer.client._conns.values())
    return bool(producer._sender.sender_task.done()) and not open_


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_a_stop_while_a_producer_is_being_given_up_leaves_nothing(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's `stop` does nothing the second time, even where the first was cut short."""
    producer = producer_of(sink)
    monkeypatch.setattr(producer._message_accumulator, "close", for_ever)
    retiring = asyncio.create_task(sink._retire(producer, 60.0))
    await asyncio.sleep(0.01)
    assert producer._closed
    retiring.cancel()
    await asyncio.wait([retiring])
    await sink.stop(0.1)
    assert ended(producer)


async def test_a_farewell_that_does_not_come_is_not_waited_for(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a frozen broker over TLS: the cut-off wait for it would then cancel whoever waits again."""
    producer = producer_of(sink)
    never = [asyncio.get_running_loop().create_future() for _ in producer.client._conns]
    with monkeypatch.context() as patch:
        for connection, farewell in zip(producer.client._conns.values(), never, strict=True):
            patch.setattr(connection, "close", lambda *_, farewell=farewell, **__: farewell)
        async with asyncio.timeout(10):
            await sink._retire(producer, 0.05)
        assert producer._sender.sender_task.done()
    await producer.client.close()


async def test_certificates_that_are_being_written_do_not_end_a_sink_that_looks_for_a_broker(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    mine = authority.issue("client")
    config = Kafka(
        bootstrap="127.0.0.1:1", protocol="SSL", cafile=authority.cafile, certfile=mine.cert, keyfile=mine.key
    )
    sink = Sink(config)
    mine.cert.write_bytes(b"half a certificate")
    with pytest.raises(Unreachable, match="certificate files cannot be used") as told:
        await sink.start()
    assert not told.value.final
