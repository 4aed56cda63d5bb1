"""What every Kafka client of the service is built with."""

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer

from scorer.config import Kafka
from scorer.kafka import tls

# A JoinGroup waits for the whole group, so a request may last as long as a rebalance; but one broker that does not
# answer holds up every new connection for as long (aiokafka opens them one at a time). Hence: just above.
REBALANCE_TIMEOUT_MS = 5_000
REQUEST_TIMEOUT_MS = 8_000


def options(config: Kafka) -> dict[str, Any]:
    """Keyword arguments shared by consumers, producers and admin clients. Raises ConfigError for a useless file."""
    shared: dict[str, Any] = {
        "bootstrap_servers": config.bootstrap,
        "client_id": "tipstream",
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
        "metadata_max_age_ms": 30_000,
        "security_protocol": config.protocol,
    }
    if config.protocol.endswith("SSL"):
        shared["ssl_context"] = tls.Context.of(config)
    if config.protocol.startswith("SASL") and config.password is not None:
        shared["sasl_mechanism"] = config.mechanism
        shared["sasl_plain_username"] = config.username
        shared["sasl_plain_password"] = config.password.reveal()
    return shared


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    """Disconnect, and leave the group if there is one.

    aiokafka 0.14: a fetch that failed and waits to be repeated ends `stop` with its own cancellation (its issue 974),
    connections still open. That is nobody's wish to cancel us, and the rest of `stop` is done here. A task that was
    cancelled before, and cleans up, is no exception.
    """
    task = asyncio.current_task()
    assert task is not None
    wishes = task.cancelling()
    try:
        await consumer.stop()
    except asyncio.CancelledError:
        if task.cancelling() > wishes:
            raise
        fetches = consumer._fetcher._pending_tasks
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)
        await consumer._client.close()
