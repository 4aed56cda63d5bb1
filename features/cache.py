"""Who is in memory: the viewers, pairs and rooms of each owned partition, and where their rows are."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import xxhash

from features.rows import PAIR_ROW, ROOM, VIEWER
from features.table import Table
from features.watch import turn_of

_PAIRS_PER_VIEWER: Final = 2
_VIEWERS_PER_ROOM: Final = 16
_CROWD: Final = 1.25
_BATCH: Final = 8_192  # rows that one batch may bring, before any go


def _places(capacity: int) -> int:
    """Return how many rows a table is made for: what is not durable yet stays above the capacity."""
    return int(_CROWD * capacity) + _BATCH


def hash_id(text: str) -> int:
    """Return 64 bits of an id, never 0, the same on every machine."""
    return xxhash.xxh3_64_intdigest(text.encode()) or 1


class Viewer:
    """A viewer in memory."""

    __slots__ = ("complete", "id", "pairs", "partition", "slot")

    def __init__(self, partition: int, viewer_id: str) -> None:
        self.partition = partition
        self.id = viewer_id
        self.slot = -1
        self.pairs: dict[str, int] = {}  # streamer_id -> slot
        self.complete = False  # all pairs that exist are in memory: one that is not there is new


class Room:
    """A room in memory: this partition's share of it, and the sum of the others'."""

    __slots__ = ("hash", "id", "others", "partition", "slot", "told", "turn")

    def __init__(self, partition: int, room_id: str) -> None:
        self.partition = partition
        self.id = room_id
        self.hash = hash_id(room_id)
        self.turn = turn_of(room_id)
        self.slot = -1
        self.others = -1  # slot in `others`, or -1 while no other partition's share is known
        self.told = -1  # asking of which the answer is summed there


@dataclass(slots=True)
class Partition:
    """What is in memory of one partition."""

    viewers: dict[str, Viewer] = field(default_factory=dict)
    rooms: dict[str, Room] = field(default_factory=dict)
    durable: int = 0  # batches up to this sequence are in the store
    erased: deque[tuple[int, str]] = field(default_factory=deque)  # viewers whose id is still here, and by which batch


class Cache:
    """Rows of owned partitions, bounded: past the capacity, what has gone unchanged longest and is durable goes."""

    def __init__(self, capacity: int) -> None:
        room_capacity = max(64, capacity // _VIEWERS_PER_ROOM)
        self._capacity = capacity
        self._pair_capacity = capacity * _PAIRS_PER_VIEWER
        self._room_capacity = room_capacity
        self.viewers: Table[Viewer] = Table("viewer", VIEWER, _places(capacity))
        self.pairs: Table[tuple[Viewer, str]] = Table("pair", PAIR_ROW, _places(self._pair_capacity))
        self.rooms: Table[Room] = Table("room", ROOM, _places(room_capacity))
        self.others: Table[Room] = Table("room", ROOM, _places(room_capacity))
        self.partitions: dict[int, Partition] = {}

    def forget(self, partition: int) -> None:
        """Drop everything of a partition."""
        held = self.partitions.pop(partition, None)
        if held is not None:
            for viewer in held.viewers.values():
                self.free_viewer(viewer)
            for room in held.rooms.values():
                self._free_room(room)

    def add_viewer(self, partition: int, viewer_id: str) -> Viewer:
        """Make room for a viewer whose row is yet to be known."""
        viewer = Viewer(partition, viewer_id)
        viewer.slot = self.viewers.take(viewer, partition)
        self.partitions[partition].viewers[viewer_id] = viewer
        return viewer

    def add_pair(self, viewer: Viewer, streamer: str) -> int:
        """Make room for a pair whose row is yet to be known; return its slot."""
        slot = self.pairs.take((viewer, streamer), viewer.partition)
        viewer.pairs[streamer] = slot
        return slot

    def add_room(self, partition: int, room_id: str) -> Room:
        """Make room for a room whose row is yet to be known."""
        room = Room(partition, room_id)
        room.slot = self.rooms.take(room, partition)
        self.partitions[partition].rooms[room_id] = room
        return room

    def free_viewer(self, viewer: Viewer) -> None:
        """Forget a viewer's rows, and those of its pairs."""
        for slot in viewer.pairs.values():
            self.pairs.give_back(slot)
        self.viewers.give_back(viewer.slot)

    def erase(self, viewer: Viewer) -> None:
        """Forget a viewer for good: not even the bytes stay until somebody else has the place."""
        self.viewers.wipe(viewer.slot)
        for slot in viewer.pairs.values():
            self.pairs.wipe(slot)
        self.free_viewer(viewer)

    def forget_erased(self) -> None:
        """Drop what stands for erased viewers, whose erasure is durable and who have not come back since.

        Not while a batch is under way: it knows rows by their slots.
        """
        for held in self.partitions.values():
            while held.erased and held.erased[0][0] <= held.durable:
                sequence, viewer_id = held.erased.popleft()
                viewer = held.viewers.get(viewer_id)
                if viewer is not None and self.viewers.touched[viewer.slot] == sequence:
                    del held.viewers[viewer_id]
                    self.free_viewer(viewer)

    def _free_room(self, room: Room) -> None:
        self.rooms.give_back(room.slot)
        room.slot = -1
        if room.others >= 0:
            self.others.give_back(room.others)

    def evict(self, unpublished: set[Room]) -> None:
        """Go back below the capacity as far as durability allows; rooms with a share to publish stay."""
        while len(self.viewers) > self._capacity:
            oldest = self.viewers.oldest()
            if oldest is None or not self._is_durable(oldest[0].partition, oldest[1]):
                break
            viewer = oldest[0]
            del self.partitions[viewer.partition].viewers[viewer.id]
            self.free_viewer(viewer)
        while len(self.pairs) > self._pair_capacity:
            pair = self.pairs.oldest()
            if pair is None:
                break
            viewer, streamer = pair[0]
            # One that nothing changed may be of a viewer just erased: until that is durable, the store has another.
            changed = max(pair[1], int(self.viewers.touched[viewer.slot]))
            if not self._is_durable(viewer.partition, changed):
                break
            self.pairs.give_back(viewer.pairs.pop(streamer))
            viewer.complete = False
        while len(self.rooms) > self._room_capacity:
            idle = self.rooms.oldest()
            if idle is None or idle[0] in unpublished or not self._is_durable(idle[0].partition, idle[1]):
                break
            room = idle[0]
            del self.partitions[room.partition].rooms[room.id]
            self._free_room(room)

    @property
    def is_crowded(self) -> bool:
        """Whether there are a quarter more rows than there is room for: only the store can relieve it."""
        return (
            len(self.viewers) > _CROWD * self._capacity
            or len(self.pairs) > _CROWD * self._pair_capacity
            or len(self.rooms) > _CROWD * self._room_capacity
        )

    def _is_durable(self, partition: int, sequence: int) -> bool:
        return sequence <= self.partitions[partition].durable
