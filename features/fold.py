"""Folding an event into its viewer, pair and room.

A row's `clock` is the newest event time that it has seen; "now" is that clock. An event whose bucket has left a ring
misses that ring, and still counts in the totals. All functions here compile into the kernel.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import inner
from features.rows import (
    EVENTS,
    FREE,
    GIFTS,
    HISTORY,
    IDS,
    KIND_OF_CODE,
    KINDS,
    LONG,
    LONG_EVENTS,
    LONG_KINDS,
    LONG_SUBS,
    LONG_TIPS,
    LONG_VISITS,
    NEWCOMERS,
    PAIR,
    SHORT,
    SOCIAL,
    SUBS,
    TIPS,
    TYPE_CODE,
    VISIT_BITS,
    VISITS,
)

SHORT_RINGS: Final = np.array(SHORT, np.int64)  # (rings, 3): width, slots, start
LONG_RINGS: Final = np.array(LONG, np.int64)
PAIR_RINGS: Final = np.array(PAIR, np.int64)
KIND: Final = np.array(KIND_OF_CODE, np.int64)  # by type code; -1 = counts as an event only
N_KINDS: Final = len(KINDS)
N_LONG: Final = len(LONG_KINDS)
MINOR: Final = N_KINDS  # where a delta (9,) holds money
DELTA: Final = N_KINDS + 1
MOST: Final = 2**31 - 1  # what a bucket of a short ring counts up to

_LONG_KINDS: Final = np.array([KINDS.index(kind) for kind in LONG_KINDS], np.int64)
_RAID: Final = TYPE_CODE["raid"]
_ROOM_STATS: Final = TYPE_CODE["room_stats"]
_COMMENT: Final = TYPE_CODE["comment"]


@inner
def _advance(counts: Any, minor: Any, rings: NDArray[np.int64], was: int, now: int) -> None:
    """Empty the buckets that come in when the clock goes from `was` to `now`; the finest ring is the first."""
    for r in range(len(rings)):
        width, slots, start = rings[r, 0], rings[r, 1], rings[r, 2]
        old, new = was // width, now // width
        if r == 0 and old == new:
            return
        for bucket in range(max(old, new - slots) + 1, new + 1):
            slot = start + bucket % slots
            counts[slot] = 0
            minor[slot] = 0


@inner
def _advance_pair(pair: Any, now: int) -> None:
    """Bring a pair to its viewer's clock."""
    _advance(pair.counts, pair.minor, PAIR_RINGS, pair.clock, now)
    pair.clock = now


@inner
def _advance_all(viewer: Any, pair: Any, room: Any, time: int) -> None:
    now = max(viewer.clock, time)
    _advance(viewer.short, viewer.short_minor, SHORT_RINGS, viewer.clock, now)
    _advance(viewer.long, viewer.long_minor, LONG_RINGS, viewer.clock, now)
    viewer.clock = now
    _advance_pair(pair, now)
    _advance_room(room, time)


@inner
def _advance_room(room: Any, time: int) -> None:
    now = max(room.clock, time)
    _advance(room.short, room.short_minor, SHORT_RINGS, room.clock, now)
    room.clock = now
    if room.first == 0 or time < room.first:
        room.first = time


@inner
def _add_short(row: Any, time: int, delta: NDArray[np.int64]) -> bool:
    """Add to the short rings and totals of a viewer or a room; return False if a ring was missed."""
    counts, minor, total, hit = row.short, row.short_minor, row.total, True
    for r in range(len(SHORT_RINGS)):
        width, slots, start = SHORT_RINGS[r, 0], SHORT_RINGS[r, 1], SHORT_RINGS[r, 2]
        bucket = time // width
        if bucket > row.clock // width - slots:
            slot = start + bucket % slots
            for kind in range(N_KINDS):
                counts[slot, kind] = min(counts[slot, kind] + delta[kind], MOST)
            minor[slot] += delta[MINOR]
        else:
            hit = False
    for kind in range(N_KINDS):
        total[kind] += delta[kind]
    row.total_minor += delta[MINOR]
    return hit


