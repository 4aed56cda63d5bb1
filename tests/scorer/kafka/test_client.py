import asyncio
import contextlib

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from scorer.config import Kafka
from scorer.embedded.kafka import MockCluster
from scorer.kafka.client import options, stop_consumer
from scorer.layers import Secret


def test_tls_checks_the_broker_and_its_name() -> None:
    context = options(Kafka(protocol="SSL"))["ssl_context"]
    assert context.check_hostname


def test_a_password_goes_to_the_client_and_nowhere_else() -> None:
    config = Kafka(protocol="SASL_SSL", username="u", password=Secret("hush"))
    assert options(config)["sasl_plain_password"] == "hush"
    assert "hush" not in repr(config)


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SASL_PLAINTEXT"])
def test_without_tls_there_is_no_context(protocol: str) -> None:
    secret = {"username": "u", "password": Secret("hush")} if "SASL" in protocol else {}
    assert "ssl_context" not in options(Kafka(protocol=protocol, **secret))  # type: ignore[arg-type]


async def test_a_task_that_was_cancelled_leaves_no_connection_of_its_consumer_open() -> None:
    """Where a failed fetch waits, the client's own cancellation must not be taken for that of the task."""

    async def read() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await stop_consumer(consumer)

    with contextlib.closing(MockCluster({"events": 1})) as cluster:
        consumer = AIOKafkaConsumer("events", bootstrap_servers=cluster.bootstrap)
        await consumer.start()
        client, fetcher = consumer._client, consumer._fetcher
        fetcher._retry_backoff = 60.0
        await consumer.position(TopicPartition("events", 0))
        reading = asyncio.create_task(read())
        async with asyncio.timeout(20):
            while not any(connection._requests for connection in client._conns.values()):
                await consumer.getmany(timeout_ms=20)
        for connection in list(client._conns.values()):
            connection.close()
        await consumer.topics()
        assert fetcher._in_flight, "the fetch waits, while others connect anew"
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled(), "after the clean-up, as was wished"
        assert not any(connection.connected() for connection in client._conns.values())
        assert all(task.done() for task in fetcher._pending_tasks)
