"""What other partitions know about a room, and summing it."""

from collections.abc import Collection, Iterable, Mapping
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.cache import Room
from features.compiled import compiled, inner
from features.fold import MOST
from features.packing import RowBytes
from features.rows import ROOM, ROOM_KINDS, SHORT, RowVersionError
from features.table import Table
from features.watch import TURNS, turn_of

_KINDS = len(ROOM_KINDS)
_ROWS = 256


class OtherShares:
    """Shares of rooms, packed as the store told them, and sums, made once an event of another partition needs one."""

    def __init__(self, sums: Table[Room]) -> None:
        """`sums` holds one row a room, at `Room.others`."""
        self._sums = sums
        # by turn: room_id -> asking, partition -> packed row
        self._told: list[dict[str, tuple[int, Mapping[int, bytes]]]] = [{} for _ in range(TURNS)]
        self._askings = count()
        self._refused: list[RowVersionError] = []
        self._grow(_ROWS)

    def ask(self) -> int:
        """Number an asking."""
        return next(self._askings)

    def tell(self, shares: Mapping[str, Mapping[int, bytes]], asked: int) -> None:
        """Take in room_id -> partition -> packed row, in place of what was known unless that was asked for later."""
        for room_id, told in shares.items():
            known = self._told[turn_of(room_id)]
            if room_id not in known or known[room_id][0] < asked:
                known[room_id] = asked, told

    def keep(self, turn: int, rooms: Collection[str]) -> None:
        """Forget what was told of other rooms of that turn; sums stay."""
        known = self._told[turn]
        self._told[turn] = {room_id: known[room_id] for room_id in rooms if room_id in known}

    def sum_up(self, rooms: Iterable[Room]) -> list[Room]:
        """Have the sums of rooms agree with what was told last; return the rooms that have their first."""
        packed: list[bytes] = []
        ends: list[int] = []
        slots: list[int] = []
        first: list[Room] = []
        for room in rooms:
            asked, told = self._told[room.turn].get(room.id, (room.told, {}))
            if asked <= room.told or room.slot < 0:
                continue
            room.told = asked
            known = len(packed)
            packed += [blob for partition, blob in told.items() if partition != room.partition]
            if room.others >= 0:
                self._sums.wipe(room.others)
            elif len(packed) > known:
                room.others = self._sums.take(room, room.partition)
                first.append(room)
            else:
                continue
            ends.append(len(packed))
            slots.append(room.others)
        if packed:
            if len(packed) > len(self._known):
                self._grow(2 * len(packed))
            self._bytes.lines[: len(packed)] = 0
            self._refused += self._bytes.unpack_readable(range(len(packed)), packed).values()
            sum_shares(self._known, np.array(ends), self._sums.rows, np.array(slots))
        return first

    def take_refused(self) -> list[RowVersionError]:
        """Return what is wrong with shares that could not be read since the last call: they count for nothing."""
        refused, self._refused = self._refused, []
        return refused

    def _grow(self, rows: int) -> None:
        self._known = np.zeros(rows, ROOM)  # unpacked shares, on their way to a sum
        self._bytes = RowBytes("room", self._known)


@compiled
def sum_shares(shares: Any, ends: NDArray[np.int64], sums: Any, slots: NDArray[np.int64]) -> None:
    """Sum room rows (n,), room by room, into rows of `sums`, which are zero before.

    ends (rooms,): where each room's rows end; slots (rooms,): where its sum goes. Counts are added bucket by bucket, as
    of the newest clock; of the raids and audiences the newest holds.
    """
    begin = 0
    for room in range(len(ends)):
        _sum_room(shares, begin, ends[room], sums[slots[room]])
        begin = ends[room]


@inner
def _sum_room(shares: Any, begin: int, end: int, total: Any) -> None:
    for i in range(begin, end):
        total.clock = max(total.clock, shares[i].clock)
    for i in range(begin, end):
        share = shares[i]
        for ring in SHORT:
            last = total.clock // ring.width
            newest = share.clock // ring.width
            for bucket in range(max(last, newest) - ring.slots + 1, newest + 1):
                at = ring.start + bucket % ring.slots
                for kind in range(_KINDS):
                    total.short[at, kind] = min(total.short[at, kind] + np.int64(share.short[at, kind]), MOST)
                total.short_minor[at] += share.short_minor[at]
        for kind in range(_KINDS):
            total.total[kind] += share.total[kind]
        total.total_minor += share.total_minor
        if share.first > 0 and (total.first == 0 or share.first < total.first):
            total.first = share.first
        total.last_tip = max(total.last_tip, share.last_tip)
        if share.raid_time > total.raid_time:
            total.raid_time = share.raid_time
            total.raid_size = share.raid_size
        if share.online_time > total.online_time:
            total.online_time = share.online_time
            total.online = share.online
