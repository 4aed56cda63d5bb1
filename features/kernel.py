"""The features, event by event: fold the event into its viewer, pair and room, then read the three rows.

One loop over the batch in order, so that an entity that occurs twice in a batch needs no care and any split of the same
events gives the same bits. A row's `clock` is the newest event time that it has seen; "now" is that clock. An event
whose bucket has left a ring misses that ring, and still counts in the totals.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features import quantities as q
from features.catalogue import (
    AGE,
    BIT,
    COSINE,
    FEATURES,
    FUTURE_MS,
    HISTORY_LENGTH,
    LOG,
    MEMBER,
    NEVER,
    QUARTERS,
    RATIO,
    SINE,
    day_circle,
)
from features.compiled import compiled, inner
from features.rows import (
    DAY,
    EVENTS,
    FREE,
    FREE_GIFT,
    GIFTS,
    IDS,
    KIND_OF_CODE,
    KINDS,
    LONG,
    LONG_EVENTS,
    LONG_KINDS,
    LONG_OF_KIND,
    LONG_TIPS,
    LONG_VISITS,
    NEWCOMERS,
    PAIR,
    SHORT,
    SOCIAL,
    TIPS,
    TYPE_CODE,
    VISITS,
)

# What a batch's `flags` say about an event.
LATE: Final = 1  # missed at least one ring of its viewer
CLAMPED: Final = 2  # was stamped too far in the future
UNMATCHED: Final = 4  # a reversal of a gift that is not remembered
COLD_START: Final = 8  # the viewer's first event

FRESH: Final = 0
DUPLICATE: Final = 1

_SOURCE: Final = np.array([q.QUANTITIES.index(feature.source) for feature in FEATURES], np.int64)
_TRANSFORM: Final = np.array([feature.transform for feature in FEATURES], np.int64)
_ARGUMENT: Final = np.array([feature.argument for feature in FEATURES], np.int64)
_CIRCLE: Final = np.array(day_circle(), np.float32)
_KIND: Final = np.array(KIND_OF_CODE, np.int64)
_LONG_OF: Final = np.array(LONG_OF_KIND, np.int64)

_N_SHORT: Final = len(KINDS)
_N_LONG: Final = len(LONG_KINDS)
_OLDEST: Final = (1 << 40) - 2  # ms: lg of it stays below NEVER
_QUARTER: Final = DAY // QUARTERS
_FIRST_ROOM_TYPE: Final = TYPE_CODE["raid"]
_RAID: Final = TYPE_CODE["raid"]
_ROOM_STATS: Final = TYPE_CODE["room_stats"]
_REVERSAL: Final = TYPE_CODE["gift_reversal"]
_COMMENT: Final = TYPE_CODE["comment"]
_SHORT_0, _SHORT_1, _SHORT_2 = SHORT
_LONG_0, _LONG_1, _LONG_2 = LONG
_PAIR_0, _PAIR_1, _PAIR_2, _PAIR_3 = PAIR


@inner
def lg(n: int) -> np.float32:
    """Return the piecewise-linear log2 of n + 1, for 0 <= n < 2**47: exact, then rounded to float32 once."""
    bits = np.float64(n + 1).view(np.int64)
    return np.float32((bits >> 52) - 1023 + (bits & 0xFFFFFFFFFFFFF) * (1.0 / 4503599627370496.0))


@inner
def _advance_ring(counts: Any, minor: Any, start: int, slots: int, was: int, now: int) -> None:
    """Empty the buckets that come into a ring when its current bucket goes from `was` to `now`."""
    for bucket in range(max(was, now - slots) + 1, now + 1):
        slot = start + bucket % slots
        for kind in range(counts.shape[1]):
            counts[slot, kind] = 0
        minor[slot] = 0


@inner
def _advance_short(row: Any, now: int) -> None:
    was = row.clock
    if now // _SHORT_0.width != was // _SHORT_0.width:
        counts, minor = row.short, row.short_minor
        _advance_ring(counts, minor, _SHORT_0.start, _SHORT_0.slots, was // _SHORT_0.width, now // _SHORT_0.width)
        _advance_ring(counts, minor, _SHORT_1.start, _SHORT_1.slots, was // _SHORT_1.width, now // _SHORT_1.width)
        _advance_ring(counts, minor, _SHORT_2.start, _SHORT_2.slots, was // _SHORT_2.width, now // _SHORT_2.width)


@inner
def _advance_viewer(viewer: Any, now: int) -> None:
    _advance_short(viewer, now)
    was = viewer.clock
    if now // _LONG_0.width != was // _LONG_0.width:
        counts, minor = viewer.long, viewer.long_minor
        _advance_ring(counts, minor, _LONG_0.start, _LONG_0.slots, was // _LONG_0.width, now // _LONG_0.width)
        _advance_ring(counts, minor, _LONG_1.start, _LONG_1.slots, was // _LONG_1.width, now // _LONG_1.width)
        _advance_ring(counts, minor, _LONG_2.start, _LONG_2.slots, was // _LONG_2.width, now // _LONG_2.width)
    viewer.clock = now


@inner
def _advance_pair(pair: Any, now: int) -> None:
    was = pair.clock
    if now // _PAIR_0.width != was // _PAIR_0.width:
        counts, minor = pair.counts, pair.minor
        _advance_ring(counts, minor, _PAIR_0.start, _PAIR_0.slots, was // _PAIR_0.width, now // _PAIR_0.width)
        _advance_ring(counts, minor, _PAIR_1.start, _PAIR_1.slots, was // _PAIR_1.width, now // _PAIR_1.width)
        _advance_ring(counts, minor, _PAIR_2.start, _PAIR_2.slots, was // _PAIR_2.width, now // _PAIR_2.width)
        _advance_ring(counts, minor, _PAIR_3.start, _PAIR_3.slots, was // _PAIR_3.width, now // _PAIR_3.width)
    pair.clock = now


@inner
def _advance_room(room: Any, now: int) -> None:
    _advance_short(room, now)
    room.clock = now


@inner
def _put(counts: Any, minor: Any, start: int, slots: int, bucket: int, now: int, kind: int, n: int, money: int) -> bool:
    """Add to one bucket of a ring whose current bucket is `now`; return False if the bucket has left the ring."""
    if bucket <= now - slots:
        return False
    slot = start + bucket % slots
    counts[slot, kind] += n
    minor[slot] += money
    return True


@inner
def _put_short(row: Any, time: int, kind: int, n: int, money: int) -> bool:
    """Add to the short rings and the totals of a viewer or a room; return False if a ring was missed."""
    counts, minor, now = row.short, row.short_minor, row.clock
    row.total[kind] += n
    row.total_minor += money
    a, b, c = _SHORT_0, _SHORT_1, _SHORT_2
    hit = _put(counts, minor, a.start, a.slots, time // a.width, now // a.width, kind, n, money)
    hit &= _put(counts, minor, b.start, b.slots, time // b.width, now // b.width, kind, n, money)
    hit &= _put(counts, minor, c.start, c.slots, time // c.width, now // c.width, kind, n, money)
    return hit


@inner
def _put_viewer(viewer: Any, time: int, kind: int, n: int, money: int) -> bool:
    hit = _put_short(viewer, time, kind, n, money)
    long = _LONG_OF[kind]
    if long >= 0:
        counts, minor, now = viewer.long, viewer.long_minor, viewer.clock
        a, b, c = _LONG_0, _LONG_1, _LONG_2
        _put(counts, minor, a.start, a.slots, time // a.width, now // a.width, long, n, money)
        _put(counts, minor, b.start, b.slots, time // b.width, now // b.width, long, n, money)
        _put(counts, minor, c.start, c.slots, time // c.width, now // c.width, long, n, money)
    return hit


@inner
def _put_pair(pair: Any, time: int, kind: int, n: int, money: int) -> None:
    long = _LONG_OF[kind]
    if long >= 0:
        counts, minor, now = pair.counts, pair.minor, pair.clock
        a, b, c, d = _PAIR_0, _PAIR_1, _PAIR_2, _PAIR_3
        _put(counts, minor, a.start, a.slots, time // a.width, now // a.width, long, n, money)
        _put(counts, minor, b.start, b.slots, time // b.width, now // b.width, long, n, money)
        _put(counts, minor, c.start, c.slots, time // c.width, now // c.width, long, n, money)
        _put(counts, minor, d.start, d.slots, time // d.width, now // d.width, long, n, money)
        pair.total[long] += n
        pair.total_minor += money


@inner
def _observe(room: Any, kind: int, time: int, audience: int) -> None:
    """Take in a room-level event: values only, no counts, so that a repeated one is harmless."""
    _advance_room(room, max(room.clock, time))
    if room.first == 0 or time < room.first:
        room.first = time
    if kind == _RAID and time >= room.raid_time:
        room.raid_time = time
        room.raid_size = max(audience, 0)
    if kind == _ROOM_STATS and audience >= 0 and time >= room.online_time:
        room.online_time = time
        room.online = audience


@inner
def _repeated(viewer: Any, event_id: int) -> bool:
    for i in range(min(viewer.seen, IDS)):  # noqa: SIM110  # a generator does not compile
        if viewer.ids[i] == event_id:
            return True
    return False


@inner
def _remember(viewer: Any, pair: Any, event: Any, time: int, kind: int) -> None:
    slot = viewer.seen % IDS
    viewer.ids[slot] = event.id
    slot = viewer.seen % HISTORY_LENGTH
    viewer.past_time[slot] = time
    viewer.past_minor[slot] = event.minor
    viewer.past_size[slot] = event.text_len if kind == _COMMENT else event.count
    viewer.past_pair[slot] = pair.number
    viewer.past_visit[slot] = pair.total[LONG_VISITS]
    viewer.past_type[slot] = kind
    viewer.seen += 1


@inner
def _arrive(viewer: Any, pair: Any, room: Any, event: Any, time: int) -> None:
    """Start a visit if this is another room of the streamer, and the pair itself if it is new."""
    if pair.number == 0:
        viewer.streamers += 1
        pair.number = viewer.streamers
        pair.first = time
        _put_short(room, time, NEWCOMERS, 1, 0)
    if pair.room != event.room_hash:
        pair.room = event.room_hash
        pair.visit_start = time
        pair.visit_tip = 0
        pair.visit_minor = 0
        for kind in range(_N_SHORT):
            pair.visit[kind] = 0
        _put_viewer(viewer, time, VISITS, 1, 0)
        _put_pair(pair, time, VISITS, 1, 0)
        _put_short(room, time, VISITS, 1, 0)


@inner
def _known_gift(pair: Any, key: int) -> int:
    """Return the place of the gift with this key among those remembered, or -1."""
    if key != 0:
        for i in range(min(pair.gifts, GIFTS)):
            if pair.gift_key[i] == key:
                return i
    return -1


@inner
def _tip(viewer: Any, pair: Any, room: Any, event: Any, time: int) -> None:
    """Count a tip once, at the time of its first frame; later frames of a combo carry a growing total."""
    key = event.combo if event.combo != 0 else event.gift
    gift = _known_gift(pair, key)
    if gift < 0:
        _book(viewer, pair, room, time, 1, event.minor, True, True)
        pair.visit_tip = max(pair.visit_tip, time)
        pair.last[LONG_TIPS] = max(pair.last[LONG_TIPS], time)
        viewer.last[TIPS] = max(viewer.last[TIPS], time)
        room.last_tip = max(room.last_tip, time)
        if key != 0:
            slot = pair.gifts % GIFTS
            pair.gift_key[slot] = key
            pair.gift_tx[slot] = event.gift if event.combo != 0 else np.uint64(0)
            pair.gift_room[slot] = event.room_hash
            pair.gift_visit[slot] = pair.total[LONG_VISITS]
            pair.gift_minor[slot] = event.minor
            pair.gift_time[slot] = time
            pair.gifts += 1
    elif pair.gift_minor[gift] >= 0:
        if event.combo != 0:
            pair.gift_tx[gift] = event.gift
        more = event.minor - pair.gift_minor[gift]
        if more > 0:
            pair.gift_minor[gift] = event.minor
            this_visit = pair.gift_visit[gift] == pair.total[LONG_VISITS]
            _book(
                viewer, pair, room, pair.gift_time[gift], 0, more, this_visit, pair.gift_room[gift] == event.room_hash
            )


@inner
def _book(viewer: Any, pair: Any, room: Any, time: int, n: int, money: int, this_visit: bool, this_room: bool) -> None:
    """Add n tips and their money (or take them back) wherever they belong."""
    _put_viewer(viewer, time, TIPS, n, money)
    _put_pair(pair, time, TIPS, n, money)
    if this_room:
        _put_short(room, time, TIPS, n, money)
    if this_visit:
        had = pair.visit[TIPS] > 0
        pair.visit[TIPS] += n
        pair.visit_minor += money
        change = int(pair.visit[TIPS] > 0) - int(had)
        pair.visits_tipped += change
        viewer.visits_tipped += change


@inner
def _take_back(viewer: Any, pair: Any, room: Any, event: Any) -> bool:
    """Subtract a reversed gift; return False, and change nothing, if it is not remembered."""
    for i in range(min(pair.gifts, GIFTS)):
        if (pair.gift_key[i] == event.gift or pair.gift_tx[i] == event.gift) and pair.gift_minor[i] >= 0:
            this_visit = pair.gift_visit[i] == pair.total[LONG_VISITS]
            this_room = pair.gift_room[i] == event.room_hash
            _book(viewer, pair, room, pair.gift_time[i], -1, -pair.gift_minor[i], this_visit, this_room)
            pair.gift_minor[i] = -1
            return True
    return False


@inner
def _apply(viewer: Any, pair: Any, room: Any, event: Any, time: int, ages: NDArray[np.int64]) -> bool:
    """Fold a viewer's event into its three rows; return False if a ring was missed.

    `ages` receives the time since the viewer's and the pair's event before this one.
    """
    now = max(viewer.clock, time)
    _advance_viewer(viewer, now)
    _advance_pair(pair, now)
    _advance_room(room, max(room.clock, time))
    ages[0] = now - viewer.last[EVENTS] if viewer.last[EVENTS] > 0 else -1
    ages[1] = now - pair.last[LONG_EVENTS] if pair.last[LONG_EVENTS] > 0 else -1

    if viewer.first == 0:
        viewer.first = time
    if room.first == 0 or time < room.first:
        room.first = time
    _arrive(viewer, pair, room, event, time)

    hit = _put_viewer(viewer, time, EVENTS, 1, 0)
    _put_pair(pair, time, EVENTS, 1, 0)
    _put_short(room, time, EVENTS, 1, 0)
    pair.visit[EVENTS] += 1
    viewer.last[EVENTS] = max(viewer.last[EVENTS], time)
    pair.last[LONG_EVENTS] = max(pair.last[LONG_EVENTS], time)

    kind = _KIND[event.type]
    if kind == TIPS:
        _tip(viewer, pair, room, event, time)
    elif kind == FREE:
        key = event.combo if event.combo != 0 else event.gift
        if key != pair.free_gift:
            pair.free_gift = key
            _put_viewer(viewer, time, FREE, 1, 0)
            pair.visit[FREE] += 1
        viewer.last[FREE] = max(viewer.last[FREE], time)
    elif kind >= 0:
        n = event.count if kind == SOCIAL else 1
        _put_viewer(viewer, time, kind, n, 0)
        _put_pair(pair, time, kind, n, 0)
        _put_short(room, time, kind, n, 0)
        pair.visit[kind] += n
        viewer.last[kind] = max(viewer.last[kind], time)
        if _LONG_OF[kind] >= 0:
            pair.last[_LONG_OF[kind]] = max(pair.last[_LONG_OF[kind]], time)
    return hit


@inner
def _sum(out: NDArray[np.int64], at: int, counts: Any, minor: Any, start: int, slots: int) -> None:
    """Write the sums over a ring's buckets: one for each kind, then the money."""
    kinds = counts.shape[1]
    for kind in range(kinds):
        out[at + kind] = 0
    for slot in range(start, start + slots):
        for kind in range(kinds):
            out[at + kind] += counts[slot, kind]
    money = 0
    for slot in range(start, start + slots):
        money += minor[slot]
    out[at + kinds] = money


