"""One batch's way from records to scores; live and offline take the same one.

    take -> decode -> find rows (load the missing ones) -> update rows, write features -> infer -> encode

`Pipeline.read` does everything up to the features, in the order that batches are taken, because each batch builds upon
the rows that the one before it left. `Pipeline.score` does the rest, and may overlap with the reading of later batches.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from engines.ladder import Mode
from features.engine import Batch, Changes, FeatureEngine, RowKey
from features.events import Event, Reject, decode
from features.kernel import CLAMPED, COLD_START, FRESH, LATE, UNMATCHED
from features.rows import RowVersionError
from features.store import Held, NotOwned, Store, Written
from scorer.batcher import Portion
from scorer.kafka.sink import Message, Outgoing
from scorer.lanes import Lanes, Part
from scorer.lease import Lease
from scorer.metrics import BatchStats, Stage
from scorer.record import Record
from scorer.score import Scoring, Timing, dead_letter, messages

_T = TypeVar("_T")
_NO_CHANGES = Changes({}, {})


@dataclass(slots=True)
class Work:
    """A batch on its way. Index i runs over its n decoded events."""

    portions: Sequence[Portion]
    sequence: int
    """Number of the batch; rows changed by it carry this number until they are durable."""
    events: list[Event]
    records: list[Record]
    """Of the events."""
    partitions: NDArray[np.int32]
    broker_ms: NDArray[np.float64]
    """Kafka's timestamps."""
    rejects: list[tuple[int, Record, Reject]]
    """Partition, record, why."""
    features: NDArray[np.float32]
    history: NDArray[np.float32]
    cold: NDArray[np.bool_]
    to_score: NDArray[np.intp]
    """Indices of the events that get a score, ascending."""
    taken_ms: float
    features_ms: float
    scored_ms: float = 0.0
    """When the model answered."""
    counts: Counter[str] = field(default_factory=Counter)
    stages: dict[Stage, float] = field(default_factory=dict)


class Cut(NamedTuple):
    """A partition's state as of a batch."""

    sequence: int
    changes: Changes
    """Since the cut before."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Where things go."""

    events: str
    scores: str
    dlq: str


