"""What other partitions know about a room, and summing it."""

from collections.abc import Collection, Iterable, Mapping
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.cache import Cache, Room
from features.compiled import compiled, inner
from features.fold import MOST
from features.packing import RowBytes
from features.rows import ROOM, ROOM_KINDS, SHORT, RowVersionError
from features.watch import TURNS, turn_of

_KINDS = len(ROOM_KINDS)
_ROWS = 256


class OtherShares:
    """Shares of rooms, packed as the store told them, and sums, made once an event of another partition needs one."""

    def __init__(self, cache: Cache) -> None:
        """Sums are rows of `cache.others`, one a room, at `Room.others`."""
        self._cache = cache
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
        """Have the sums of rooms agree with what was told last; return the rooms that have their first.

        A room is summed for all our partitions at once, because all but their own shares goes into each of these sums.
        """
        packed, places = list[bytes](), list[int]()
        groups, wanted = list[tuple[int, int, int]](), list[tuple[int, int, int]]()
        first = list[Room]()
        sums, end = self._cache.others, 0
        for room in rooms:
            asked, told = self._told[room.turn].get(room.id, (room.told, {}))
            if asked <= room.told or room.slot < 0:
                continue
            ours = {each.partition: each for each in self._cache.same_room(room.id)}
            theirs = [blob for partition, blob in told.items() if partition not in ours]
            own = {partition: blob for partition, blob in told.items() if partition in ours}
            begin, common = end, end + len(theirs)
            end = common + 1 + len(own)
            packed += [*theirs, *own.values()]
            places += [*range(begin, common), *range(common + 1, end)]
            row_of = dict(zip(own, range(common + 1, end), strict=True))
            for partition, each in ours.items():
                each.told = asked
                if each.others >= 0:
                    sums.wipe(each.others)
                elif len(told) > (partition in told):
                    each.others = sums.take(each, partition)
                    first.append(each)
                else:
                    continue
                wanted.append((len(groups), row_of.get(partition, -1), each.others))
            groups.append((begin, common, end))
        if wanted:
            if end > len(self._known):
                self._grow(2 * end)
            self._bytes.lines[:end] = 0
            self._refused += self._bytes.unpack_readable(places, packed).values()
            sum_shares(self._known, np.array(groups), np.array(wanted), sums.rows)
        return first

    def take_refused(self) -> list[RowVersionError]:
        """Return what is wrong with shares that could not be read since the last call: they count for nothing."""
        refused, self._refused = self._refused, []
        return refused

    def _grow(self, rows: int) -> None:
        self._known = np.zeros(rows, ROOM)  # unpacked shares, on their way to a sum
        self._bytes = RowBytes("room", self._known)


@compiled
def sum_shares(shares: Any, groups: NDArray[np.int64], wanted: NDArray[np.int64], sums: Any) -> None:
    """Sum room rows (n,), group by group, into rows of `sums`, which are zero before.

    groups (rooms, 3): where a room's rows begin, the row, zero before, that takes the sum of those before it, and where
    they end; wanted (m, 3): group, which row after that one is left out or -1, where the sum goes. Counts are added
    bucket by bucket, as of the newest clock; of the raids and audiences the newest holds.
    """
    summed = -1
    for i in range(len(wanted)):
        group, without, slot = wanted[i, 0], wanted[i, 1], wanted[i, 2]
        begin, common, end = groups[group, 0], groups[group, 1], groups[group, 2]
        if group != summed:
            _sum_rows(shares, begin, common, -1, shares[common])
            summed = group
        _sum_rows(shares, common, end, without, sums[slot])


@inner
def _sum_rows(shares: Any, begin: int, end: int, without: int, total: Any) -> None:
    for i in range(begin, end):
        if i != without:
            total.clock = max(total.clock, shares[i].clock)
    for i in range(begin, end):
        if i == without:
            continue
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