@inner
def _read_short(out: NDArray[np.int64], at: int, row: Any) -> None:
    counts, minor = row.short, row.short_minor
    current = _SHORT_0.start + row.clock // _SHORT_0.width % _SHORT_0.slots
    step = _N_SHORT + 1
    _sum(out, at, counts, minor, current, 1)
    _sum(out, at + step, counts, minor, _SHORT_0.start, _SHORT_0.slots)
    _sum(out, at + 2 * step, counts, minor, _SHORT_1.start, _SHORT_1.slots)
    _sum(out, at + 3 * step, counts, minor, _SHORT_2.start, _SHORT_2.slots)


@inner
def _since(now: int, then: int) -> int:
    return now - then if then > 0 else -1


@inner
def _read_viewer(out: NDArray[np.int64], viewer: Any) -> None:
    _read_short(out, q.VIEWER_SHORT, viewer)
    step = _N_LONG + 1
    _sum(out, q.VIEWER_LONG, viewer.long, viewer.long_minor, _LONG_0.start, _LONG_0.slots)
    _sum(out, q.VIEWER_LONG + step, viewer.long, viewer.long_minor, _LONG_1.start, _LONG_1.slots)
    _sum(out, q.VIEWER_LONG + 2 * step, viewer.long, viewer.long_minor, _LONG_2.start, _LONG_2.slots)
    for kind in range(_N_SHORT):
        out[q.VIEWER_TOTAL + kind] = viewer.total[kind]
        out[q.VIEWER_AGE + kind] = _since(viewer.clock, viewer.last[kind])
    out[q.VIEWER_TOTAL + _N_SHORT] = viewer.total_minor
    out[q.VIEWER_AGE + _N_SHORT] = _since(viewer.clock, viewer.first)
    out[q.VIEWER_REST] = viewer.streamers
    out[q.VIEWER_REST + 1] = viewer.visits_tipped


