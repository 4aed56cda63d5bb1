"""A recording through the service's own pipeline: rows in memory instead of Redis, no Kafka, and no waiting.

Batches have a fixed size, nothing is shed, and time is what the records' timestamps say: every 500 ms of it, partitions
tell each other their shares of rooms, which is how old these may be in service.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from engines.ladder import Answer, Ladder, Rung
from engines.model import Model
from engines.prior import PriorModel
from engines.worker import InlineWorker
from features.catalogue import fingerprint
from features.engine import FeatureEngine
from features.store import Checkpoint, MemoryStore, Written
from replay.recording import Recording
from replay.scores import About, ScoreWriter
from replay.taking import ROOM_MS, Taker, Time, partitions_of
from scorer.batcher import Portion
from scorer.lanes import Lane, Lanes
from scorer.lease import Lease
from scorer.pipeline import Pipeline, Topics, Work
from scorer.rooms import RoomExchange
from scorer.score import published

_T = TypeVar("_T")
_CUT = 524_288  # records between two cuts of state, at most: the batches between them are remembered
_LONG = 65_536  # records that a cut waits for the end of an interval, at most


class Offline:
    """State of one pass over one or several recordings. `store` holds the rows, packed, as Redis would."""

    def __init__(
        self,
        ladder: Ladder,
        *,
        partitions: int = 1,
        only: int | None = None,
        batch: int = 1_024,
        cache_viewers: int = 65_536,
        store: MemoryStore | None = None,
        at: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Records without a partition get one of `partitions` by key; `cache_viewers` rows at most stay unpacked.

        A pass may take the records of one partition `only`. `at` is told, before shares of rooms go through the store,
        by the end of which interval of record time they are.
        """
        self.store = store or MemoryStore()
        self.counts: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._ladder = ladder
        self._by_key = partitions
        self._only = only
        self._batch = batch
        self._at = at
        self._interval = 0
        self.partitions: set[int] = set()
        """Those that the recordings have, taken or not."""
        self._time = Time()
        self._leases: dict[int, Lease] = {}
        self._engine = FeatureEngine(capacity=cache_viewers)
        self._pipeline = Pipeline(
            self._engine,
            self.store,
            Lanes(Lane("", ladder)),
            Topics("events", "scores", "dlq"),
            score_on=None,
            deadline_ms=0,
            fingerprint=fingerprint(),
            clock=lambda: perf_counter() * 1000,  # only tells how long the stages took
            patiently=_at_once,
            hear=self._hear,
        )
        self._rooms = RoomExchange(self.store, self._engine, self._leases.keys, interval_s=ROOM_MS / 1000)

    async def follow(self, recording: Recording, advance: Callable[[int], None] = lambda _: None) -> None:
        """Take in a recording of what came before: it fills the rows, and nothing of it is scored or counted."""
        async for work in self.read(recording):
            advance(work.counts["consumed"])

    async def run(self, recording: Recording) -> AsyncIterator[tuple[Work, Answer | None]]:
        """Score a recording; yields each batch with its answer, which is None if it has nothing to score."""
        async for work in self.read(recording):
            parts = await self._pipeline.infer(work)
            answer = parts[0].answer if parts else None
            self.counts.update(work.counts, scored=len(work.to_score), rejected=len(work.rejects))
            for stage, seconds in work.stages.items():
                self.seconds[stage] += seconds
            yield work, answer

    async def read(self, recording: Recording) -> AsyncGenerator[Work, None]:
        """Take in a recording; yields each batch with its features, before any model is asked."""
        self.partitions |= partitions_of(recording, self._by_key)
        alone = len(self.partitions) == 1
        taker = Taker(partitions=self._by_key, size=self._batch, alone=alone, only=self._only, since=self._time)
        uncut = 0
        for taken in taker.take(recording):
            next_interval = taken.interval != self._interval
            if next_interval:
                await self.exchange()
                if taken.interval != self._interval + 1:
                    self._engine.skip_round()
                self._interval = taken.interval
            due = self._engine.is_crowded or uncut >= _CUT
            if due and (alone or next_interval or uncut >= _LONG):
                await self._save(alone)
                uncut = 0
            portions = [
                Portion(await self._lease(partition), records, [False] * len(records))
                for partition, records in taken.records.items()
            ]
            work = await self._pipeline.read(portions)
            for portion in portions:
                portion.lease.read_to = portion.records[-1].offset + 1
            yield work
            await asyncio.sleep(0)  # lets Ctrl-C in: nothing else here ever waits
            uncut += work.counts["consumed"]
        self._time = taker.time

    async def settle(self) -> None:
        """Have everything in `store`."""
        await self._save(alone=False)

    async def exchange(self) -> None:
        """Have partitions tell each other of rooms, as of this interval. `read` leaves the last one to its caller."""
        self._at(self._interval)
        await self._rooms.exchange()

    async def _hear(self, rooms: Collection[str]) -> None:
        if len(self.partitions) > 1:
            self._at(self._interval - 1)
            await self._rooms.hear(rooms)

    async def _lease(self, partition: int) -> Lease:
        lease = self._leases.get(partition)
        if lease is None:
            claim = await self.store.claim(partition, 0, "offline")
            lease = self._leases[partition] = Lease(partition, claim.epoch, claim.offset, publish_from=0)
            self._engine.open(partition)
        return lease

    async def _save(self, alone: bool) -> None:
        """Pack what changed into the store, so that it need not stay in memory unpacked."""
        started = perf_counter()
        if alone:  # else it is done between intervals; a room that nobody was told of would have to stay in memory
            await self.exchange()
        for lease in self._leases.values():
            if lease.read_to is None or (cut := self._pipeline.cut(lease)) is None:
                continue
            write = Checkpoint(lease.partition, lease.epoch, lease.stored, lease.read_to, cut.changes)
            if await self.store.checkpoint(write) is not Written.APPLIED:
                raise RuntimeError(f"the rows of partition {lease.partition} were not taken: two passes at once")
            self._engine.release(lease.partition, cut.sequence)
            lease.stored, lease.read_to = lease.read_to, None
        self.seconds["save"] += perf_counter() - started


