"""Where rows live between restarts: the protocol, and the store that forgets when the process ends.

One store serves every partition of one consumer group and input topic. Only the owner of a partition writes to it, and
each write carries the owner's epoch and the offset it continues from, so that a paused process that wakes up after its
partition has moved on (a zombie) changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

from features.engine import Changes, RowKey, ViewerChange


class StoreUnavailable(Exception):
    """The store did not answer, or answered that it cannot serve now. Nothing is known to have been written."""


class StaleClaim(Exception):
    """A newer generation of the consumer group owns the partition already: do not touch it."""


class TornState(Exception):
    """A write to the partition stopped halfway: its rows are of two different offsets. The message says what to do."""


class Claim(NamedTuple):
    """What a new owner learns."""

    epoch: int
    """Fencing token: goes up by one with each claim."""
    offset: int | None
    """The next offset to process; None when the partition has no state."""


class Checkpoint(NamedTuple):
    """One atomic write: rows, and the offset that they are as of."""

    partition: int
    epoch: int
    expected: int | None
    """The stored offset that this write continues from."""
    offset: int
    """The stored offset afterwards."""
    changes: Changes


class Held(NamedTuple):
    """What an owner believes of its partition."""

    epoch: int
    offset: int | None
    """What is stored at least."""


class Written(Enum):
    """How a checkpoint ended."""

    APPLIED = "applied"
    FENCED = "fenced"
    """Another owner has claimed the partition."""
    LOST = "lost"
    """The store holds nothing of this partition any more: it was emptied."""
    REWOUND = "rewound"
    """The stored offset is not the expected one: the store went back in time, or this process lost track."""
    TORN = "torn"
    """A write stopped halfway; the next claim says so in words."""


class NotOwned(Exception):
    """Rows are not those that their owner left: reading on from them would count events twice, or not at all."""

    def __init__(self, outcomes: Mapping[int, Written]) -> None:
        super().__init__(", ".join(f"partition {at}: {outcome.value}" for at, outcome in outcomes.items()))
        self.outcomes = outcomes
        """By partition: FENCED, LOST, REWOUND or TORN."""


class Store(Protocol):
    """Rows and offsets by partition. Every method raises StoreUnavailable when the store cannot serve."""

    async def claim(self, partition: int, generation: int, owner: str) -> Claim:
        """Become the partition's owner. Raises StaleClaim when a later generation was here first, TornState."""
        ...

    async def clear(self, partition: int, epoch: int) -> None:
        """Delete the partition's rows, unless somebody else has claimed it since: before they are rebuilt."""
        ...

    async def load(self, keys: Sequence[RowKey], held: Mapping[int, Held] | None = None) -> list[bytes | None]:
        """Packed rows in the order of the keys; None for an entity never seen.

        `held` is what their owner believes, by partition: raises NotOwned where it is not so. Else anybody may look.
        """
        ...

    async def checkpoint(self, write: Checkpoint) -> Written:
        """Write rows and offset atomically. An unknown outcome is settled before this returns."""
        ...

    async def publish_shares(self, shares: Mapping[int, Mapping[str, bytes]]) -> None:
        """Let other partitions see these partitions' shares of rooms (partition -> room -> packed row)."""
        ...

    async def read_shares(self, rooms: Sequence[str]) -> list[dict[int, bytes]]:
        """For each room, every partition's last published share."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


@dataclass(slots=True)
class _Partition:
    epoch: int = 0
    generation: int = -1
    offset: int | None = None
    viewers: dict[str, dict[str, bytes]] = field(default_factory=dict)
    rooms: dict[str, bytes] = field(default_factory=dict)


class MemoryStore:
    """A Store in a dictionary: for replay, and to hold the conformance suite honest."""

    def __init__(self) -> None:
        self._partitions: dict[int, _Partition] = {}
        self._shares: dict[str, dict[int, bytes]] = {}

    async def claim(self, partition: int, generation: int, owner: str) -> Claim:
        held = self._partitions.setdefault(partition, _Partition())
        if generation < held.generation:
            raise StaleClaim(f"partition {partition} is owned by generation {held.generation}, newer than {generation}")
        held.epoch += 1
        held.generation = generation
        return Claim(held.epoch, held.offset)

    async def clear(self, partition: int, epoch: int) -> None:
        held = self._partitions.get(partition)
        if held is not None and held.epoch == epoch:
            held.viewers.clear()
            held.rooms.clear()

    async def load(self, keys: Sequence[RowKey], held: Mapping[int, Held] | None = None) -> list[bytes | None]:
        outcomes = {partition: self._doubt(partition, belief) for partition, belief in (held or {}).items()}
        if doubtful := {partition: outcome for partition, outcome in outcomes.items() if outcome is not None}:
            raise NotOwned(doubtful)
        blobs: list[bytes | None] = []
        for key in keys:
            rows = self._partitions.get(key.partition, _Partition())
            if key.table == "room":
                blobs.append(rows.rooms.get(key.id))
            else:
                blobs.append(rows.viewers.get(key.id, {}).get(key.streamer))
        return blobs

    def _doubt(self, partition: int, belief: Held) -> Written | None:
        """What is wrong with a belief, if anything."""
        found = self._partitions.get(partition)
        if found is None:
            return Written.LOST
        if found.epoch != belief.epoch:
            return Written.FENCED
        if belief.offset is not None and (found.offset is None or found.offset < belief.offset):
            return Written.REWOUND
        return None

    async def checkpoint(self, write: Checkpoint) -> Written:
        held = self._partitions.get(write.partition)
        if held is None:
            return Written.LOST
        if held.epoch != write.epoch:
            return Written.FENCED
        if held.offset != write.expected:
            return Written.REWOUND
        for viewer_id, change in write.changes.viewers.items():
            if change.erased:
                held.viewers.pop(viewer_id, None)
            if fields := viewer_fields(change):
                held.viewers.setdefault(viewer_id, {}).update(fields)
        held.rooms.update(write.changes.rooms)
        held.offset = write.offset
        return Written.APPLIED

    async def publish_shares(self, shares: Mapping[int, Mapping[str, bytes]]) -> None:
        for partition, rooms in shares.items():
            for room, blob in rooms.items():
                self._shares.setdefault(room, {})[partition] = blob

    async def read_shares(self, rooms: Sequence[str]) -> list[dict[int, bytes]]:
        return [dict(self._shares.get(room, {})) for room in rooms]

    async def close(self) -> None:
        pass


def viewer_fields(change: ViewerChange) -> dict[str, bytes]:
    """The viewer's own row under the empty name, a pair's row under its streamer's id (ids are never empty)."""
    fields = dict(change.pairs)
    if change.row is not None:
        fields[""] = change.row
    return fields