@inner
def _read_pair(out: NDArray[np.int64], pair: Any) -> None:
    step = _N_LONG + 1
    _sum(out, q.PAIR_COUNTS, pair.counts, pair.minor, _PAIR_0.start, _PAIR_0.slots)
    _sum(out, q.PAIR_COUNTS + step, pair.counts, pair.minor, _PAIR_1.start, _PAIR_1.slots)
    _sum(out, q.PAIR_COUNTS + 2 * step, pair.counts, pair.minor, _PAIR_2.start, _PAIR_2.slots)
    _sum(out, q.PAIR_COUNTS + 3 * step, pair.counts, pair.minor, _PAIR_3.start, _PAIR_3.slots)
    for kind in range(_N_LONG):
        out[q.PAIR_TOTAL + kind] = pair.total[kind]
        out[q.PAIR_AGE + kind] = _since(pair.clock, pair.last[kind])
    out[q.PAIR_TOTAL + _N_LONG] = pair.total_minor
    out[q.PAIR_AGE + _N_LONG] = _since(pair.clock, pair.first)
    out[q.PAIR_REST] = pair.visits_tipped
    for kind in range(_N_SHORT):
        out[q.VISIT + kind] = pair.visit[kind]
    out[q.VISIT + _N_SHORT] = pair.visit_minor
    out[q.VISIT_AGE] = _since(pair.clock, pair.visit_start)
    out[q.VISIT_AGE + 1] = _since(pair.clock, pair.visit_tip)


