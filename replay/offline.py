"""A recording through the service's own pipeline: rows in memory instead of Redis, no Kafka, and no waiting.

Batches have a fixed size, nothing is shed, and time is what the records' timestamps say: every 250 ms of it, partitions
tell each other their shares of rooms, as they do in service.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engines.ladder import Answer, Ladder, Rung
from engines.model import Model
from engines.prior import PriorModel
from engines.worker import ModelWorker
from features.catalogue import fingerprint
from features.engine import Changes, FeatureEngine
from features.store import Checkpoint, MemoryStore, Written
from replay.importers.twitch_tape import ROW_HEADER
from replay.kafka import key_partition
from replay.recording import Recording, RecordingError
from replay.scores import About, ScoreWriter
from scorer.batcher import Portion
from scorer.lanes import Lane, Lanes
from scorer.lease import Lease
from scorer.pipeline import Pipeline, Topics, Work
from scorer.record import Record
from scorer.rooms import RoomExchange
from scorer.score import published

_T = TypeVar("_T")
_CHUNK = 16_384  # records read from the file at once
_CUT = 65_536  # records between two cuts of state
_ROOM_MS = 250  # as `features.room_refresh_ms` has it by default
_NOTHING = Changes()
_ANSWER_S = 3_600.0  # nobody waits for a score here


class Replayed(NamedTuple):
    """A record of a recording, as the pipeline wants it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    row: int
    """What its score goes by; -1 for a record that a recording with header `row` does not name."""


class Offline:
    """State of one pass over a recording. `store` holds the rows, packed, as Redis would."""

    def __init__(self, ladder: Ladder, *, partitions: int = 1, batch: int = 1_024, cache_viewers: int = 65_536) -> None:
        """Records without a partition get one of `partitions` by key; `cache_viewers` rows at most stay unpacked."""
        self.store = MemoryStore()
        self.counts: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._ladder = ladder
        self._partitions = partitions
        self._batch = batch
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
        )
        self._rooms = RoomExchange(self.store, self._engine, self._leases.keys, interval_s=_ROOM_MS / 1000)

    async def follow(self, recording: Recording, advance: Callable[[int], None] = lambda _: None) -> None:
        """Take in a recording of what came before: it fills the rows, and nothing of it is scored or counted."""
        async for work in self._read(recording):
            advance(work.counts["consumed"])

    async def run(self, recording: Recording) -> AsyncIterator[tuple[Work, Answer | None]]:
        """Score a recording; yields each batch with its answer, which is None if it has nothing to score."""
        async for work in self._read(recording):
            parts = await self._pipeline.infer(work)
            answer = parts[0].answer if parts else None
            self.counts.update(work.counts, scored=len(work.to_score), rejected=len(work.rejects))
            for stage, seconds in work.stages.items():
                self.seconds[stage] += seconds
            yield work, answer

    async def _read(self, recording: Recording) -> AsyncIterator[Work]:
        tick, uncut = -1, 0
        for taken in _takes(recording, self._partitions, self._batch):
            if taken.tick != tick and len(self._leases) > 1:
                await self._rooms.exchange()
            tick = taken.tick
            portions = [
                Portion(await self._lease(partition), records, [False] * len(records))
                for partition, records in taken.records.items()
            ]
            work = await self._pipeline.read(portions)
            for portion in portions:
                portion.lease.read_to = portion.records[-1].offset + 1
            yield work
            uncut += work.counts["consumed"]
            if uncut >= _CUT:
                await self._save()
                uncut = 0
        await self._save()

    async def _lease(self, partition: int) -> Lease:
        lease = self._leases.get(partition)
        if lease is None:
            claim = await self.store.claim(partition, 0, "offline")
            lease = self._leases[partition] = Lease(partition, claim.epoch, claim.offset, publish_from=0)
            self._engine.open(partition)
        return lease

    async def _save(self) -> None:
        """Pack what changed into the store, so that it need not stay in memory unpacked."""
        started = perf_counter()
        await self._rooms.exchange()  # a room with a share that nobody has been told of would have to stay
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
    rungs = [] if isinstance(model, PriorModel) else [Rung("full", ModelWorker(model), _ANSWER_S)]
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


class _Taken(NamedTuple):
    """The records of one batch."""

    tick: int
    """In which interval of record time they are, if that matters: the exchanges lie between the intervals."""
    records: dict[int, list[Record]]
    """By partition, in offset order."""


def _takes(recording: Recording, partitions: int, size: int) -> Iterator[_Taken]:
    """Cut a recording into batches of `size`, and where an exchange lies between two records of several partitions."""
    first, now_ms, named = 0, 0, None
    ends: Counter[int] = Counter()  # next offset of each partition, for records that never were on Kafka
    for batch in recording.columns(_CHUNK):
        columns = {name: batch.column(name) for name in batch.schema.names}
        times = columns["timestamp_ms"].to_numpy()
        clock = np.maximum.accumulate(np.maximum(times, now_ms))  # timestamps of several partitions cross
        now_ms = int(clock[-1])
        keys = columns["key"].to_pylist()
        partition = _partitions(columns["partition"], keys, partitions)
        offset = columns["offset"].fill_null(-1).to_numpy().copy()
        present = np.unique(partition).tolist()
        for number in present:
            unknown = np.flatnonzero((partition == number) & (offset < 0))
            offset[unknown] = ends[number] + np.arange(len(unknown))
            ends[number] += len(unknown)
        rows = _rows(columns["headers"])
        if named is None:
            named = bool((rows >= 0).any())
        if not named:
            rows = np.arange(first, first + len(keys))
        first += len(keys)
        records: list[Record] = list(
            map(Replayed, offset.tolist(), times.tolist(), keys, columns["value"].to_pylist(), rows.tolist())
        )
        several = len(present) > 1 or len(ends) > 1
        ticks = clock // _ROOM_MS if several else np.zeros(len(records), np.int64)
        edges = [0, *(np.flatnonzero(np.diff(ticks)) + 1).tolist(), len(records)]
        for begin, end in itertools.pairwise(edges):
            for start in range(begin, end, size):
                stop = min(start + size, end)
                yield _Taken(int(ticks[start]), _by_partition(records[start:stop], partition[start:stop]))


def _by_partition(records: list[Record], partition: NDArray[np.int64]) -> dict[int, list[Record]]:
    present = np.unique(partition).tolist()
    if len(present) == 1:
        return {present[0]: records}
    return {number: [records[i] for i in np.flatnonzero(partition == number)] for number in present}


def _partitions(recorded: pa.Array[Any], keys: Sequence[bytes | None], partitions: int) -> NDArray[np.int64]:
    """As recorded, else by key; (n,)."""
    found = recorded.fill_null(-1).to_numpy().astype(np.int64)
    if partitions == 1:
        found[found < 0] = 0
    for i in np.flatnonzero(found < 0).tolist():
        found[i] = key_partition(keys[i] or b"", partitions)
    return found


def _rows(headers: Any) -> NDArray[np.int64]:
    """Return what the header `row` says, (n,); -1 for records without it. Raises RecordingError."""
    rows = np.full(len(headers), -1, np.int64)
    names, values = headers.flatten().flatten()
    mine = pc.equal(names, pa.scalar(ROW_HEADER))
    try:
        numbers = values.filter(mine).cast(pa.string()).cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise RecordingError(f"A record's header `{ROW_HEADER}` is no number: {error}.") from error
    rows[pc.list_parent_indices(headers).filter(mine).to_numpy()] = numbers.to_numpy()
    return rows


async def _at_once(call: Callable[[], Awaitable[_T]]) -> _T:
    return await call()  # memory always serves
