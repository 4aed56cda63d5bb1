"""Uniquely named topics on a real broker."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

# https://kafka.apache.org/protocol#protocol_error_codes
_PASSING = (7, 38, 41)  # timed out, too few brokers, no controller: one that a busy machine has kept from its heartbeat
_MADE = (0, 36)  # done, or done by an attempt that timed out


async def create_topic(
    bootstrap: str,
    name: str = "topic",
    partitions: int = 4,
    settings: Mapping[str, str] | None = None,
    *,
    replicas: int = 1,
) -> str:
    """Create `name` with a unique ending and wait until every partition has a leader; the full name.

    `replicas` of -1 are as many as the cluster makes by default.
    """
    topic = f"{name}.{uuid.uuid4().hex[:12]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        wanted = NewTopic(topic, partitions, replicas, topic_configs=dict(settings or {}))
        async with asyncio.timeout(60):
            while True:
                ((_, code, *why),) = (await admin.create_topics([wanted])).topic_errors
                if code not in _PASSING:
                    break
                await asyncio.sleep(0.1)
        assert code in _MADE, f"the broker refused topic {topic}: {code} {why}"
        while not await led(admin, topic, partitions):  # noqa: ASYNC110 -- another process says when
            await asyncio.sleep(0.01)  # the controller has it; the broker hears of it a moment later
    finally:
        await admin.close()
    return topic


async def led(admin: AIOKafkaAdminClient, topic: str, partitions: int) -> bool:
    """Whether the broker knows a leader for every partition."""
    (found,) = await admin.describe_topics([topic])
    return [p["leader"] >= 0 for p in found["partitions"]] == [True] * partitions