async def score(
    recording: Recording,
    model: Model,
    out: Path,
    *,
    after: Sequence[Recording] = (),
    partitions: int = 1,
    batch: int = 1_024,
    advance: Callable[[int], None] = lambda _: None,
) -> Offline:
    """Score a recording with `model` into a score file; `advance` is told of progress. Returns the finished pass.

    The recordings in `after` came before it, in this order: they fill the rows and are not scored. Raises
    RecordingError, and ModelError where the model cannot answer: no other steps in for it.
    """
    manifest = model.manifest
    about = About(
        f"{manifest.name}:{manifest.version}", model.engine, manifest.horizons_s, manifest.tiers, recording.path.name
    )
    rungs = [] if isinstance(model, PriorModel) else [Rung("full", InlineWorker(model), None)]
    ladder = Ladder(rungs, last=model)
    run = Offline(ladder, partitions=partitions, batch=min(batch, model.max_batch))
    with contextlib.closing(ladder), ScoreWriter(out, about) as writer:
        for earlier in after:
            await run.follow(earlier, advance)
        async for work, answer in run.run(recording):
            if answer is not None:
                writer.write(_columns(work, answer))
            advance(work.counts["consumed"])
    return run


def _columns(work: Work, answer: Answer) -> list[Any]:
    """Return the columns of `replay.scores.schema`."""
    rows = work.to_score.tolist()
    events = [work.events[i] for i in rows]
    records: list[Any] = [work.records[i] for i in rows]
    told, n = published(answer), len(rows)
    row = np.array([record.row for record in records])
    names = [tier.name for tier in answer.model.manifest.tiers]
    return [
        pa.array(row, mask=row < 0),
        [event.event_id for event in events],
        [event.viewer_id for event in events],
        [event.room_id for event in events],
        [event.event_time_ms for event in events],
        work.partitions[work.to_score],
        [record.offset for record in records],
        *told.p_tip.T,
        told.value,
        pa.DictionaryArray.from_arrays(pa.array(told.tier, pa.int32()), names),
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(n), pa.int32()), [answer.mode]),
        pa.nulls(n, pa.int64()),
    ]


async def _at_once(call: Callable[[], Awaitable[_T]]) -> _T:
    return await call()  # memory always serves