@inner
def _add_long(counts: Any, minor: Any, rings: NDArray[np.int64], now: int, time: int, delta: NDArray[np.int64]) -> None:
    for r in range(len(rings)):
        width, slots, start = rings[r, 0], rings[r, 1], rings[r, 2]
        bucket = time // width
        if bucket > now // width - slots:
            slot = start + bucket % slots
            for long in range(N_LONG):
                counts[slot, long] += delta[_LONG_KINDS[long]]
            minor[slot] += delta[MINOR]


@inner
def _add(viewer: Any, pair: Any, time: int, delta: NDArray[np.int64]) -> bool:
    """Add a delta to a viewer and a pair; return False if a short ring was missed."""
    _add_long(viewer.long, viewer.long_minor, LONG_RINGS, viewer.clock, time, delta)
    _add_long(pair.counts, pair.minor, PAIR_RINGS, pair.clock, time, delta)
    for long in range(N_LONG):
        pair.total[long] += delta[_LONG_KINDS[long]]
    pair.total_minor += delta[MINOR]
    return _add_short(viewer, time, delta)


@inner
def _add_visit(viewer: Any, pair: Any, delta: NDArray[np.int64]) -> None:
    """Add to this visit, and keep account of the visits with a tip."""
    had = pair.visit[TIPS] > 0
    for kind in range(N_KINDS):
        pair.visit[kind] += delta[kind]
    pair.visit_minor += delta[MINOR]
    has = pair.visit[TIPS] > 0
    if has != had:
        step = 1 if has else -1
        pair.visits_tipped += step
        viewer.visits_tipped += step
        pair.visit_bits ^= 1
        later = viewer.total[VISITS] - pair.visit_number  # visits of the viewer that began since this one
        if later < VISIT_BITS:
            viewer.visit_bits ^= np.int64(1) << later


@inner
def observe(room: Any, code: int, time: int, audience: int) -> None:
    """Take in a room-level event: values only, no counts, so that a repeated one is harmless."""
    _advance_room(room, time)
    if code == _RAID and time >= room.raid_time:
        room.raid_time = time
        room.raid_size = max(audience, 0)
    if code == _ROOM_STATS and audience >= 0 and time >= room.online_time:
        room.online_time = time
        room.online = audience


@inner
def is_repeated(viewer: Any, event: Any) -> bool:
    """Tell whether the viewer's row remembers this event's id."""
    for i in range(min(viewer.seen, IDS)):  # noqa: SIM110  # a generator does not compile
        if viewer.ids[i] == event.id:
            return True
    return False


@inner
def place_of(pair: Any) -> Any:
    """Return a number for this visit of this pair of the viewer; the pair's own is the upper half."""
    return (pair.number << 32) + pair.total[LONG_VISITS]


@inner
def remember(viewer: Any, pair: Any, event: Any, time: int) -> None:
    """Remember an event: its id, and its line in the history."""
    slot = viewer.seen % HISTORY
    viewer.ids[viewer.seen % IDS] = event.id
    viewer.past_time[slot] = time
    viewer.past_minor[slot] = event.minor
    viewer.past_size[slot] = event.text_len if event.type == _COMMENT else event.count
    viewer.past_place[slot] = place_of(pair)
    viewer.past_type[slot] = event.type
    viewer.seen += 1


@inner
def _place_of_gift(pair: Any, event: Any) -> int:
    """Return where the event's combo, or else its transaction, is among the room's remembered gifts, or -1."""
    key = event.combo if event.combo != 0 else event.gift
    if key != 0:
        for i in range(min(pair.gifts, GIFTS)):
            if pair.gift_key[i] == key and pair.gift_room[i] == event.room_hash:
                return i
    return -1


@inner
def _remember_gift(pair: Any, event: Any, time: int) -> None:
    if event.gift != 0 or event.combo != 0:
        slot = pair.gifts % GIFTS
        pair.gift_key[slot] = event.combo if event.combo != 0 else event.gift
        pair.gift_tx[slot] = event.gift if event.combo != 0 else np.uint64(0)
        pair.gift_room[slot] = event.room_hash
        pair.gift_visit[slot] = pair.total[LONG_VISITS]
        pair.gift_minor[slot] = event.minor
        pair.gift_time[slot] = time
        pair.gifts += 1


