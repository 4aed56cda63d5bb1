"""One member without Kafka: records from lists, scores into lists, rows in a dictionary, faults on demand."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from engines.ladder import Ladder
from engines.manifest import Manifest, Prior, Tier
from engines.model import Scores
from features.catalogue import HISTORY_LENGTH, N_CHANNELS, N_FEATURES
from features.engine import FeatureEngine, RowKey
from features.events import Event, encode
from features.store import Checkpoint, Claim, Held, MemoryStore, StoreUnavailable, Written
from scorer.batcher import Batcher, ServiceTimes
from scorer.checkpointer import Checkpointer
from scorer.kafka.sink import Message, Outgoing
from scorer.kafka.source import Bounds
from scorer.lanes import Lane, Lanes
from scorer.lease import Lease
from scorer.loop import Loop, patiently
from scorer.metrics import Metrics
from scorer.ownership import Ownership
from scorer.pipeline import Pipeline, Topics

T0 = 1_700_000_000_000


class Rec(NamedTuple):
    """A record of the input topic."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


def say(offset: int, viewer: str = "v0", room: str = "r0", **fields: Any) -> Rec:
    """One viewer's comment, or another event given by `fields`."""
    event = Event(f"e{viewer}{offset}", "comment", T0 + offset * 100, room, "s", viewer_id=viewer)
    for name, value in fields.items():
        setattr(event, name, value)
    return Rec(offset, event.event_time_ms, viewer.encode(), encode(event))


class Log:
    """What the input topic holds and what Kafka knows of the group; shared by members."""

    def __init__(self, partitions: int) -> None:
        self.records: list[list[Rec]] = [[] for _ in range(partitions)]
        self.begin = [0] * partitions
        self.committed: dict[int, int] = {}
        self.generation = 1


class ListSource:
    """The input topic as one member sees it. `faults` are raised by the next calls about partitions, one each."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.generation = log.generation
        self.position: dict[int, int] = {}
        self.paused: set[int] = set()
        self.faults: list[Exception] = []
        self.most = 3

    async def poll(self, timeout_ms: int) -> Mapping[int, Sequence[Rec]]:
        await asyncio.sleep(0)
        found = {}
        for partition, offset in self.position.items():
            if records := self.log.records[partition][offset : offset + self.most]:
                found[partition] = records
                self.position[partition] = records[-1].offset + 1
        return found

    async def committed(self, partition: int) -> int | None:
        self._fail()
        return self.log.committed.get(partition)

    async def bounds(self, partition: int) -> Bounds:
        self._fail()
        return Bounds(self.log.begin[partition], len(self.log.records[partition]))

    def resume(self, partition: int, offset: int) -> bool:
        self.position[partition] = offset
        return True

    def pause(self, partition: int) -> None:
        self.position.pop(partition, None)

    async def commit(self, offsets: Mapping[int, int], note: str) -> None:
        self._fail()
        self.log.committed.update(offsets)

    def _fail(self) -> None:
        if self.faults:
            raise self.faults.pop(0)


class ListSink:
    """Keeps what is published, in the order handed over; while `held`, acknowledges nothing by itself."""

    def __init__(self) -> None:
        self.published: list[tuple[str, int, Message]] = []
        self.held = False
        self.waiting: list[asyncio.Future[None]] = []

    async def publish(self, outgoing: Sequence[Outgoing]) -> None:
        self.published += [(topic, partition, message) for topic, partition, some in outgoing for message in some]
        if self.held and outgoing:
            self.waiting.append(asyncio.get_running_loop().create_future())
            await self.waiting[-1]

    def offsets(self, partition: int) -> list[int]:
        """Source offsets of a partition's scores, as published."""
        return [
            int.from_bytes(dict(message.headers)["src-off"], "big")
            for topic, at, message in self.published
            if topic == "scores" and at == partition
        ]


