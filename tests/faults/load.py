"""Writes traffic to the events topic at a rate that may be changed on the way, and knows what Kafka took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Self

from confluent_kafka import KafkaException, Producer

from tests.faults.traffic import Produced

_TICK_S = 0.02


class Load:
    """Writes from the start of the block to `finish`. `rate` is in events a second and may be set at any time."""

    def __init__(self, bootstrap: str, topic: str, traffic: Iterator[Produced], partitions: int, rate: float) -> None:
        """Nothing is written yet."""
        self.rate = rate
        self.ends = dict.fromkeys(range(partitions), 0)
        """How many records of each partition Kafka has acknowledged."""
        self._topic = topic
        self._traffic = traffic
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "queue.buffering.max.messages": 1_000_000,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def written(self) -> int:
        """How many records Kafka has."""
        return sum(self.ends.values())

    @property
    def waiting(self) -> int:
        """How many records Kafka has not acknowledged yet."""
        return len(self._producer)

    async def finish(self) -> None:
        """Stop, and wait until Kafka has it all. Raises what writing failed with."""
        assert self._task is not None
        if self._task.done():
            self._task.result()
        await self.__aexit__()
        left = await asyncio.to_thread(self._producer.flush, 60)
        assert left == 0, f"Kafka did not take {left} records of the load within a minute"

    def write(self, records: Iterator[Produced], count: int) -> None:
        """Hand over so many now."""
        for _ in range(count):
            partition, key, value = next(records)
            self._producer.produce(self._topic, value, key, partition, on_delivery=self._delivered)

    async def _run(self) -> None:
        due = time.monotonic()
        while True:
            now = time.monotonic()
            count = min(int((now - due) * self.rate), 5_000)
            if count:
                self.write(self._traffic, count)
                due = max(due + count / self.rate, now - 1.0) if self.rate else now
            self._producer.poll(0)
            await asyncio.sleep(_TICK_S)

    def _delivered(self, error: Any, message: Any) -> None:
        if error is not None:
            raise KafkaException(error)
        self.ends[message.partition()] += 1
