"""The common yardstick: an independent consumer of the scores, which knows when each event was meant to leave."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Final, NamedTuple, Self

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition
from numpy.typing import NDArray

from scorer.kafka.client import stop_consumer
from tests.benchmarks.traffic import PROBE, sent_at

POLL_MS: Final = 100


class Arrivals(NamedTuple):
    """Scores in the order they came: both arrays (n,) int64, ns since 1970."""

    intended: NDArray[np.int64]
    arrived: NDArray[np.int64]

    def between(self, start_ns: int, end_ns: int) -> Arrivals:
        """Those whose events were meant to leave in a span of time."""
        inside = (self.intended >= start_ns) & (self.intended < end_ns)
        return Arrivals(self.intended[inside], self.arrived[inside])

    def latency_ms(self) -> dict[str, float]:
        """Give quantiles from the intended departure of the event to the arrival of its score."""
        values = np.percentile((self.arrived - self.intended) / 1e6, [50, 99, 99.9])
        return dict(zip(("p50_ms", "p99_ms", "p999_ms"), map(float, values), strict=True))

    def p99_by_second_ms(self) -> list[float]:
        """Give the 0.99 quantile of each second in turn, which tells one bad second from a little of each."""
        seconds = (self.intended - self.intended.min()) // 1_000_000_000
        late_ms = (self.arrived - self.intended) / 1e6
        return [round(float(np.percentile(late_ms[seconds == second], 99)), 1) for second in np.unique(seconds)]


class _Score(msgspec.Struct):
    event_id: str


class Reader:
    """Reads a scores topic from its end, as long as the context lasts."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        """Nothing is read before the context is entered."""
        self._consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, check_crcs=False)
        self._partitions = [TopicPartition(topic, i) for i in range(partitions)]
        self._decode = msgspec.json.Decoder(_Score).decode
        self._intended: list[int] = []
        self._arrived: list[int] = []
        self.awake = asyncio.Event()  # set by the first score of a probe

    @property
    def count(self) -> int:
        """Scores so far, those of probes left out."""
        return len(self._arrived)

    @property
    def arrivals(self) -> Arrivals:
        """What came so far."""
        return Arrivals(np.array(self._intended, np.int64), np.array(self._arrived, np.int64))

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        self._consumer.assign(self._partitions)
        await self._consumer.seek_to_beginning()
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await stop_consumer(self._consumer)

    async def _read(self) -> None:
        while True:
            polled = await self._consumer.getmany(timeout_ms=POLL_MS)
            now = time.time_ns()
            for records in polled.values():
                for record in records:
                    event_id = self._decode(record.value).event_id
                    if event_id.startswith(PROBE):
                        self.awake.set()
                    else:
                        self._intended.append(sent_at(event_id))
                        self._arrived.append(now)