@inner
def _read_room(out: NDArray[np.int64], room: Any) -> None:
    _read_short(out, q.ROOM_SHORT, room)
    for kind in range(_N_SHORT):
        out[q.ROOM_TOTAL + kind] = room.total[kind]
    out[q.ROOM_TOTAL + _N_SHORT] = room.total_minor
    out[q.ROOM_AGE] = _since(room.clock, room.first)
    out[q.ROOM_AGE + 1] = _since(room.clock, room.last_tip)
    out[q.ROOM_AGE + 2] = _since(room.clock, room.raid_time)
    out[q.ROOM_REST] = room.raid_size
    out[q.ROOM_REST + 1] = room.online


@inner
def _add_window(
    out: NDArray[np.int64], at: int, row: Any, start: int, slots: int, width: int, span: int, now: int
) -> None:
    """Add the buckets of another row that lie in the window of `span` buckets that ends with the one of `now`."""
    last = now // width
    newest = row.clock // width
    for bucket in range(max(last - span, newest - slots) + 1, min(last, newest) + 1):
        slot = start + bucket % slots
        for kind in range(_N_SHORT):
            out[at + kind] += row.short[slot, kind]
        out[at + _N_SHORT] += row.short_minor[slot]


@inner
def _latest(age: int, now: int, then: int) -> int:
    """Return the smaller of an age and the time since `then`, at least 0; -1 = never."""
    other = max(now - then, 0) if then > 0 else -1
    if age < 0 or other < 0:
        return max(age, other)
    return min(age, other)


