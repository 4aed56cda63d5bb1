"""A topic from its beginning to where it ends now, a partition and some records at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord, TopicPartition

from scorer.kafka.client import stop_consumer


async def stream(bootstrap: str, topic: str, partition: int) -> AsyncIterator[Sequence[ConsumerRecord]]:
    """Yield all records in order; what is written meanwhile is left out."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", max_partition_fetch_bytes=4 * 2**20
    )
    await consumer.start()
    try:
        tp = TopicPartition(topic, partition)
        consumer.assign([tp])
        end = (await consumer.end_offsets([tp]))[tp]
        while await consumer.position(tp) < end:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                yield [record for record in records if record.offset < end]
    finally:
        await stop_consumer(consumer)
