"""Summing what several partitions know about one room."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled, inner
from features.fold import MOST
from features.rows import ROOM_KINDS, SHORT

_KINDS = len(ROOM_KINDS)


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