@inner
def _add_others(out: NDArray[np.int64], room: Any, others: Any) -> None:
    """Add what other partitions know about the room, as of this partition's clock of it."""
    now = room.clock
    a, b, c = _SHORT_0, _SHORT_1, _SHORT_2
    step = _N_SHORT + 1
    _add_window(out, q.ROOM_SHORT, others, a.start, a.slots, a.width, 1, now)
    _add_window(out, q.ROOM_SHORT + step, others, a.start, a.slots, a.width, a.slots, now)
    _add_window(out, q.ROOM_SHORT + 2 * step, others, b.start, b.slots, b.width, b.slots, now)
    _add_window(out, q.ROOM_SHORT + 3 * step, others, c.start, c.slots, c.width, c.slots, now)
    for kind in range(_N_SHORT):
        out[q.ROOM_TOTAL + kind] += others.total[kind]
    out[q.ROOM_TOTAL + _N_SHORT] += others.total_minor
    if others.first > 0:
        out[q.ROOM_AGE] = max(out[q.ROOM_AGE], now - others.first)
    out[q.ROOM_AGE + 1] = _latest(out[q.ROOM_AGE + 1], now, others.last_tip)
    if others.raid_time > room.raid_time:
        out[q.ROOM_AGE + 2] = _latest(-1, now, others.raid_time)
        out[q.ROOM_REST] = others.raid_size
    if others.online_time > room.online_time:
        out[q.ROOM_REST + 1] = others.online


