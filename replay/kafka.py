"""Kafka for the replay tool: a producer that keeps to a schedule, and a reader of a range of a topic."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, NamedTuple, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from aiokafka.partitioner import murmur2

from replay.recording import Headers, Record
from scorer.config import Kafka
from scorer.kafka.client import options, stop_consumer
from scorer.kafka.refusal import named

MOST_WAITING: Final = 100_000  # records handed over and not acknowledged, above which the producer asks to wait
_BATCH_BYTES: Final = 256 * 1024
_FETCH: Final = 5_000
_SILENCE_S: Final = 60.0  # the client waits for a broker for ever
_KNOWN_KEYS: Final = 1 << 20


class KafkaAccessError(Exception):
    """No broker answers, a topic is missing, or records were refused; the message says what to do."""


class Producer:
    """Hands records to Kafka in batches a partition, in order, without making the caller wait for acknowledgements."""

    def __init__(self, config: Kafka, topic: str, *, linger_ms: float = 0) -> None:
        """Remember where to; `async with` connects. A batch collects records for `linger_ms` before it is sent."""
        self._config = config
        self._topic = topic
        self._linger_s = linger_ms / 1000
        self._queues: list[_Queue] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._waiting = 0
        self._less = asyncio.Event()
        self._failure: KafkaAccessError | None = None
        self.partitions = 0
        """Of the topic; known once connected."""
        self.acknowledged = 0
        """Records that Kafka has."""

    async def __aenter__(self) -> Self:
        """Connect. Raises KafkaAccessError."""
        self._producer = AIOKafkaProducer(
            **options(self._config), enable_idempotence=True, max_batch_size=_BATCH_BYTES, linger_ms=0
        )
        try:
            self.partitions = await _partitions(self._config, self._topic)
            await self._producer.start()
        except (KafkaError, OSError, TimeoutError) as error:
            await self._producer.stop()
            raise _unreachable(self._config, self._topic, error) from error
        self._queues = [_Queue() for _ in range(self.partitions)]
        self._tasks = [asyncio.create_task(self._deliver(number)) for number in range(self.partitions)]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close; call `flush` first to know that everything arrived."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._producer.stop()

    def partition(self, key: bytes | None) -> int:
        """Choose as Kafka's own clients do: murmur2 of the key, or any partition for no key."""
        if key is None:
            return random.randrange(self.partitions)  # noqa: S311 -- no secret
        return key_partition(key, self.partitions)

    def send(self, partition: int, timestamp_ms: int, record: Record) -> None:
        """Queue a record; it is sent as soon as its partition's last batch left. Raises what went wrong before."""
        if self._failure is not None:
            raise self._failure
        queue = self._queues[partition]
        queue.records.append((timestamp_ms, record.key, record.value, record.headers))
        queue.filled.set()
        self._waiting += 1

    async def room(self) -> None:
        """Wait while too much is under way; lets the deliveries run in any case. Raises KafkaAccessError."""
        await asyncio.sleep(0)
        await self._until(MOST_WAITING)

    async def flush(self) -> None:
        """Wait until Kafka has everything. Raises KafkaAccessError."""
        await self._until(0)

    async def _until(self, most: int) -> None:
        while self._waiting > most and self._failure is None:
            self._less.clear()
            await self._less.wait()
        if self._failure is not None:
            raise self._failure

    async def _deliver(self, partition: int) -> None:
        queue = self._queues[partition]
        try:
            while True:
                await queue.filled.wait()
                await asyncio.sleep(self._linger_s)
                records, queue.records = queue.records, []
                queue.filled.clear()
                sent = 0
                while sent < len(records):
                    sent += await self._send_batch(partition, records, sent)
        except Exception as error:  # whatever it is, `flush` would wait for these records for ever
            self._fail(error)

    async def _send_batch(self, partition: int, records: Sequence[_Queued], first: int) -> int:
        """Send as many records as one batch holds and return their number."""
        batch = self._producer.create_batch()
        n = 0  # the first record is always taken, however large
        while first + n < len(records):
            timestamp_ms, key, value, headers = records[first + n]
            if batch.append(timestamp=timestamp_ms, key=key, value=value, headers=list(headers or ())) is None:
                break
            n += 1
        future = await self._producer.send_batch(batch, self._topic, partition=partition)
        future.add_done_callback(functools.partial(self._arrived, n))
        return n

    def _arrived(self, n: int, future: asyncio.Future[object]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._fail(error)
            return
        self._waiting -= n
        self.acknowledged += n
        self._less.set()

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or KafkaAccessError(
            f"Kafka did not take all records of {self._topic}: {named(error)}. It has {self.acknowledged:,} of them."
        )
        self._less.set()


class Range(NamedTuple):
    """Offsets of one partition: `first` is the first to read, `end` the first not to."""

    first: int
    end: int


class Reader:
    """Reads ranges of a topic's partitions outside any consumer group; commits nothing."""

    def __init__(self, config: Kafka, topic: str, *, silence_s: float = _SILENCE_S) -> None:
        """Remember where from; `async with` connects. A read ends if nothing comes for `silence_s`."""
        self._config = config
        self._topic = topic
        self._silence_s = silence_s

    async def __aenter__(self) -> Self:
        """Connect. Raises KafkaAccessError."""
        self._consumer = AIOKafkaConsumer(
            **options(self._config),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )
        try:
            self._partitions = [
                TopicPartition(self._topic, number) for number in range(await _partitions(self._config, self._topic))
            ]
            await self._consumer.start()
        except (KafkaError, OSError, TimeoutError) as error:
            await stop_consumer(self._consumer)
            raise _unreachable(self._config, self._topic, error) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await stop_consumer(self._consumer)

    async def ranges(self, since_ms: int | None, until_ms: int | None) -> dict[int, Range]:
        """Find, for each partition, what it holds from one Kafka timestamp to before another, as of now.

        Raises KafkaAccessError.
        """
        partitions = self._partitions
        try:
            begin = await self._consumer.beginning_offsets(partitions)
            end = await self._consumer.end_offsets(partitions)
            if since_ms is not None:
                begin |= await self._at(partitions, since_ms, end)
            if until_ms is not None:
                end |= await self._at(partitions, until_ms, end)
        except KafkaError as error:
            raise _unreachable(self._config, self._topic, error) from error
        return {tp.partition: Range(begin[tp], max(begin[tp], end[tp])) for tp in partitions}

    async def read(self, ranges: Mapping[int, Range]) -> AsyncIterator[tuple[int, int, list[Record]]]:
        """Yield (partition, next offset, records) until every range is read. Raises KafkaAccessError."""
        left = {TopicPartition(self._topic, number): span for number, span in ranges.items() if span.first < span.end}
        if not left:
            return
        self._consumer.assign(list(left))  # and nothing is awaited before the seeks, or it looks for committed offsets
        for tp, span in left.items():
            self._consumer.seek(tp, span.first)
        heard = time.monotonic()
        while left:
            for tp, reached, messages in await self._fetch(list(left)):
                end = left[tp].end
                records = [_record(message) for message in messages if message.offset < end]
                if records or reached >= end:
                    heard = time.monotonic()
                    yield tp.partition, min(reached, end), records
                if reached >= end:
                    del left[tp]
                    self._consumer.pause(tp)
            if time.monotonic() - heard > self._silence_s:
                raise KafkaAccessError(
                    f"Nothing has come of {self._topic} for {self._silence_s:g} s. Once Kafka at "
                    f"{self._config.bootstrap} answers, give the same command again: it goes on from here."
                )

    async def _fetch(
        self, partitions: Sequence[TopicPartition]
    ) -> list[tuple[TopicPartition, int, Sequence[ConsumerRecord[bytes, bytes]]]]:
        """What came of each partition, and how far it was read: past transaction markers and what compaction took."""
        try:
            fetched = await self._consumer.getmany(timeout_ms=200, max_records=_FETCH)
            return [(tp, await self._consumer.position(tp), fetched.get(tp, ())) for tp in partitions]
        except KafkaError as error:
            raise KafkaAccessError(
                f"Records of {self._topic} cannot be read: {named(error)}. If retention has "
                "passed the range, remove the folder that ends in .parts and record what is left."
            ) from error

    async def _at(
        self, partitions: Sequence[TopicPartition], time_ms: int, end: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        found = await self._consumer.offsets_for_times(dict.fromkeys(partitions, time_ms))
        return {tp: end[tp] if found.get(tp) is None else found[tp].offset for tp in partitions}


_Queued = tuple[int, bytes | None, bytes | None, Headers | None]


class _Queue:
    """What waits for one partition."""

    def __init__(self) -> None:
        self.records: list[_Queued] = []
        self.filled = asyncio.Event()


def key_partition(key: bytes, partitions: int) -> int:
    """Choose a partition as Kafka's own clients do."""
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


def _record(message: ConsumerRecord[bytes, bytes]) -> Record:
    return Record(
        message.key, message.value, message.partition, message.offset, message.headers or None, message.timestamp, None
    )


@functools.lru_cache(_KNOWN_KEYS)
def _murmur2(key: bytes) -> int:
    """Remember it: aiokafka's is plain Python, several microseconds a key, and the same viewers come again."""
    return int(murmur2(key))


async def _partitions(config: Kafka, topic: str) -> int:
    """Count a topic's partitions. All topics are asked for: asking for one by name would create it in some clusters."""
    admin = AIOKafkaAdminClient(**options(config))
    try:
        await admin.start()
        for found in await admin.describe_topics():
            if found["topic"] == topic:
                return len(found["partitions"])
    finally:
        await admin.close()
    raise UnknownTopicOrPartitionError(f"there is no topic {topic}")


def _unreachable(config: Kafka, topic: str, error: BaseException) -> KafkaAccessError:
    return KafkaAccessError(
        f"Kafka at {config.bootstrap} cannot be used for {topic}: {named(error)}. Check --bootstrap, "
        "that the topic exists, and the TLS and SASL settings (TIPSTREAM_KAFKA__...)."
    )
