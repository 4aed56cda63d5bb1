"""The features, event by event: fold the event into its viewer, pair and room, then read the three rows.

One loop over the batch in order, so that an entity that occurs twice in a batch needs no care and any split of the same
events gives the same bits.
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
    RATIO,
    SINE,
    day_circle,
)
from features.compiled import compiled, inner
from features.fold import DELTA, KIND, fold, is_repeated, observe, place_of, remember, take_back
from features.reading import add_others, read_event, read_pair, read_room, read_viewer, since
from features.rows import EVENTS, LONG_EVENTS, TIPS, TYPE_CODE

# What `status` and `flags` say about an event.
FRESH: Final = 0
DUPLICATE: Final = 1  # its id is among the viewer's last: it changed nothing
LATE: Final = 1  # it missed a short ring of its viewer
CLAMPED: Final = 2  # it was stamped too far in the future
UNMATCHED: Final = 4  # a reversal of a gift that is not remembered: it changed nothing
COLD_START: Final = 8  # the viewer's first event

_SOURCE: Final = np.array([q.QUANTITIES.index(feature.source) for feature in FEATURES], np.int64)
_TRANSFORM: Final = np.array([feature.transform for feature in FEATURES], np.int64)
_ARGUMENT: Final = np.array([feature.argument for feature in FEATURES], np.int64)
_CIRCLE: Final = np.array(day_circle(), np.float32)
_OLDEST: Final = (1 << 40) - 2  # ms: its lg is below NEVER
_REVERSAL: Final = TYPE_CODE["gift_reversal"]


@inner
def lg(n: int) -> Any:
    """Return the piecewise-linear log2 of n + 1: exact for 0 <= n < 2**46, then rounded to float32 once; 0 below 0."""
    bits = np.float64(max(n, 0) + 1).view(np.int64)
    return np.float32((bits >> 52) - 1023 + (bits & 0xFFFFFFFFFFFFF) * (1.0 / 4503599627370496.0))


@inner
def _write_features(out: NDArray[np.float32], values: NDArray[np.int64]) -> None:
    for column in range(len(_SOURCE)):
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
    place = place_of(pair)
    slot = (viewer.seen - 1) % HISTORY_LENGTH
    for i in range(known):
        before = (slot - 1) % HISTORY_LENGTH
        time = viewer.past_time[slot]
        code = viewer.past_type[slot]
        same_streamer = viewer.past_place[slot] >> 32 == pair.number
        out[i, 0] = code
        out[i, 1] = lg(min(max(viewer.clock - time, 0), _OLDEST))
        out[i, 2] = lg(min(max(time - viewer.past_time[before], 0), _OLDEST))
        out[i, 3] = lg(viewer.past_minor[slot])
        out[i, 4] = lg(viewer.past_size[slot])
        out[i, 5] = KIND[code] == TIPS
        out[i, 6] = viewer.past_place[slot] == place
        out[i, 7] = same_streamer
        slot = before
    if known > 0:
        out[known - 1, 2] = NEVER
    out[known:] = 0


@inner
def _note(changed: NDArray[np.int32], counts: NDArray[np.int64], table: Any, touched: Any, slot: Any, now: int) -> None:
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
) -> NDArray[np.int64]:
    """Take in a batch of n events in order and write each one's features as of then.

    events (n,) COLUMNS; viewers, pairs, rooms, others: all rows, to be indexed by the columns' slots; touched_*:
    sequence of the batch that last changed a row; features (n, F), history (n, L, C), status (n,), flags (n,): outputs,
    written whole; changed (3, n): slots of the viewers, pairs and rooms that changed. Returns how many of each changed,
    (3,). Lines without a viewer, of an erase and of a duplicate are zero.
    """
    counts = np.zeros(3, np.int64)
    delta = np.empty(DELTA, np.int64)
    values = np.zeros(len(q.QUANTITIES), np.int64)
    for i in range(len(events)):
        event = events[i]
        time = event.time
        status[i] = FRESH
        flags[i] = 0
        if event.broker > 0 and time - FUTURE_MS > event.broker:
            time = event.broker + FUTURE_MS
            flags[i] = CLAMPED
        if event.viewer < 0:
            if event.room >= 0:
                observe(rooms[event.room], event.type, time, event.audience)
                _note(changed, counts, 2, touched_rooms, event.room, sequence)
            features[i] = 0
            history[i] = 0
            continue
        viewer, pair, room = viewers[event.viewer], pairs[event.pair], rooms[event.room]
        if is_repeated(viewer, event):
            status[i] = DUPLICATE
            features[i] = 0
            history[i] = 0
            continue
        if viewer.seen == 0:
            flags[i] |= COLD_START
        known = True
        viewer_before, pair_before = viewer.last[EVENTS], pair.last[LONG_EVENTS]
        if event.type == _REVERSAL:
            known = take_back(viewer, pair, room, event, delta)
            if not known:
                flags[i] |= UNMATCHED
        elif not fold(viewer, pair, room, event, time, delta):
            flags[i] |= LATE
        if known:
            remember(viewer, pair, event, time)
            _note(changed, counts, 0, touched_viewers, event.viewer, sequence)
            _note(changed, counts, 1, touched_pairs, event.pair, sequence)
            _note(changed, counts, 2, touched_rooms, event.room, sequence)

        read_viewer(values, viewer)
        read_pair(values, pair)
        read_room(values, room)
        if event.others >= 0:
            add_others(values, room, others[event.others])
        values[q.VIEWER_AGE + EVENTS] = since(viewer.clock, viewer_before)
        values[q.PAIR_AGE + LONG_EVENTS] = since(pair.clock, pair_before)
        read_event(values, event, time)
        _write_features(features[i], values)
        _write_history(history[i], viewer, pair)
    return counts