class FaultyStore(MemoryStore):
    """A MemoryStore that fails when told to: each entry of `faults` is what the next checkpoint does.

    `refuse` fails before it writes anything; `lose` writes and fails; `hang` waits for `proceed` and then writes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.away = False
        self.writes: list[Checkpoint] = []
        self.loads = 0
        self.proceed = asyncio.Event()

    async def claim(self, partition: int, generation: int, owner: str) -> Claim:
        await self._serve()
        return await super().claim(partition, generation, owner)

    async def load(self, keys: Sequence[RowKey], held: Mapping[int, Held] | None = None) -> list[bytes | None]:
        self.loads += 1
        await self._serve()
        return await super().load(keys, held)

    async def publish_shares(self, shares: Mapping[int, Mapping[str, bytes]]) -> None:
        await self._serve()
        await super().publish_shares(shares)

    async def read_shares(self, rooms: Sequence[str]) -> list[dict[int, bytes]]:
        await self._serve()
        return await super().read_shares(rooms)

    async def checkpoint(self, write: Checkpoint) -> Written:
        await self._serve()
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "hang":
            await self.proceed.wait()
        if fault == "refuse":
            raise StoreUnavailable("refused on demand")
        outcome = await super().checkpoint(write)
        if outcome is Written.REWOUND and self.offset(write.partition) == write.offset:
            outcome = Written.APPLIED  # as a store does that finds its own earlier attempt
        if outcome is Written.APPLIED:
            self.writes.append(write)
        if fault == "lose":
            raise StoreUnavailable("reply lost on demand")
        return outcome

    async def _serve(self) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailable("away on demand")

    def offset(self, partition: int) -> int | None:
        """The stored offset."""
        held = self._partitions.get(partition)
        return None if held is None else held.offset

    def rows(self, partition: int) -> tuple[dict[str, dict[str, bytes]], dict[str, bytes]]:
        """Stored viewers and rooms."""
        held = self._partitions[partition]
        return held.viewers, held.rooms

    def snapshot(self) -> dict[int, Any]:
        """What is stored now, to be restored later: a power cut that lost the tail."""
        return copy.deepcopy(self._partitions)

    def restore(self, saved: dict[int, Any]) -> None:
        """Go back."""
        self._partitions = saved

    def flush(self) -> None:
        """Forget everything."""
        self._partitions.clear()
        self._shares.clear()


class Constant:
    """A model that always says the same."""

    engine = "constant"
    buckets = (1, 8, 64)
    max_batch = 64
    manifest = Manifest(
        name="constant",
        version="1",
        sha256="0" * 64,
        features="0" * 16,
        columns=(),
        history=(HISTORY_LENGTH, N_CHANNELS),
        horizons_s=(60, 600),
        tiers=(Tier("none", 0.0),),
        prior=Prior(0.0, {}, (0.5, 1.0), 1.0),
        trained_on="nothing",
        created="2021-07-01T00:00:00Z",
    )
    error: Exception | None = None

    def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
        assert features.shape[1] == N_FEATURES
        if self.error is not None:
            raise self.error
        n = len(features)
        return Scores(np.tile(np.array([0.1, 0.2], np.float32), (n, 1)), np.full(n, 5.0, np.float32))

    def close(self) -> None:
        pass


class Member:
    """Every part between source and sink, as the service puts them together."""

    def __init__(
        self,
        log: Log,
        store: FaultyStore,
        sink: ListSink,
        *,
        name: str = "a",
        checkpoint_ms: float = 0.0,
        lanes: Lanes | None = None,
        publish_late: bool = True,
        **options: Any,
    ) -> None:
        self.log, self.store, self.sink = log, store, sink
        self.source = ListSource(log)
        self.engine = FeatureEngine(capacity=64)
        self.metrics = Metrics()
        self.model = Constant()
        self.now_ms = float(T0)
        defaults = {"start_from": "earliest", "on_out_of_range": "stop", "drain_s": 1.0}
        self.ownership = Ownership(store, self.engine, owner=name, **{**defaults, **options})
        self.ownership.attach(self.source)
        self.checkpointer = Checkpointer(store, self)
        batcher = Batcher(ServiceTimes(self.model.buckets), max_batch=8, deadline_ms=50, publish_late=publish_late)
        self.pipeline = Pipeline(
            self.engine,
            store,
            lanes or Lanes(Lane("default", Ladder([], self.model))),
            Topics("events", "scores", "dlq"),
            score_on=None,
            deadline_ms=50,
            fingerprint="f" * 16,
            clock=lambda: self.now_ms,
            patiently=patiently,
            refused=self.refused,
        )
        self.loop = Loop(
            cast(Any, self.source),
            cast(Any, sink),
            self.ownership,
            batcher,
            self.pipeline,
            self.checkpointer,
            self.metrics,
            in_flight=2,
            checkpoint_ms=checkpoint_ms,
            clock=lambda: self.now_ms,
        )
        self.ownership.attach_loop(self.loop.cut)
        self.stop = asyncio.Event()
        self.running: asyncio.Task[None] | None = None

    def written(self, lease: Lease, sequence: int, *_: float) -> None:
        self.engine.release(lease.partition, sequence)

    def refused(self, lease: Lease, outcome: Written) -> None:
        self.ownership.refused(lease, outcome)

    def failed(self, error: StoreUnavailable) -> None:
        pass

    def start(self, *partitions: int) -> None:
        """Be assigned these and run."""
        self.ownership.assigned(partitions)
        self.running = asyncio.create_task(self.loop.run(self.stop))

    async def until(self, partition: int, offset: int) -> None:
        """Wait until the store holds this offset; fails with what the loop failed with."""
        async with asyncio.timeout(60):
            while self.store.offset(partition) != offset:
                if self.running is not None and self.running.done():
                    self.running.result()
                await asyncio.sleep(0)

    async def end(self) -> None:
        """Stop in order."""
        self.stop.set()
        assert self.running is not None
        await self.running
        await self.ownership.drain(list(self.ownership.leases.values()), 1.0)

    async def die(self) -> None:
        """Stop as a killed process does: nothing more is published or written."""
        for lease in self.ownership.leases.values():
            lease.lost = True
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)


async def expected_rows(log: Log, partition: int) -> tuple[dict[str, dict[str, bytes]], dict[str, bytes]]:
    """The rows that one uninterrupted pass over a partition leaves, an event at a time."""
    member = Member(log, FaultyStore(), ListSink())
    member.source.most = 1
    member.start(partition)
    await member.until(partition, len(log.records[partition]))
    await member.end()
    return member.store.rows(partition)


def filled(n: int, partitions: int = 1) -> Log:
    """A topic with n records in each partition, of five viewers in two rooms."""
    log = Log(partitions)
    for partition in range(partitions):
        log.records[partition] = [say(i, f"v{i % 5}", f"r{i % 2}") for i in range(n)]
    return log


async def claimed(ownership: Ownership) -> None:
    """Wait until no claim is under way."""
    async with asyncio.timeout(60):
        while ownership.claiming:
            await asyncio.wait(list(ownership.claiming.values()))
            await asyncio.sleep(0)


async def assigned(member: Member, *partitions: int) -> None:
    member.ownership.assigned(partitions)
    await claimed(member.ownership)


def member_of(log: Log, store: FaultyStore | None = None, **options: object) -> Member:
    return Member(log, store or FaultyStore(), ListSink(), **options)  # type: ignore[arg-type]