class Pipeline:
    """The steps, and what they need. `clock` gives milliseconds since 1970; no feature depends on it.

    `patiently` runs a call to the store and, when the store cannot serve, waits and runs it again. `refused` is told of
    a lease whose rows are not as it left them, `unreadable` of one with a row that cannot be read: both must make it
    lost. Where there is one owner only, nobody need be told of the first, and the second is raised.
    """

    def __init__(
        self,
        engine: FeatureEngine,
        store: Store,
        lanes: Lanes,
        topics: Topics,
        *,
        score_on: Collection[str] | None,
        deadline_ms: float,
        fingerprint: str,
        clock: Callable[[], float],
        patiently: Callable[[Callable[[], Awaitable[list[bytes | None]]]], Awaitable[list[bytes | None]]],
        refused: Callable[[Lease, Written], None] | None = None,
        unreadable: Callable[[Lease, RowVersionError], None] | None = None,
        hear: Callable[[Collection[str]], Awaitable[None]] | None = None,
    ) -> None:
        self._engine = engine
        self._store = store
        self._lanes = lanes
        self._topics = topics
        self._score_on = score_on
        self._deadline_ms = deadline_ms
        self._fingerprint = fingerprint
        self._clock = clock
        self._patiently = patiently
        self._refused = refused
        self._unreadable = unreadable
        self._hear = hear
        self._uncut: dict[Lease, list[Batch]] = {}  # computed since the last cut
        self._handed: asyncio.Future[None] | None = None  # done once the batch read last is with the sink

    async def read(self, portions: Sequence[Portion]) -> Work:
        """Decode, update state, compute features. Batches must be read one after another, in order."""
        taken_ms = self._clock()
        flat = [record for portion in portions for record in portion.records]
        partition_of = np.repeat(
            np.array([portion.lease.partition for portion in portions], np.int32),
            [len(portion.records) for portion in portions],
        )
        decoded = decode([record.value for record in flat], [record.key for record in flat])
        index = np.array(decoded.index, np.intp)
        records = flat if len(decoded.index) == len(flat) else [flat[i] for i in decoded.index]
        partitions = partition_of[index]
        broker_ms = [record.timestamp for record in records]
        batch = self._engine.prepare(decoded.events, partitions.tolist(), broker_ms)
        decoded_ms = self._clock()
        hearing = None
        if batch.unheard and self._hear is not None:
            hearing = asyncio.ensure_future(self._hear(batch.unheard))  # at the same time
        if batch.missing:
            self._admit(batch.missing, await self._load(batch.missing, portions), portions)
        if hearing is not None:
            await hearing
        loaded_ms = self._clock()
        computed = self._engine.compute(batch)
        for portion in portions:
            self._uncut.setdefault(portion.lease, []).append(batch)
        features_ms = self._clock()
        work = Work(
            portions=portions,
            sequence=batch.sequence,
            events=decoded.events,
            records=records,
            partitions=partitions,
            broker_ms=np.array(broker_ms, np.float64),
            rejects=[(int(partition_of[reject.index]), flat[reject.index], reject) for reject in decoded.rejects],
            features=computed.features,
            history=computed.history,
            cold=(computed.flags & COLD_START) != 0,
            to_score=np.empty(0, np.intp),
            taken_ms=taken_ms,
            features_ms=features_ms,
        )
        work.counts.update(
            consumed=len(flat),
            unknown=decoded.unknown,
            late_events=int(np.count_nonzero(computed.flags & LATE)),
            clamped=int(np.count_nonzero(computed.flags & CLAMPED)),
            unmatched_reversals=int(np.count_nonzero(computed.flags & UNMATCHED)),
            cache_hits=3 * len(records) - len(batch.missing),
            cache_misses=len(batch.missing),
        )
        work.stages = {
            "decode": (decoded_ms - taken_ms) / 1000,
            "load": (loaded_ms - decoded_ms) / 1000,
            "features": (features_ms - loaded_ms) / 1000,
        }
        wanted: NDArray[np.bool_] = batch.columns["viewer"] >= 0  # neither about a room alone nor an erasure
        batch.forget_events()
        if self._score_on is not None:
            wanted &= np.array([event.type in self._score_on for event in decoded.events], np.bool_)
        self._decide(work, index, wanted, computed.status)
        return work

    async def _load(self, missing: Sequence[RowKey], portions: Sequence[Portion]) -> list[bytes | None]:
        """Rows in the order of the keys; none for a partition that turns out not to be ours any more.

        A member that was frozen would else mix rows of the new owner into its own, and score events by the mixture.
        """
        leases = {portion.lease.partition: portion.lease for portion in portions}
        while True:
            held = {partition: Held(lease.epoch, lease.stored) for partition, lease in leases.items()}
            keys = [key for key in missing if key.partition in held]
            try:
                rows = dict(zip(keys, await self._patiently(partial(self._store.load, keys, held)), strict=True))
            except NotOwned as found:
                if self._refused is None:
                    raise
                for partition, outcome in found.outcomes.items():
                    self._refused(leases.pop(partition), outcome)
            else:
                return [rows.get(key) for key in missing]

    def _admit(self, keys: Sequence[RowKey], rows: Sequence[bytes | None], portions: Sequence[Portion]) -> None:
        """Take rows in; a partition with one that cannot be read is given up as it is, the others are not held up."""
        unreadable = self._engine.admit(keys, rows)
        for portion in portions:
            if error := unreadable.get(portion.lease.partition):
                if self._unreadable is None:
                    raise error
                self._unreadable(portion.lease, error)

    def cut(self, lease: Lease) -> Cut | None:
        """A partition's rows changed since its last cut, as of now; None without a batch since. Between batches only.

        Packing them now and then instead of with every batch does the rows that many batches change once. One
        partition at a time: a thousand rows take milliseconds, and scores wait meanwhile.
        """
        batches = self._uncut.pop(lease, None)
        if batches is None or lease.lost:
            return None
        changes = self._engine.changes(*batches, partition=lease.partition)
        return Cut(batches[-1].sequence, changes.get(lease.partition, _NO_CHANGES))

    def _decide(
        self, work: Work, index: NDArray[np.intp], wanted: NDArray[np.bool_], status: NDArray[np.uint8]
    ) -> None:
        """Which events get a score, and what becomes of the others."""
        fresh = status == FRESH
        candidate = fresh & wanted
        for portion in work.portions:
            lease = portion.lease
            if portion.records[0].offset < lease.publish_from:  # published in an earlier life
                offsets = np.array([record.offset for record in work.records])
                candidate &= (work.partitions != lease.partition) | (offsets >= lease.publish_from)
        n_fresh, n_candidates = np.count_nonzero(fresh), np.count_nonzero(candidate)
        if any(True in portion.shed for portion in work.portions):
            shed = np.array([late for portion in work.portions for late in portion.shed], np.bool_)[index]
            candidate &= ~shed
        work.to_score = np.flatnonzero(candidate)
        work.counts.update(
            duplicate=len(fresh) - int(n_fresh),
            state_only=int(n_fresh - n_candidates),
            shed=int(n_candidates) - work.to_score.size,
        )

    async def score(
        self, work: Work, publish: Callable[[Sequence[Outgoing]], Awaitable[_T]]
    ) -> tuple[Awaitable[_T], Counter[Mode]]:
        """Score what is to be scored and hand it to `publish`, in the order of calls; scoring itself may overlap.

        Returns what `publish` returned, to be awaited, and how many scores are of which mode. A batch that fails
        fails those after it: a score must not be seen before one that belongs before it.
        """
        before, handed = self._handed, asyncio.get_running_loop().create_future()
        self._handed = handed
        try:
            parts = await self.infer(work)
            if before is not None and not before.done():
                await asyncio.wait([before])
            if before is not None:
                before.result()
            publishing = asyncio.ensure_future(publish(self._outgoing(work, self._messages(work, parts))))
        except BaseException as error:
            handed.set_exception(error if isinstance(error, Exception) else RuntimeError("the batch was given up"))
            handed.exception()  # seen: whoever comes next may not exist
            raise
        handed.set_result(None)
        modes: Counter[Mode] = Counter()
        for part in parts:
            modes[part.answer.mode] += len(part.rows)
        return publishing, modes

    async def infer(self, work: Work) -> list[Part]:
        """Ask the models about the events that get a score; each part's rows count along `to_score`."""
        rows = work.to_score
        if not rows.size:
            return []
        everything = rows.size == len(work.events)
        started_ms = self._clock()
        parts = await self._lanes.infer(
            work.events if everything else [work.events[i] for i in rows],
            work.features if everything else work.features[rows],
            work.history if everything else work.history[rows],
        )
        work.scored_ms = self._clock()
        work.stages["inference"] = (work.scored_ms - started_ms) / 1000
        return parts

    def _messages(self, work: Work, parts: Sequence[Part]) -> list[Message]:
        """One message an event that gets a score, in their order."""
        timing = Timing(work.taken_ms, work.features_ms, work.scored_ms)
        if len(parts) == 1:  # all of them, in order
            return self._encoded(work, work.to_score, parts[0], timing)
        found: dict[int, Message] = {}
        for part in parts:
            encoded = self._encoded(work, work.to_score[part.rows], part, timing)
            found.update(zip(part.rows.tolist(), encoded, strict=True))
        return [found[row] for row in range(len(found))]

    def _encoded(self, work: Work, rows: NDArray[np.intp], part: Part, timing: Timing) -> list[Message]:
        everything = rows.size == len(work.events)
        return messages(
            Scoring(part.answer, self._fingerprint, part.arm, timing),
            work.events if everything else [work.events[i] for i in rows],
            work.records if everything else [work.records[i] for i in rows],
            work.cold if everything else work.cold[rows],
            self._deadline_ms,
        )

    def _outgoing(self, work: Work, scored: Sequence[Message]) -> list[Outgoing]:
        """By topic and partition; what belongs to a lost partition is left out: its new owner publishes that."""
        outgoing: list[Outgoing] = []
        scored_partitions = work.partitions[work.to_score]
        for portion in work.portions:
            if portion.lease.lost:
                continue
            partition = portion.lease.partition
            dead = [
                dead_letter(self._topics.events, partition, record, reject.reason, reject.detail)
                for at, record, reject in work.rejects
                if at == partition and record.offset >= portion.lease.publish_from
            ]
            if dead:
                outgoing.append(Outgoing(self._topics.dlq, partition, dead))
            mine = np.flatnonzero(scored_partitions == partition)
            if mine.size:  # contiguous: a batch is built portion by portion
                messages_ = scored[mine[0] : mine[-1] + 1]
                outgoing.append(Outgoing(self._topics.scores, partition, messages_))
        return outgoing

    def statistics(self, work: Work, modes: Mapping[Mode, int], bucket: int, acknowledged_ms: float) -> BatchStats:
        """What became of a finished batch."""
        counts = work.counts
        scored_ms = work.broker_ms[work.to_score]
        return BatchStats(
            scored=modes.get("full", 0),
            fallback=modes.get("fallback", 0),
            prior=modes.get("prior", 0),
            consumed=counts["consumed"],
            shed=counts["shed"],
            state_only=counts["state_only"],
            unknown=counts["unknown"],
            rejected=Counter(reject.reason for _, _, reject in work.rejects),
            duplicate=counts["duplicate"],
            late_events=counts["late_events"],
            clamped=counts["clamped"],
            unmatched_reversals=counts["unmatched_reversals"],
            late_scores=int(np.count_nonzero(acknowledged_ms - scored_ms > self._deadline_ms)),
            bucket=bucket if work.to_score.size else 0,
            cache_hits=counts["cache_hits"],
            cache_misses=counts["cache_misses"],
            wait=(work.taken_ms - work.broker_ms) / 1000,
            latency=(acknowledged_ms - scored_ms) / 1000,
            stages=work.stages,
        )
