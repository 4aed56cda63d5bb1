"""The main loop: poll, take a batch, read it, and let it be scored and published while the next one is read."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from features.store import StoreUnavailable
from scorer.batcher import Batcher, Portion
from scorer.checkpointer import Checkpointer
from scorer.kafka.sink import Sink
from scorer.kafka.source import Source, Unreadable
from scorer.lease import Lease, Progress
from scorer.metrics import Metrics
from scorer.ownership import Ownership, Stopped
from scorer.pipeline import Pipeline, Work

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_IDLE_POLL_MS = 200
_RETRY_S = (0.02, 0.05, 0.1, 0.2, 0.5)  # waits between attempts at a store that cannot serve; the last one repeats
_READ_AHEAD = 8_192  # records in the queues, above which no more are asked for
_UNWRITTEN = 64  # cuts of one partition that may wait for a checkpoint before intake pauses
_UNWRITTEN_ROWS = 20_000  # and rows of all of them, some 40 MB


async def patiently(
    call: Callable[[], Awaitable[_T]], failed: Callable[[StoreUnavailable], None] = lambda _: None
) -> _T:
    """Wait for the store to serve: intake stops meanwhile, and nothing is lost. `failed` hears of each attempt."""
    attempt = 0
    while True:
        try:
            return await call()
        except StoreUnavailable as error:
            log.warning("Waiting for the store: %s", error)
            failed(error)
        await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
        attempt += 1


class Loop:
    """Moves records from the source to the sink until told to stop. `clock` is in milliseconds since 1970."""

    def __init__(
        self,
        source: Source,
        sink: Sink,
        ownership: Ownership,
        batcher: Batcher,
        pipeline: Pipeline,
        checkpointer: Checkpointer,
        metrics: Metrics,
        *,
        in_flight: int,
        checkpoint_ms: float,
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._sink = sink
        self._ownership = ownership
        self._batcher = batcher
        self._pipeline = pipeline
        self._checkpointer = checkpointer
        self._metrics = metrics
        self._slots = asyncio.Semaphore(in_flight)
        self._clock = clock
        self._last: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._interval_ms = checkpoint_ms
        self._uncut: dict[Lease, float] = {}  # with rows in memory that no cut holds yet, and since when; oldest first
        self._gaps: set[Lease] = set()  # whose next records are gone, and that have to store what was read before
        self._failure: BaseException | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set. Raises what a batch failed with: a bug, after which only a restart is safe."""
        while not stop.is_set():
            async with self._slots:  # a free place first: records gather in Kafka's buffer until there is one
                pass
            if self._failure is not None:
                raise self._failure
            await self._poll(self._poll_ms())
            portions = self._batcher.take(self._ownership.leases.values(), self._clock())
            for portion in portions:  # at once, so that a revocation waits for them
                portion.lease.begin()
            if portions:
                await self._start(portions)
            for lease in [lease for lease in self._gaps if lease.settled.is_set() and not lease.queue]:
                self._gaps.remove(lease)
                if not lease.lost:
                    self._ownership.reclaim(lease.partition)
            if self._uncut and self._until_cut_ms() <= 0:  # one a turn: records that came meanwhile go first
                async with self._ownership.steady:
                    if self._uncut:  # a revocation may have cut while we waited
                        self._cut(next(iter(self._uncut)))
        if self._failure is not None:
            raise self._failure

    def cut(self) -> None:
        """Have all that was read so far made durable, once it is published. Only while `steady` is held."""
        for lease in list(self._uncut):
            self._cut(lease)

    def _cut(self, lease: Lease) -> None:
        del self._uncut[lease]
        cut = self._pipeline.cut(lease)
        if cut is None or lease.read_to is None:  # lost
            return
        progress = Progress(lease.read_to, cut.sequence, cut.changes)
        lease.begin()
        lease.read_to = None
        task = asyncio.create_task(self._save(lease, progress, self._last), name=f"save-{cut.sequence}")
        self._last = task
        self._running.add(task)
        task.add_done_callback(self._done)

    async def _save(self, lease: Lease, progress: Progress, previous: "asyncio.Task[None] | None") -> None:
        """Write rows once the last batch in them is acknowledged, and with it all before it."""
        await _after(previous)
        self._checkpointer.add(lease, progress)
        lease.end()

    def _poll_ms(self) -> int:
        if any(lease.queue for lease in self._ownership.leases.values()):
            return 0
        if self._uncut:
            return max(1, min(_IDLE_POLL_MS, int(self._until_cut_ms())))
        return _IDLE_POLL_MS

    def _until_cut_ms(self) -> float:
        left = next(iter(self._uncut.values())) + self._interval_ms - self._clock()
        return left if left <= self._interval_ms else 0.0  # a clock that was set back holds nothing up

    async def _poll(self, timeout_ms: int) -> None:
        leases = self._ownership.leases.values()
        behind = any(len(lease.progress) > _UNWRITTEN for lease in leases)
        if behind or sum(lease.unwritten for lease in leases) > _UNWRITTEN_ROWS:
            await asyncio.sleep(0.01)  # the store is slower than we are
            return
        if sum(len(lease.queue) for lease in leases) >= _READ_AHEAD:
            return  # a backlog stays in Kafka, not in memory
        try:
            fetched = await self._source.poll(timeout_ms)
        except Unreadable as error:
            self._unreadable(error)
            return
        for partition, records in fetched.items():
            if lease := self._ownership.leases.get(partition):
                lease.read(records)

    def _unreadable(self, error: Unreadable) -> None:
        lease = self._ownership.leases.get(error.partition)
        if error.out_of_range and lease is not None and self._ownership.skips_gaps:
            self._source.pause(error.partition)
            self._gaps.add(lease)
            return
        reason = "offset-out-of-range" if error.out_of_range else "corrupt-batch"
        advice = (
            f"{error.reason}. Nothing is skipped without being told: see the operations page on stopped partitions."
        )
        self._ownership.stop(error.partition, Stopped(reason, advice))

    async def _start(self, taken: list[Portion]) -> None:
        async with self._ownership.steady:
            # A partition lost while we waited may have been claimed anew: its records will come again.
            portions = [portion for portion in taken if not portion.lease.lost]
            for portion in taken:
                if portion.lease.lost:
                    portion.lease.end()
            if not portions:
                return
            work = await self._pipeline.read(portions)
            for portion in portions:
                portion.lease.read_to = portion.records[-1].offset + 1
                self._uncut.setdefault(portion.lease, self._clock())
        await self._slots.acquire()
        task = asyncio.create_task(self._finish(work, self._last), name=f"batch-{work.sequence}")
        self._last = task
        self._running.add(task)
        task.add_done_callback(self._finished)

    async def _finish(self, work: Work, previous: "asyncio.Task[None] | None") -> None:
        """Score and publish; done once this and all before it are acknowledged."""
        try:
            published, modes = await self._pipeline.score(work, self._sink.publish)
            handed_ms = self._clock()
            await published
            acknowledged_ms = self._clock()
            await _after(previous)
        finally:
            for portion in work.portions:
                portion.lease.end()
        work.stages["publish"] = (acknowledged_ms - handed_ms) / 1000
        rows = int(work.to_score.size)
        if rows:
            self._batcher.times.observe(rows, acknowledged_ms - work.taken_ms)
        bucket = self._batcher.times.bucket(rows)
        self._metrics.observe(self._pipeline.statistics(work, modes, bucket, acknowledged_ms))

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._slots.release()
        self._done(task)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        # Nobody here cancels a batch: a library has, and all after it would end with it and without a word.
        error = RuntimeError(f"{task.get_name()} was cancelled") if task.cancelled() else task.exception()
        if error is not None and self._failure is None:
            self._failure = error


async def _after(previous: "asyncio.Task[None] | None") -> None:
    """Wait for what comes before, and fail as it failed: what follows a batch that was not published must not be saved.

    Batches and saves form one chain, so that nothing overtakes: when one is done, so is all before it.
    """
    if previous is not None:
        if not previous.done():
            await asyncio.wait([previous])
        previous.result()
