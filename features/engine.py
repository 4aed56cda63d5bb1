"""FeatureEngine: events in, features out, and what the store has to remember."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.cache import Cache, Partition, Room, Viewer, hash_id
from features.catalogue import HISTORY_LENGTH, N_CHANNELS, N_FEATURES
from features.columns import COLUMNS, LINE
from features.events import BADGES, ROOM_LEVEL, Event
from features.kernel import walk
from features.rows import FREE_GIFT, TYPE_CODE, RowVersionError
from features.shares import OtherShares
from features.table import Table
from features.watch import TURNS, RoomWatch

__all__ = ["Batch", "Changes", "Computed", "FeatureEngine", "RowKey", "RowVersionError", "ViewerChange"]

_SEQUENCES = count(1)
_BADGE_BIT: Final = {badge: 1 << bit for bit, badge in enumerate(BADGES)}


class RowKey(NamedTuple):
    """Names a stored row."""

    partition: int
    table: str  # viewer, pair, room
    id: str  # viewer_id (viewer, pair) or room_id (room)
    streamer: str = ""  # pair only


class Computed(NamedTuple):
    """The features of a batch of n events, as of each event, itself included. Fresh arrays."""

    features: NDArray[np.float32]  # (n, F), C-contiguous; zero for duplicates, erasures and events without a viewer
    history: NDArray[np.float32]  # (n, L, C), newest first
    status: NDArray[np.uint8]  # (n,): kernel.FRESH or kernel.DUPLICATE
    flags: NDArray[np.uint8]  # (n,): kernel.LATE | CLAMPED | UNMATCHED | COLD_START


@dataclass(slots=True)
class ViewerChange:
    """What a batch changed of one viewer. If erased, the stored viewer goes first; then come the rows that are here."""

    erased: bool = False
    row: bytes | None = None
    pairs: dict[str, bytes] = field(default_factory=dict)  # streamer_id -> row


@dataclass(slots=True)
class Changes:
    """What a batch changed in one partition."""

    viewers: dict[str, ViewerChange] = field(default_factory=dict)
    rooms: dict[str, bytes] = field(default_factory=dict)


_ALL: Final = 2**62  # a batch that never comes
_NO_COLUMNS: Final = np.empty(0, COLUMNS)


@dataclass(slots=True)
class Batch:
    """A prepared batch. `missing` rows must be loaded and admitted before it is computed."""

    sequence: int
    columns: NDArray[Any]  # (n,) COLUMNS
    missing: list[RowKey]
    erased: list[tuple[int, str, Viewer | None]]  # partition, viewer_id, who is to be forgotten
    rooms: set[Room]
    unheard: set[str]  # rooms of which others may have seen more than is known: to be asked for before `compute`
    changed: tuple[NDArray[np.int32], ...] = ()  # slots of the viewers, pairs and rooms that changed

    def forget_events(self) -> None:
        """Keep only what `changes` asks for: hundreds of batches may wait for their rows to be written."""
        self.columns, self.missing, self.rooms, self.unheard = _NO_COLUMNS, [], set(), set()


def _change(changes: dict[int, Changes], partition: int, viewer_id: str) -> ViewerChange:
    changed = changes.get(partition)
    if changed is None:
        changed = changes[partition] = Changes()
    change = changed.viewers.get(viewer_id)
    if change is None:
        change = changed.viewers[viewer_id] = ViewerChange()
    return change


def _changed(table: Table[Any], batches: Sequence[Batch], which: int, partition: int | None) -> NDArray[np.int32]:
    """Return the slots of the table that hold a row which one of the batches changed, each of them once.

    A slot counts for the batch that touched it last. If it changed hands since, no batch did that changed it: its new
    row was not changed at all, or is that of a viewer just erased, which must not be written.
    """
    if not batches:
        return np.empty(0, np.int32)
    changed = [batch.changed[which] for batch in batches]
    slots: NDArray[np.int32] = np.concatenate(changed)
    sequences = np.repeat([batch.sequence for batch in batches], [len(some) for some in changed])
    wanted: NDArray[np.bool_] = table.touched[slots] == sequences
    if partition is not None:
        wanted &= table.partitions[slots] == partition
    return slots[wanted]


class FeatureEngine:
    """The rows of owned partitions in memory, and the kernel. One thread, no I/O.

    Per batch and strictly in this order: prepare, admit (what `missing` names), compute, changes.
    """

    def __init__(self, *, capacity: int = 262_144) -> None:
        self._cache = Cache(capacity)
        self._pending: dict[RowKey, int] = {}  # rows that wait to be admitted -> slot
        self._under_way: Batch | None = None  # laid out and not computed: rows must keep their slots
        self._dirty: set[Room] = set()  # own share changed since it was last taken
        self._watches = [RoomWatch() for _ in range(TURNS)]
        self._shares = OtherShares(self._cache.others)

    def open(self, partition: int) -> None:
        """Own a partition of which nothing is in memory yet."""
        self.forget(partition)
        self._cache.partitions[partition] = Partition()

    def forget(self, partition: int) -> None:
        """Drop all rows of a partition."""
        self._cache.forget(partition)
        self._pending = {key: slot for key, slot in self._pending.items() if key.partition != partition}
        self._dirty = {room for room in self._dirty if room.partition != partition}

    def prepare(self, events: Sequence[Event], partitions: Sequence[int], broker_ms: Sequence[int]) -> Batch:
        """Lay out n events as columns and find their rows. Raises KeyError for a partition that is not open."""
        cache, sequence = self._cache, next(_SEQUENCES)
        cache.forget_erased()
        cache.evict(self._dirty)
        columns = np.empty(len(events), COLUMNS)
        lines = columns.view(np.uint8).data
        missing: list[RowKey] = []
        erased: list[tuple[int, str, Viewer | None]] = []
        rooms: set[Room] = set()
        unheard: set[str] = set()
        at = 0
        for event, partition, broker in zip(events, partitions, broker_ms, strict=True):
            held = cache.partitions[partition]
            kind = event.type
            code = TYPE_CODE[kind]
            viewer_slot = pair = room_slot = others = -1
            room_hash = 0
            if kind == "erase":
                viewer_id = event.viewer_id
                assert viewer_id is not None
                erased.append((partition, viewer_id, held.viewers.pop(viewer_id, None)))
                cache.add_viewer(partition, viewer_id).complete = True
            else:
                room = held.rooms.get(event.room_id)
                if room is None:
                    room = cache.add_room(partition, event.room_id)
                    missing.append(RowKey(partition, "room", event.room_id))
                    self._pending[missing[-1]] = room.slot
                    unheard.add(room.id)
                if self._watches[room.turn].needs(room.id):
                    unheard.add(room.id)
                rooms.add(room)
                room_slot, others, room_hash = room.slot, room.others, room.hash
                if kind not in ROOM_LEVEL:
                    viewer = held.viewers.get(event.viewer_id)  # type: ignore[arg-type]  # decode saw to it
                    if viewer is None:
                        viewer = cache.add_viewer(partition, event.viewer_id)  # type: ignore[arg-type]
                        missing.append(RowKey(partition, "viewer", viewer.id))
                        self._pending[missing[-1]] = viewer.slot
                    viewer_slot = viewer.slot
                    known = viewer.pairs.get(event.streamer_id)
                    if known is None:
                        known = cache.add_pair(viewer, event.streamer_id)
                        if not viewer.complete:
                            missing.append(RowKey(partition, "pair", viewer.id, event.streamer_id))
                            self._pending[missing[-1]] = known
                    pair = known
                    if kind == "gift" and event.coin_type != "paid":
                        code = FREE_GIFT
            audience = event.viewers if kind == "raid" else event.online
            badges = 0
            if event.badges:
                for badge in event.badges:
                    badges |= _BADGE_BIT.get(badge, 0)
            LINE.pack_into(
                lines,
                at,
                event.event_time_ms,
                broker,
                hash_id(event.event_id),
                hash_id(event.gift_tx_id) if event.gift_tx_id is not None else 0,
                hash_id(event.combo_id) if event.combo_id is not None else 0,
                room_hash,
                event.amount_minor or 0,
                event.watch_ms or 0,
                -1 if audience is None else audience,
                viewer_slot,
                pair,
                room_slot,
                others,
                event.text_len or 0,
                1 if event.count is None else event.count,
                event.fan_level or 0,
                event.months or 0,
                code,
                badges,
            )
            at += LINE.size
        self._under_way = Batch(sequence, columns, missing, erased, rooms, unheard)
        return self._under_way

    def admit(self, keys: Sequence[RowKey], blobs: Sequence[bytes | None]) -> dict[int, RowVersionError]:
        """Take in loaded rows; None is an entity that the store does not know.

        Returns the partitions of rows that cannot be read, with the reason in words: what is in memory of them is not
        as it should be, and nothing that comes of it may be published or stored.
        """
        cache = self._cache
        found: dict[str, tuple[list[int], list[bytes]]] = {"viewer": ([], []), "pair": ([], []), "room": ([], [])}
        for key, blob in zip(keys, blobs, strict=True):
            slot = self._pending.pop(key, None)
            if slot is None:
                continue
            if blob is not None:
                slots, rows = found[key.table]
                slots.append(slot)
                rows.append(blob)
            elif key.table == "viewer":
                viewer = cache.viewers.owners[slot]
                assert viewer is not None
                viewer.complete = True
        return (
            cache.viewers.unpack(*found["viewer"])
            | cache.pairs.unpack(*found["pair"])
            | cache.rooms.unpack(*found["room"])
        )

    def compute(self, batch: Batch) -> Computed:
        """Take in the batch's events in order and return the features as of each of them."""
        if self._pending:
            raise RuntimeError(
                f"{len(self._pending)} rows are missing: load Batch.missing and admit it before compute."
            )
        cache, n = self._cache, len(batch.columns)
        computed = Computed(
            np.empty((n, N_FEATURES), np.float32),
            np.empty((n, HISTORY_LENGTH, N_CHANNELS), np.float32),
            np.empty(n, np.uint8),
            np.empty(n, np.uint8),
        )
        for placed in self._shares.sum_up(batch.rooms):
            batch.columns["others"][batch.columns["room"] == placed.slot] = placed.others
        changed = np.empty((3, n), np.int32)
        counts = walk(
            batch.columns,
            cache.viewers.rows,
            cache.pairs.rows,
            cache.rooms.rows,
            cache.others.rows,
            cache.viewers.touched,
            cache.pairs.touched,
            cache.rooms.touched,
            batch.sequence,
            *computed,
            changed,
        )
        batch.changed = tuple(slots[:used].copy() for slots, used in zip(changed, counts.tolist(), strict=True))
        for room in map(cache.rooms.owners.__getitem__, batch.changed[2].tolist()):
            if room is not None:
                self._dirty.add(room)
                self._watches[room.turn].saw(room.id)
        for partition, viewer_id, viewer in batch.erased:
            if viewer is not None:
                cache.erase(viewer)
            if held := cache.partitions.get(partition):
                cache.viewers.touched[held.viewers[viewer_id].slot] = batch.sequence
                held.erased.append((batch.sequence, viewer_id))
        self._under_way = None
        return computed

    def changes(self, *batches: Batch, partition: int | None = None) -> dict[int, Changes]:
        """Return, by partition or of one alone, the rows that the computed batches changed, packed as of now.

        A row that several of them changed, as the room's that everybody watches, is packed once.
        """
        cache = self._cache
        out: dict[int, Changes] = {}
        for batch in batches:
            for owner, viewer_id, _ in batch.erased:
                if owner in cache.partitions and partition in (None, owner):
                    _change(out, owner, viewer_id).erased = True
        tables: tuple[Table[Any], ...] = (cache.viewers, cache.pairs, cache.rooms)
        viewers, pairs, rooms = (_changed(table, batches, which, partition) for which, table in enumerate(tables))
        for slot, row in zip(viewers.tolist(), cache.viewers.pack(viewers), strict=True):
            if viewer := cache.viewers.owners[slot]:
                _change(out, viewer.partition, viewer.id).row = row
        for slot, row in zip(pairs.tolist(), cache.pairs.pack(pairs), strict=True):
            if pair := cache.pairs.owners[slot]:
                viewer, streamer = pair
                _change(out, viewer.partition, viewer.id).pairs[streamer] = row
        for slot, row in zip(rooms.tolist(), cache.rooms.pack(rooms), strict=True):
            if room := cache.rooms.owners[slot]:
                out.setdefault(room.partition, Changes()).rooms[room.id] = row
        return out

    def release(self, partition: int, up_to: int) -> None:
        """Note that what batches up to this sequence changed in the partition is in the store."""
        held = self._cache.partitions.get(partition)
        if held is not None:
            held.durable = max(held.durable, up_to)
            if self._under_way is None:
                self._cache.forget_erased()

    def abandon(self, partition: int) -> None:
        """Note that nothing of the partition will be stored or published: its rows need not wait for it, and may go."""
        self.release(partition, _ALL)
        self._dirty = {room for room in self._dirty if room.partition != partition}

    @property
    def is_crowded(self) -> bool:
        """Whether rows that changed have to be stored, because too many of them fill the memory."""
        return self._cache.is_crowded

    def sizes(self) -> dict[str, int]:
        """Return how many rows of each table are in memory."""
        cache = self._cache
        return {"viewer": len(cache.viewers), "pair": len(cache.pairs), "room": len(cache.rooms)}

    def dirty_rooms(self, turn: int | None = None) -> list[Room]:
        """Return the rooms, of all turns or one, whose share changed and was not taken since."""
        return [room for room in self._dirty if turn is None or room.turn == turn]

    def take_dirty_shares(self, among: Iterable[Room] | None = None) -> dict[int, dict[str, bytes]]:
        """Return, by partition and room, this process's shares that changed and were not returned since, packed."""
        dirty = [room for room in (self.dirty_rooms() if among is None else among) if room in self._dirty]
        self._dirty.difference_update(dirty)
        out: dict[int, dict[str, bytes]] = {}
        slots = np.array([room.slot for room in dirty], np.int32)
        for room, row in zip(dirty, self._cache.rooms.pack(slots), strict=True):
            out.setdefault(room.partition, {})[room.id] = row
        return out

    def return_dirty_shares(self, shares: Mapping[int, Mapping[str, bytes]]) -> None:
        """Have shares that were taken, and could not be published, taken again."""
        for partition, rooms in shares.items():
            held = self._cache.partitions.get(partition)
            if held is not None:
                self._dirty.update(held.rooms[room_id] for room_id in rooms if room_id in held.rooms)

    def next_round(self, turn: int | None = None) -> list[str]:
        """Begin a round of asking what other partitions saw, of all turns or one; return the rooms to ask for now.

        `Batch.unheard` names the others that have events in it.
        """
        asked: list[str] = []
        waiting = self._under_way.rooms if self._under_way else ()
        for each in range(TURNS) if turn is None else (turn,):
            rooms = self._watches[each].next_round()
            self._shares.keep(each, {*rooms, *(room.id for room in waiting)})
            asked += rooms
        return asked

    def skip_round(self) -> None:
        """Begin a round in which nothing was asked for."""
        for turn, watch in enumerate(self._watches):
            watch.skip()
            self._shares.keep(turn, ())

    def ask_shares(self) -> int:
        """Number an asking for shares: what comes of it does not undo what came of a later one."""
        return self._shares.ask()

    def set_other_shares(self, shares: Mapping[str, Mapping[int, bytes]], asked: int) -> list[RowVersionError]:
        """Replace what is known of rooms from other partitions: room_id -> partition -> its packed share.

        Returns what was wrong with shares of earlier calls that turned out to be unreadable: they count for nothing.
        """
        self._shares.tell(shares, asked)
        return self._shares.take_refused()


def warm_up() -> None:
    """Compile, or load what is compiled already, so that the first event does not wait for it."""
    engine = FeatureEngine(capacity=4)
    engine.open(0)
    event = Event("warm-up", "comment", 1, "room", "streamer", viewer_id="viewer")
    for _ in range(2):
        batch = engine.prepare([event], [0], [1])
        engine.admit(batch.missing, [None] * len(batch.missing))
        engine.compute(batch)
        stored = engine.changes(batch)
        for share in stored[0].rooms.values() if stored else ():
            engine.set_other_shares({event.room_id: {1: share}}, engine.ask_shares())
