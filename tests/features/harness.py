"""Running the engine in tests: batches of any size, and a store that is a dictionary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.engine import Batch, Changes, FeatureEngine, RowKey
from features.events import Event


class Record(NamedTuple):
    """An event as it comes out of Kafka."""

    event: Event
    partition: int
    broker_ms: int


class Lines(NamedTuple):
    """What the engine said about n events."""

    features: NDArray[np.float32]
    history: NDArray[np.float32]
    status: NDArray[np.uint8]
    flags: NDArray[np.uint8]


class Rows:
    """Stored rows, as a store keeps them."""

    def __init__(self) -> None:
        self.viewers: dict[tuple[int, str], dict[str, bytes]] = {}
        self.rooms: dict[tuple[int, str], bytes] = {}

    def write(self, changes: dict[int, Changes]) -> None:
        for partition, changed in changes.items():
            for viewer_id, viewer in changed.viewers.items():
                if viewer.erased:
                    self.viewers.pop((partition, viewer_id), None)
                held = self.viewers.setdefault((partition, viewer_id), {})
                if viewer.row is not None:
                    held[""] = viewer.row
                held.update(viewer.pairs)
                if not held:
                    del self.viewers[partition, viewer_id]
            for room_id, row in changed.rooms.items():
                self.rooms[partition, room_id] = row

    def load(self, keys: Iterable[RowKey]) -> list[bytes | None]:
        return [
            self.rooms.get((key.partition, key.id))
            if key.table == "room"
            else self.viewers.get((key.partition, key.id), {}).get(key.streamer)
            for key in keys
        ]


def engine_of(partitions: int, capacity: int = 64) -> FeatureEngine:
    """Return an engine that owns the partitions 0 .. partitions - 1."""
    engine = FeatureEngine(capacity=capacity)
    for partition in range(partitions):
        engine.open(partition)
    return engine


def take(engine: FeatureEngine, rows: Rows, records: Sequence[Record]) -> tuple[Batch, Lines]:
    """Take one batch through the engine; the store is not told yet."""
    events, partitions, broker = zip(*records, strict=True)
    batch = engine.prepare(events, partitions, broker)
    engine.admit(batch.missing, rows.load(batch.missing))
    return batch, Lines(*engine.compute(batch))


def run_batch(engine: FeatureEngine, rows: Rows, records: Sequence[Record], *, durable: bool = True) -> Lines:
    """Take one batch through the engine, its changes into the store."""
    batch, lines = take(engine, rows, records)
    rows.write(engine.changes(batch))
    if durable:
        for partition in {record.partition for record in records}:
            engine.release(partition, batch.sequence)
    return lines


def join(parts: Sequence[Lines]) -> Lines:
    return Lines(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def assert_same(got: Lines, want: Lines) -> None:
    """Compare to the bit."""
    assert got.status.tolist() == want.status.tolist()
    assert got.flags.tolist() == want.flags.tolist()
    for name, ours, theirs in (("features", got.features, want.features), ("history", got.history, want.history)):
        differ = np.argwhere(ours.view(np.uint32) != theirs.view(np.uint32))
        assert not len(differ), (
            f"{name} differ at {differ[:5].tolist()}: {[(ours[*at], theirs[*at]) for at in differ[:5]]}"
        )
