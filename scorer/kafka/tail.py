"""Looking on: what topics hold and whatever follows, outside any group, with nothing committed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer

from scorer.config import Kafka
from scorer.kafka.client import options, stop_consumer

_WAIT_MS = 200  # looking on is in no hurry


class Seen(NamedTuple):
    """Key and value of one record."""

    key: bytes | None
    value: bytes | None


class Tail:
    """Reads every partition of some topics from their beginning; where retention was faster, from what is left.

    For showing, not for work: an error may cost records. `Source` is for work.
    """

    def __init__(self, config: Kafka, topics: Sequence[str]) -> None:
        """Nothing is connected yet."""
        self._config = config
        self._found: dict[str, list[Seen]] = {topic: [] for topic in topics}
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect and begin to read. Raises KafkaError when no broker answers or a topic does not exist."""
        consumer = AIOKafkaConsumer(
            *self._found,
            **options(self._config),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=_WAIT_MS,
        )
        try:
            await consumer.start()
        except BaseException:
            await stop_consumer(consumer)
            raise
        self._following = asyncio.create_task(self._follow(consumer), name="tail")

    def take(self) -> dict[str, list[Seen]]:
        """Return what has come since the last call, by topic, in order within each partition.

        Raises what reading failed with.
        """
        if self._following is not None and self._following.done():
            self._following.result()
        found = self._found
        self._found = {topic: [] for topic in found}
        return found

    async def stop(self) -> None:
        """Disconnect."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])

    async def _follow(self, consumer: AIOKafkaConsumer) -> None:
        try:
            while True:
                for partition, records in (await consumer.getmany(timeout_ms=_WAIT_MS)).items():
                    self._found[partition.topic] += [Seen(record.key, record.value) for record in records]
        finally:
            await stop_consumer(consumer)