@inner
def _write_features(out: NDArray[np.float32], values: NDArray[np.int64]) -> None:
    for column in range(_SOURCE.shape[0]):
        value = values[_SOURCE[column]]
        transform = _TRANSFORM[column]
        if transform == LOG:
            out[column] = lg(value)
        elif transform == AGE:
            out[column] = lg(min(value, _OLDEST)) if value >= 0 else np.float32(NEVER)
        elif transform == RATIO:
            under = values[_ARGUMENT[column]]
            out[column] = np.float32(value / under) if under > 0 else np.float32(0)
        elif transform == BIT:
            out[column] = np.float32((value >> _ARGUMENT[column]) & 1)
        elif transform == MEMBER:
            out[column] = np.float32((_ARGUMENT[column] >> value) & 1)
        elif transform == SINE:
            out[column] = _CIRCLE[value, 0]
        elif transform == COSINE:
            out[column] = _CIRCLE[value, 1]


@inner
def _write_history(out: NDArray[np.float32], viewer: Any, pair: Any) -> None:
    """Write the remembered events, newest first; what is not there yet stays zero."""
    known = min(viewer.seen, HISTORY_LENGTH)
    visit = pair.total[LONG_VISITS]
    for i in range(known):
        slot = (viewer.seen - 1 - i) % HISTORY_LENGTH
        time = viewer.past_time[slot]
        code = viewer.past_type[slot]
        out[i, 0] = code
        out[i, 1] = lg(min(max(viewer.clock - time, 0), _OLDEST))
        if i + 1 < known:
            before = viewer.past_time[(viewer.seen - 2 - i) % HISTORY_LENGTH]
            out[i, 2] = lg(min(max(time - before, 0), _OLDEST))
        else:
            out[i, 2] = NEVER
        out[i, 3] = lg(viewer.past_minor[slot])
        out[i, 4] = lg(viewer.past_size[slot])
        out[i, 5] = _KIND[code] == TIPS
        same_streamer = viewer.past_pair[slot] == pair.number
        out[i, 6] = same_streamer and viewer.past_visit[slot] == visit
        out[i, 7] = same_streamer
    out[known:] = 0


