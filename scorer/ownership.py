"""Which partitions are ours: claimed when assigned, drained when revoked, given up when another owner turns up.

The store's offset is the truth about where a partition goes on; what Kafka holds for the group is a copy for tools.
Only if the store has nothing at all does Kafka's copy matter: it then tells a new partition (start where the
configuration says) from a store that was emptied (rebuild the rows from what Kafka still has, publish nothing twice).
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeVar

from features.engine import Changes, FeatureEngine
from features.store import Checkpoint, Claim, StaleClaim, Store, StoreUnavailable, Written
from scorer import garbage
from scorer.kafka.source import Bounds, KafkaUnavailable
from scorer.lease import Lease

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)  # waits between attempts at a claim; the last one repeats
_COMMIT_S = 1.0
_DRAIN_STEP_S = 0.05
_SHARES_S = 0.5
_NOTHING = Changes({}, {})
_COLD = (-1, None)  # instead of epoch and offset: rows that no claim can go on with


class Stopped(NamedTuple):
    """A partition that needs a person."""

    reason: str
    """A metric label."""
    advice: str


class Topic(Protocol):
    """What is asked of the source."""

    @property
    def generation(self) -> int: ...

    async def committed(self, partition: int) -> int | None: ...

    async def bounds(self, partition: int) -> Bounds: ...

    def resume(self, partition: int, offset: int) -> bool: ...

    def pause(self, partition: int) -> None: ...

    async def commit(self, offsets: Mapping[int, int], note: str) -> None: ...


class Ownership:
    """The leases of this process. All methods belong to the event loop's thread.

    `steady` is held by whoever uses the feature engine across an await, so that rows do not vanish under a batch.
    """

    def __init__(
        self,
        store: Store,
        engine: FeatureEngine,
        *,
        owner: str,
        start_from: Literal["earliest", "latest"],
        on_out_of_range: Literal["stop", "earliest"],
        drain_s: float,
    ) -> None:
        self.leases: dict[int, Lease] = {}
        self.stopped: dict[int, Stopped] = {}
        self.claiming: dict[int, asyncio.Task[None]] = {}
        self.obstacles: dict[int, str] = {}  # by partition being claimed: what its claim waits for
        self.rebalances = 0
        self.skipped = 0  # records that retention took before they were read
        self.steady = asyncio.Lock()
        self._store = store
        self._engine = engine
        self._owner = owner
        self._start_from = start_from
        self._on_out_of_range = on_out_of_range
        self._drain_s = drain_s
        self._warm: dict[
            int, tuple[int, int | None]
        ] = {}  # without a lease: epoch and offset that the engine's rows are as of
        self._committed: dict[int, int] = {}
        self._topic: Topic | None = None
        self._cut: Callable[[], None] = lambda: None
        self._publish_shares: Callable[[], Awaitable[object]] | None = None
        self._forgetting: asyncio.Task[None] | None = None  # held, or it might be collected before it has run

    def attach(self, topic: Topic) -> None:
        """Say where records come from, before the first assignment."""
        self._topic = topic

    def attach_loop(self, cut: Callable[[], None]) -> None:
        """Say how to have all that was read made durable."""
        self._cut = cut

    def attach_rooms(self, publish: Callable[[], Awaitable[object]]) -> None:
        """Say how to tell other partitions about rooms. Without it they learn from the next owner, in time."""
        self._publish_shares = publish

    @property
    def topic(self) -> Topic:
        """Where records come from."""
        if self._topic is None:
            raise RuntimeError("ownership has no topic attached")
        return self._topic

    def assigned(self, partitions: Sequence[int]) -> None:
        """They are ours, and paused: claim each. Returns at once, because heartbeats wait for it."""
        self.rebalances += 1
        garbage.collect_all()
        log.info("Assigned %s.", _list(partitions))
        for partition in partitions:
            self._claim(partition)
        gone = set(self._warm) - set(partitions)
        if gone:
            self._forgetting = asyncio.create_task(self._forget(gone), name="forget")

    async def revoked(self, partitions: Sequence[int]) -> None:
        """Finish what is in flight, for as long as a rebalance may wait; the next owner redoes what is not finished."""
        if partitions:
            log.info("Revoked %s.", _list(partitions))
        leaving = [self.leases[partition] for partition in partitions if partition in self.leases]
        self._let_go(partitions)
        for lease in leaving:
            lease.queue.clear()
        await self.drain(leaving, self._drain_s)
        await self.commit()
        self._let_go(partitions)  # of what was lost, and claimed anew, in the meantime
        for partition in partitions:
            held = self.leases.pop(partition, None)  # not always the one drained: it may have been claimed anew
            if held is not None:
                # The rows are kept for the case that the partition comes back before anyone else has touched it.
                self._warm[partition] = (held.epoch, held.stored) if held.settled.is_set() else _COLD
                held.lose()

    def _let_go(self, partitions: Sequence[int]) -> None:
        """Read nothing more of these, and claim none of them."""
        for partition in partitions:
            if task := self.claiming.pop(partition, None):
                task.cancel()
            self.topic.pause(partition)
            self.stopped.pop(partition, None)

    async def commit(self) -> None:
        """Tell Kafka how far the store is, for the tools that show lag. Never backwards: not while rows are rebuilt."""
        offsets = {
            partition: lease.stored
            for partition, lease in self.leases.items()
            if lease.stored is not None and lease.stored > self._committed.get(partition, lease.publish_from - 1)
        }
        if not offsets:
            return
        try:
            async with asyncio.timeout(_COMMIT_S):  # aiokafka repeats it for as long as the coordinator is away
                await self.topic.commit(offsets, self._owner)
        except TimeoutError:
            log.info("Kafka did not take the offsets in time; the store has them.")
        except KafkaUnavailable as error:
            log.info("Kafka did not take the offsets this time; the store has them: %s", error)
        else:
            self._committed.update(offsets)

    async def drain(self, leases: Sequence[Lease], seconds: float) -> bool:
        """Wait until all that was read of these is published and in the store. False if it took too long.

        The rooms' shares are published with it: a room that has no event at the next owner would stay as it was.
        """
        try:
            async with asyncio.timeout(seconds):
                while waiting := [lease for lease in leases if not lease.settled.is_set()]:
                    async with self.steady:
                        self._cut()  # again and again: a batch that was just taken may follow
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_DRAIN_STEP_S):  # wait_for may swallow the outer one's cancellation
                            await waiting[0].settled.wait()
        except TimeoutError:
            return False
        if leases and self._publish_shares is not None:
            with contextlib.suppress(StoreUnavailable, TimeoutError):
                async with asyncio.timeout(_SHARES_S):
                    await self._publish_shares()
        return True

    def refused(self, lease: Lease, outcome: Written) -> None:
        """A checkpoint was refused: another owner came, or the store went back in time or lost everything."""
        if self.leases.get(lease.partition) is not lease:
            lease.lose()
            return
        self._lose(lease.partition)
        if outcome is Written.FENCED:
            log.warning("Partition %d has another owner now.", lease.partition)
        elif outcome is Written.REWOUND:
            log.warning("The store went back in time on partition %d; going back with it.", lease.partition)
        elif outcome is Written.LOST:
            log.error("The store holds nothing of partition %d any more.", lease.partition)
        # In every case: one who came after us refuses the claim, one who should have been gone before us does not.
        self._claim(lease.partition)

    def stop(self, partition: int, stopped: Stopped) -> None:
        """Read nothing more of a partition until a person has looked at it."""
        log.error("Partition %d is stopped: %s", partition, stopped.advice)
        self.stopped[partition] = stopped
        self.topic.pause(partition)

    def give_up(self, lease: Lease, stopped: Stopped) -> None:
        """Stop a partition whose rows in memory are not to be counted upon: nothing that is under way counts."""
        if self.leases.get(lease.partition) is lease:
            self._lose(lease.partition)
            self.stop(lease.partition, stopped)

    @property
    def skips_gaps(self) -> bool:
        """Whether the configuration allows to go on after records that retention has taken."""
        return self._on_out_of_range == "earliest"

    def reclaim(self, partition: int) -> None:
        """Start over with a partition: give up its lease and claim it anew."""
        self._lose(partition)
        self._claim(partition)

    def _lose(self, partition: int) -> None:
        if lease := self.leases.pop(partition, None):
            lease.lose()
            self._warm[partition] = _COLD
            self._engine.abandon(partition)
        self.topic.pause(partition)

    def _claim(self, partition: int) -> None:
        self._lose(partition)
        if task := self.claiming.get(partition):
            task.cancel()
        task = asyncio.create_task(self._take_over(partition), name=f"claim-{partition}")
        self.claiming[partition] = task

        def done(finished: "asyncio.Task[None]") -> None:
            if self.claiming.get(partition) is finished:
                del self.claiming[partition]
            if not finished.cancelled() and (error := finished.exception()):
                self.stop(partition, Stopped("claim", f"claiming it failed: {type(error).__name__}: {error}"))

        task.add_done_callback(done)

    async def _take_over(self, partition: int) -> None:
        while True:
            try:
                claim = await self._patiently(
                    lambda: self._store.claim(partition, self.topic.generation, self._owner), partition
                )
            except StaleClaim as stale:
                advice = (
                    f"{stale}. A newer assignment will be here in a moment; if none comes, the group was made anew "
                    "and counts from one again: go on under a new kafka.group."
                )
                self.stop(partition, Stopped("stale-claim", advice))
                return
            committed = await self._patiently(lambda: self.topic.committed(partition), partition)
            bounds = await self._patiently(lambda: self.topic.bounds(partition), partition)
            offset = self._begin(partition, claim, committed, bounds)
            if offset is None:
                return
            if claim.offset is None and committed is not None:
                # Where the offset alone was lost, rows may have stayed: they must not be counted upon again.
                await self._patiently(functools.partial(self._store.clear, partition, claim.epoch), partition)
            self._committed.pop(partition, None)
            lease = Lease(partition, claim.epoch, claim.offset, publish_from=max(offset, committed or 0))
            async with self.steady:
                if self._warm.get(partition) != (claim.epoch - 1, claim.offset) or claim.offset is None:
                    self._engine.forget(partition)
                    self._engine.open(partition)
                self._warm[partition] = _COLD  # unless all goes well
                if lease.stored != offset:
                    if await self._first_offset(lease, offset) is not Written.APPLIED:
                        continue  # claimed by another, emptied, or gone back since: the next claim tells which
                    if claim.offset is not None:
                        self.skipped += offset - claim.offset
                self.stopped.pop(partition, None)
                if self.topic.resume(partition, offset):
                    del self._warm[partition]
                    self.leases[partition] = lease
                    log.info("Partition %d goes on at offset %d (epoch %d).", partition, offset, claim.epoch)
                return

    def _begin(self, partition: int, claim: Claim, committed: int | None, bounds: Bounds) -> int | None:
        """Where to go on; None after stopping the partition."""
        known = max(claim.offset or 0, committed or 0)
        if known > bounds.end:
            self.stop(
                partition,
                Stopped(
                    "topic-behind-state",
                    f"the group has read up to offset {known}, but the topic ends at {bounds.end}: the topic was made "
                    "anew or lost records. Restore the topic, or go on under a new kafka.group.",
                ),
            )
            return None
        if claim.offset is None:
            if committed is None:
                return bounds.begin if self._start_from == "earliest" else bounds.end
            log.error(
                "Partition %d: the store holds no rows, but the group has read up to offset %d. Rebuilding them from "
                "offset %d on, which is the oldest that Kafka has; scores follow from %d.",
                partition, committed, bounds.begin, committed,
            )  # fmt: skip
            return bounds.begin
        if claim.offset < bounds.begin:
            gap = f"offsets {claim.offset} to {bounds.begin - 1} were removed by retention before they were read"
            if self._on_out_of_range == "stop":
                self.stop(
                    partition,
                    Stopped(
                        "offset-out-of-range",
                        f"{gap}. Accept the gap with kafka.on_offset_out_of_range = 'earliest', or start with a new "
                        "consumer group; then raise the topic's retention.",
                    ),
                )
                return None
            log.error("Partition %d: %s; going on after the gap.", partition, gap)
            return bounds.begin
        return claim.offset

    async def _first_offset(self, lease: Lease, offset: int) -> Written:
        """Write down where a partition begins, or is after a gap: a crash before its first batch changes nothing."""
        write = Checkpoint(lease.partition, lease.epoch, lease.stored, offset, _NOTHING)
        lease.stored = offset
        return await self._patiently(lambda: self._store.checkpoint(write), lease.partition)

    async def _patiently(self, call: Callable[[], Awaitable[_T]], partition: int) -> _T:
        """Call until the store, or Kafka, can serve; a revocation cancels it, and so does a newer claim."""
        attempt = 0
        try:
            while True:
                try:
                    return await call()
                except (StoreUnavailable, KafkaUnavailable) as error:
                    log.warning("Partition %d cannot be claimed yet: %s", partition, error)
                    self.obstacles[partition] = str(error)
                finally:
                    if self.claiming.get(partition) is not asyncio.current_task():
                        raise asyncio.CancelledError  # which the client has swallowed, whatever came of the call
                await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
                attempt += 1
        finally:
            self.obstacles.pop(partition, None)

    async def _forget(self, partitions: Collection[int]) -> None:
        """Free the rows of partitions that went elsewhere."""
        async with self.steady:
            for partition in partitions:
                if partition not in self.leases and self._warm.pop(partition, None) is not None:
                    self._engine.forget(partition)


def _list(partitions: Sequence[int]) -> str:
    return "partitions " + ", ".join(map(str, partitions)) if partitions else "no partitions"
