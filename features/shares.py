"""Summing what several partitions know about one room."""

from typing import Any

from features.compiled import compiled
from features.rows import ROOM_KINDS, SHORT

_KINDS = len(ROOM_KINDS)


@compiled
def sum_shares(shares: Any, sums: Any, slot: int) -> None:
    """Sum room rows (n,) into the row of `sums` at `slot`, which is zero before.

    Counts are added bucket by bucket, as of the newest clock; of the raids and audiences the newest holds.
    """
    total = sums[slot]
    for i in range(shares.shape[0]):
        total.clock = max(total.clock, shares[i].clock)
    for i in range(shares.shape[0]):
        share = shares[i]
        for ring in SHORT:
            last = total.clock // ring.width
            newest = share.clock // ring.width
            for bucket in range(max(last, newest) - ring.slots + 1, newest + 1):
                at = ring.start + bucket % ring.slots
                for kind in range(_KINDS):
                    total.short[at, kind] += share.short[at, kind]
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