@inner
def _amend_gift(
    viewer: Any, pair: Any, room: Any, event: Any, place: int, tips: int, minor: int, delta: NDArray[np.int64]
) -> None:
    """Add to a remembered gift, at the time of its first frame, wherever it still belongs."""
    delta[:] = 0
    delta[TIPS] = tips
    delta[MINOR] = minor
    time = pair.gift_time[place]
    _add(viewer, pair, time, delta)
    # Where the room's row is younger than the gift, the one that counted it has expired.
    if pair.gift_room[place] == event.room_hash and 0 < room.first <= time:
        _add_short(room, time, delta)
    if pair.gift_visit[place] == pair.total[LONG_VISITS]:
        _add_visit(viewer, pair, delta)


@inner
def take_back(viewer: Any, pair: Any, room: Any, event: Any, delta: NDArray[np.int64]) -> bool:
    """Subtract a reversed gift, the newest that fits; return False, and change nothing, if none is remembered."""
    for back in range(1, min(pair.gifts, GIFTS) + 1):
        i = (pair.gifts - back) % GIFTS
        if (pair.gift_key[i] == event.gift or pair.gift_tx[i] == event.gift) and pair.gift_minor[i] >= 0:
            _advance_pair(pair, viewer.clock)
            _amend_gift(viewer, pair, room, event, i, -1, -pair.gift_minor[i], delta)
            pair.gift_minor[i] = -1
            return True
    return False


@inner
def fold(viewer: Any, pair: Any, room: Any, event: Any, time: int, delta: NDArray[np.int64]) -> bool:
    """Fold a viewer's event into its three rows; return False if it missed a short ring of its viewer.

    delta (9,): scratch, counts by kind and money.
    """
    _advance_all(viewer, pair, room, time)
    if viewer.first == 0:
        viewer.first = time
    delta[:] = 0
    delta[EVENTS] = 1
    newcomer = pair.number == 0
    if newcomer:
        viewer.streamers += 1
        pair.number = viewer.streamers
        pair.first = time
    if pair.room != event.room_hash:
        delta[VISITS] = 1
        pair.room = event.room_hash
        pair.visit_start = time
        pair.visit_number = viewer.total[VISITS] + 1
        pair.visit_bits <<= 1
        viewer.visit_bits <<= 1
        pair.visit_tip = 0
        pair.visit[:] = 0
        pair.visit_minor = 0

    kind = KIND[event.type]
    place = -1
    if kind == TIPS:
        place = _place_of_gift(pair, event)
        if place < 0:
            delta[TIPS] = 1
            delta[MINOR] = event.minor
            pair.visit_tip = max(pair.visit_tip, time)
            pair.last[LONG_TIPS] = max(pair.last[LONG_TIPS], time)
            room.last_tip = max(room.last_tip, time)
    elif kind == FREE:
        key = event.combo if event.combo != 0 else event.gift
        delta[FREE] = 1 if key != pair.free_gift else 0
        pair.free_gift = key
    elif kind >= 0:
        delta[kind] = event.count if kind == SOCIAL else 1
    viewer.last[EVENTS] = max(viewer.last[EVENTS], time)
    pair.last[LONG_EVENTS] = max(pair.last[LONG_EVENTS], time)
    if kind >= 0 and place < 0:
        viewer.last[kind] = max(viewer.last[kind], time)
    if kind == SUBS:
        pair.last[LONG_SUBS] = max(pair.last[LONG_SUBS], time)

    hit = _add(viewer, pair, time, delta)
    _add_visit(viewer, pair, delta)
    delta[NEWCOMERS] = 1 if newcomer else 0
    _add_short(room, time, delta)

    if kind == TIPS and place < 0:
        _remember_gift(pair, event, time)
    elif kind == TIPS and pair.gift_minor[place] >= 0:
        if event.combo != 0:
            pair.gift_tx[place] = event.gift
        more = event.minor - pair.gift_minor[place]
        if more > 0:
            pair.gift_minor[place] = event.minor
            _amend_gift(viewer, pair, room, event, place, 0, more, delta)
    return hit