@inner
def _note(changed: NDArray[np.int32], counts: NDArray[np.int64], table: int, touched: Any, slot: int, now: int) -> None:
    """Note that a row changed, once per batch."""
    if touched[slot] != now:
        touched[slot] = now
        changed[table, counts[table]] = slot
        counts[table] += 1


@compiled
def walk(
    events: Any,
    viewers: Any,
    pairs: Any,
    rooms: Any,
    others: Any,
    touched_viewers: NDArray[np.int64],
    touched_pairs: NDArray[np.int64],
    touched_rooms: NDArray[np.int64],
    sequence: int,
    features: NDArray[np.float32],
    history: NDArray[np.float32],
    status: NDArray[np.uint8],
    flags: NDArray[np.uint8],
    changed: NDArray[np.int32],
    values: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Take in a batch of n events in order and write each one's features as of then.

    events (n,) COLUMNS; viewers, pairs, rooms, others: all rows, to be indexed by the columns' slots; touched_*:
    sequence of the batch that last changed a row; features (n, F), history (n, L, C), status (n,), flags (n,): outputs,
    written whole; changed (3, n): slots of the viewers, pairs and rooms that changed; values (Q,): scratch. Returns how
    many of each changed, (3,). Lines without a viewer, of an erase and of a duplicate are zero.
    """
    counts = np.zeros(3, np.int64)
    ages = np.empty(2, np.int64)
    for i in range(events.shape[0]):
        event = events[i]
        kind = event.type
        time = event.time
        status[i] = FRESH
        flags[i] = 0
        if event.broker > 0 and time > event.broker + FUTURE_MS:
            time = event.broker + FUTURE_MS
            flags[i] = CLAMPED
        room = rooms[event.room]
        if event.viewer < 0:
            if kind >= _FIRST_ROOM_TYPE and kind != FREE_GIFT:
                _observe(room, kind, time, event.audience)
                _note(changed, counts, 2, touched_rooms, event.room, sequence)
            features[i] = 0
            history[i] = 0
            continue
        viewer = viewers[event.viewer]
        pair = pairs[event.pair]
        if _repeated(viewer, event.id):
            status[i] = DUPLICATE
            features[i] = 0
            history[i] = 0
            continue
        if viewer.seen == 0:
            flags[i] |= COLD_START
        if kind == _REVERSAL:
            _advance_pair(pair, viewer.clock)
            known = _take_back(viewer, pair, room, event)
            if not known:
                flags[i] |= UNMATCHED
            ages[0] = _since(viewer.clock, viewer.last[EVENTS])
            ages[1] = _since(pair.clock, pair.last[LONG_EVENTS])
        else:
            known = True
            if not _apply(viewer, pair, room, event, time, ages):
                flags[i] |= LATE
        if known:
            _remember(viewer, pair, event, time, kind)
            _note(changed, counts, 0, touched_viewers, event.viewer, sequence)
            _note(changed, counts, 1, touched_pairs, event.pair, sequence)
            _note(changed, counts, 2, touched_rooms, event.room, sequence)

        _read_viewer(values, viewer)
        _read_pair(values, pair)
        _read_room(values, room)
        if event.others >= 0:
            _add_others(values, room, others[event.others])
        values[q.VIEWER_AGE + EVENTS] = ages[0]
        values[q.PAIR_AGE + LONG_EVENTS] = ages[1]
        values[q.EVENT] = kind
        values[q.EVENT + 1] = event.badges
        values[q.EVENT + 2] = event.minor
        values[q.EVENT + 3] = event.text_len
        values[q.EVENT + 4] = event.count
        values[q.EVENT + 5] = event.fan_level
        values[q.EVENT + 6] = event.watch
        values[q.EVENT + 7] = event.months
        values[q.EVENT + 8] = time % DAY // _QUARTER
        _write_features(features[i], values)
        _write_history(history[i], viewer, pair)
    return counts
