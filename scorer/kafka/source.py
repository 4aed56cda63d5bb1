"""Records from Kafka, in order, none lost: a consumer-group member that is asked for records and never runs ahead.

Facts about aiokafka 0.14 that shape this file:

* `getmany` moves the positions of all partitions and then raises if one of them has an error; what it had for the
  others is gone. So after any exception every partition is put back to the first record that was not handed out.
* `getmany` must not be cancelled (it then believes for ever that a poll is under way, and `max_poll_interval_ms` no
  longer protects the group); it is only ever ended by its own timeout.
* Records of newly assigned partitions arrive while `on_partitions_assigned` still runs. Pausing them as its very first
  step, before anything is awaited, holds them back until the owner has claimed its state and sought its offset.
* A partition without a position makes every `getmany` raise at once, paused or not: it is given one with the pause.
* A (de)serializer's error would be such an exception: there are none.
* Trouble of the group is raised by `getmany` as well, and says nothing about any partition. After an unexpected error
  the group's task has ended, and every later call raises.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    IllegalStateError,
    KafkaError,
    OffsetOutOfRangeError,
    UnsupportedCodecError,
)

from scorer.config import Kafka
from scorer.kafka.client import REBALANCE_TIMEOUT_MS, options, stop_consumer
from scorer.kafka.refusal import unreachable
from scorer.record import Record

log = logging.getLogger(__name__)

_UNDECODABLE = (CorruptRecordException, UnsupportedCodecError)
_BACKOFF_S = 0.1
_LOOK_S = 5.0
_ATTEMPTS = 3  # at an unreadable record, before the partition is given up


class Unreadable(Exception):
    """A partition cannot be read on from where it stands."""

    def __init__(self, partition: int, offset: int, reason: str, *, out_of_range: bool) -> None:
        super().__init__(reason)
        self.partition = partition
        self.offset = offset
        self.reason = reason
        self.out_of_range = out_of_range


class KafkaUnavailable(Exception):
    """Kafka did not answer, or answered that it cannot now; asking again may help."""


class Bounds(NamedTuple):
    """The offsets a partition holds: `begin` is the first that is left, `end` the one that will be written next."""

    begin: int
    end: int


class Owner(Protocol):
    """Who is told about assignments."""

    def assigned(self, partitions: Sequence[int]) -> None:
        """They are ours, and paused. Must return at once: no heartbeats are sent meanwhile."""
        ...

    async def revoked(self, partitions: Sequence[int]) -> None:
        """They are about to be given away; what is in flight may be finished, well within the rebalance timeout."""
        ...


class Source:
    """The input topic as one member of the consumer group sees it."""

    def __init__(self, config: Kafka, owner: Owner) -> None:
        self._config = config
        self._topic = config.events_topic
        self._next: dict[int, int] = {}  # by partition: the first offset not handed out
        self._failures: dict[int, tuple[int, int]] = {}  # by partition: the offset that cannot be read, attempts
        self._ends: dict[int, int] = {}  # as of the last look
        self._failing = False
        self._listener = _Listener(self, owner)
        self._consumer = AIOKafkaConsumer(
            **options(config),
            group_id=config.group,
            enable_auto_commit=False,
            auto_offset_reset="none",  # the default silently skips to the newest record
            fetch_min_bytes=config.fetch_min_bytes,
            fetch_max_wait_ms=config.fetch_max_wait_ms,
            max_partition_fetch_bytes=256 * 1024,
            fetch_max_bytes=8 * 1024 * 1024,
            session_timeout_ms=config.session_timeout_ms,
            heartbeat_interval_ms=min(1_000, config.session_timeout_ms // 6),
            rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
            max_poll_interval_ms=300_000,  # waiting for Redis is no reason to leave; the watchdog looks after progress
            retry_backoff_ms=50,
            partition_assignment_strategy=(StickyPartitionAssignor,),
            check_crcs=True,
        )

    async def start(self) -> None:
        """Join the group. Raises Unreachable when no broker answers."""
        self._consumer.subscribe([self._topic], listener=self._listener)
        try:
            await self._consumer.start()
        except KafkaError as error:
            await stop_consumer(self._consumer)
            raise await unreachable(self._config, error) from error
        except BaseException:
            await stop_consumer(self._consumer)
            raise

    async def stop(self) -> None:
        """Leave the group."""
        await stop_consumer(self._consumer)

    @property
    def partitions(self) -> int:
        """How many the topic has, of all members; 0 before a broker has said so."""
        return len(self._consumer.partitions_for_topic(self._topic) or ())

    async def poll(self, timeout_ms: int) -> Mapping[int, Sequence[Record]]:
        """All records at hand, by partition, waiting up to `timeout_ms` for the first; longer during a rebalance.

        Raises Unreadable for a partition that cannot be read; the others lose nothing and can be polled again.
        """
        try:
            fetched = await self._consumer.getmany(timeout_ms=timeout_ms)
        except OffsetOutOfRangeError as error:
            self._put_back()
            if (unreadable := self._out_of_range(error)) is None:
                return {}
            raise unreadable from error
        except ConsumerStoppedError:
            raise
        except KafkaError as error:
            self._put_back()
            if self._consumer._coordinator._coordination_task.done():
                # It has left the group, will never join again, and raises this at every call: start anew.
                raise await unreachable(self._config, error) from error
            if not isinstance(error, _UNDECODABLE):
                log.warning("Reading failed: %r", error)  # the group's or a broker's trouble, no partition's
                self._failing = True
                await asyncio.sleep(_BACKOFF_S)
                return {}
            log.warning("Reading failed, and is repeated partition by partition: %s", error)
            return await self._poll_one_by_one()
        except Exception as error:
            self._put_back()
            log.warning("Reading failed, and is repeated partition by partition: %s", error)
            return await self._poll_one_by_one()
        self._failing = False
        if not fetched:
            await self._pass_markers()
        return self._handed_out(fetched)

    async def _pass_markers(self) -> None:
        """Where a producer's transactions end there are offsets without a record: do not take them for waiting ones."""
        for partition, offset in list(self._next.items()):
            if self.lag(partition):
                position = await self._consumer.position(self._tp(partition))
                if self._next.get(partition) == offset:
                    self._next[partition] = max(offset, position)

    async def _poll_one_by_one(self) -> Mapping[int, Sequence[Record]]:
        """Find the partition that cannot be read, without losing what the others have."""
        for partition, offset in list(self._next.items()):
            tp = self._tp(partition)
            if not self._is_ours(tp) or tp in self._consumer.paused() or self.lag(partition) == 0:
                continue
            failed_at, count = self._failures.get(partition, (-1, 0))
            # Record by record where there was a failure: the good ones before the bad one are not given up with it.
            limit = 1 if count else None
            try:
                fetched = await self._consumer.getmany(tp, timeout_ms=1_000, max_records=limit)
            except Exception as error:
                self._put_back()
                count = count + 1 if failed_at == offset else 1
                self._failures[partition] = (offset, count)
                if count < _ATTEMPTS:
                    continue
                reason = f"the record batch at offset {offset} cannot be decoded ({type(error).__name__}: {error})"
                raise Unreadable(partition, offset, reason, out_of_range=False) from error
            if fetched:
                return self._handed_out(fetched)
        return {}

    def _handed_out(self, fetched: Mapping[TopicPartition, Sequence[Record]]) -> dict[int, Sequence[Record]]:
        records: dict[int, Sequence[Record]] = {}
        for tp, batch in fetched.items():
            # Not yet sought (a fetch that was under way when it was assigned): the owner will ask for them in its time.
            if tp.partition in self._next:
                self._next[tp.partition] = batch[-1].offset + 1
                records[tp.partition] = batch
        return records

    def _put_back(self) -> None:
        for partition, offset in self._next.items():
            if self._is_ours(self._tp(partition)):
                self._consumer.seek(self._tp(partition), offset)

    def _out_of_range(self, error: OffsetOutOfRangeError) -> Unreadable | None:
        """What is wrong, or None if the error is about a position that has been left since."""
        offsets: Mapping[TopicPartition, int] = error.args[0]
        for tp, offset in offsets.items():
            if self._next.get(tp.partition) == offset:
                reason = f"offset {offset} is not in the topic: retention has passed it, or the topic was made anew"
                return Unreadable(tp.partition, offset, reason, out_of_range=True)
        return None

    def resume(self, partition: int, offset: int) -> bool:
        """Hand out records from `offset` on. False when the partition is no longer ours."""
        tp = self._tp(partition)
        try:
            self._consumer.seek(tp, offset)
            self._consumer.resume(tp)
        except IllegalStateError:
            return False
        self._next[partition] = offset
        self._failures.pop(partition, None)
        return True

    def pause(self, partition: int) -> None:
        """Hand out nothing more of this partition."""
        self._next.pop(partition, None)
        if self._is_ours(self._tp(partition)):
            self._consumer.pause(self._tp(partition))

    def hold(self, partition: int) -> None:
        """Pause a partition just assigned. Any position will do: without one, every poll of ours would raise."""
        self.pause(partition)
        self._consumer.seek(self._tp(partition), 0)

    async def commit(self, offsets: Mapping[int, int], note: str) -> None:
        """Tell Kafka how far we are: a hint for tools, the truth is in the store. Raises KafkaUnavailable."""
        ours = {
            self._tp(partition): OffsetAndMetadata(offset, note)
            for partition, offset in offsets.items()
            if self._is_ours(self._tp(partition))
        }
        if not ours:
            return
        try:
            await self._consumer.commit(ours)
        except KafkaError as error:
            raise KafkaUnavailable(f"the group's offsets were not taken: {error!r}") from error

    async def committed(self, partition: int) -> int | None:
        """The offset that Kafka holds for the group, if any. Raises KafkaUnavailable."""
        try:
            return await self._consumer.committed(self._tp(partition))  # type: ignore[no-any-return]
        except KafkaError as error:
            raise KafkaUnavailable(f"the group's offset is not to be had: {error!r}") from error

    async def bounds(self, partition: int) -> Bounds:
        """What the partition holds now. Raises KafkaUnavailable."""
        tp = self._tp(partition)
        try:
            begin = await self._consumer.beginning_offsets([tp])
            end = await self._consumer.end_offsets([tp])
        except KafkaError as error:
            raise KafkaUnavailable(f"the partition's bounds are not to be had: {error!r}") from error
        return Bounds(begin[tp], end[tp])

    async def look(self) -> None:
        """Ask where the partitions end: where the client has stopped to fetch, fetches do not tell that more waits."""
        tps = [self._tp(partition) for partition in self._next]
        with contextlib.suppress(KafkaError, TimeoutError):  # then nobody can tell
            async with asyncio.timeout(_LOOK_S):
                found = await self._consumer.end_offsets(tps)
            self._ends = {tp.partition: end for tp, end in found.items()}

    def lag(self, partition: int) -> int | None:
        """Records between the last one handed out and the end, as of the last fetch or look."""
        tp = self._tp(partition)
        if partition not in self._next or not self._is_ours(tp):
            return None
        ends = [end for end in (self._consumer.highwater(tp), self._ends.get(partition)) if end is not None]
        return max(0, max(ends) - self._next[partition]) if ends else None

    @property
    def generation(self) -> int:
        """The group's generation: a claim by an older one is refused. aiokafka keeps it private."""
        return int(getattr(self._consumer._coordinator, "generation", -1))

    @property
    def cut_off(self) -> bool:
        """Whether nothing can be read: the last poll failed, or the group's coordinator is not found or refuses us.

        aiokafka asks for a coordinator for ever, without a word to its owner.
        """
        return self._failing or getattr(self._consumer._coordinator, "coordinator_id", 0) is None

    def _tp(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic, partition)

    def _is_ours(self, tp: TopicPartition) -> bool:
        return tp in self._consumer.assignment()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # untyped base
    def __init__(self, source: Source, owner: Owner) -> None:
        self._source = source
        self._owner = owner

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        partitions = sorted(tp.partition for tp in assigned)
        for partition in partitions:
            self._source.hold(partition)
        self._owner.assigned(partitions)

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        partitions = sorted(tp.partition for tp in revoked)
        await self._owner.revoked(partitions)
        for partition in partitions:
            self._source.pause(partition)
