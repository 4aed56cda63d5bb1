"""Reading the three rows of an event into its quantities. All functions here compile into the kernel."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features import quantities as q
from features.catalogue import QUARTERS
from features.compiled import inner
from features.fold import LONG_RINGS, N_KINDS, N_LONG, PAIR_RINGS, SHORT_RINGS
from features.rows import DAY, LONG_VISITS, VISIT_BITS, VISITS

_STEP: Final = N_KINDS + 1  # quantities per window of a viewer or a room
_QUARTER: Final = DAY // QUARTERS


def _weights() -> NDArray[np.int64]:
    """Weight of a visit by fraction and by how many came after it, in whole numbers so that sums are exact."""
    weights = np.empty((len(q.RECENT), VISIT_BITS), np.int64)
    for row, (over, under) in zip(weights, q.RECENT.values(), strict=True):
        weight = 1 << 32
        for k in range(VISIT_BITS):
            row[k] = weight
            weight = weight * over // under
    return weights


_WEIGHTS: Final = _weights()
_KNOWN: Final = np.concatenate([np.zeros((len(_WEIGHTS), 1), np.int64), _WEIGHTS.cumsum(axis=1)], axis=1)


@inner
def since(now: int, then: int) -> int:
    """Return an age in ms; -1 = never."""
    return now - then if then > 0 else -1


@inner
def _read_visits(out: NDArray[np.int64], at: int, bits: int, visits: int) -> None:
    """Write the weights of the remembered visits, those with a tip and all, and how many came since one with a tip."""
    known = min(visits, VISIT_BITS)
    for r in range(len(_WEIGHTS)):
        out[at + 2 * r] = 0
        out[at + 2 * r + 1] = _KNOWN[r, known]
    last = at + 2 * len(_WEIGHTS)
    out[last] = VISIT_BITS
    if bits == 0:  # as for nearly everybody
        return
    for k in range(known - 1, -1, -1):
        if (bits >> k) & 1:
            for r in range(len(_WEIGHTS)):
                out[at + 2 * r] += _WEIGHTS[r, k]
            out[last] = k


@inner
def _sum_rings(out: NDArray[np.int64], at: int, counts: Any, minor: Any, rings: NDArray[np.int64]) -> None:
    """Write each ring's sums over its buckets: one for each kind, then the money."""
    kinds = counts.shape[1]
    for r in range(len(rings)):
        start = rings[r, 2]
        for kind in range(kinds):
            out[at + kind] = counts[start, kind]
        money = minor[start]
        for slot in range(start + 1, start + rings[r, 1]):
            for kind in range(kinds):
                out[at + kind] += counts[slot, kind]
            money += minor[slot]
        out[at + kinds] = money
        at += kinds + 1


@inner
def _read_short(out: NDArray[np.int64], at: int, row: Any) -> None:
    """Write the current bucket of the finest ring, then the sums of all rings."""
    counts, minor = row.short, row.short_minor
    current = SHORT_RINGS[0, 2] + row.clock // SHORT_RINGS[0, 0] % SHORT_RINGS[0, 1]
    for kind in range(N_KINDS):
        out[at + kind] = counts[current, kind]
    out[at + N_KINDS] = minor[current]
    _sum_rings(out, at + _STEP, counts, minor, SHORT_RINGS)


@inner
def read_viewer(out: NDArray[np.int64], viewer: Any) -> None:
    """Write the quantities of a viewer, as of its clock."""
    _read_short(out, q.VIEWER_SHORT, viewer)
    _sum_rings(out, q.VIEWER_LONG, viewer.long, viewer.long_minor, LONG_RINGS)
    for kind in range(N_KINDS):
        out[q.VIEWER_TOTAL + kind] = viewer.total[kind]
        out[q.VIEWER_AGE + kind] = since(viewer.clock, viewer.last[kind])
    out[q.VIEWER_TOTAL + N_KINDS] = viewer.total_minor
    out[q.VIEWER_AGE + N_KINDS] = since(viewer.clock, viewer.first)
    out[q.VIEWER_REST] = viewer.streamers
    out[q.VIEWER_REST + 1] = viewer.visits_tipped
    _read_visits(out, q.VIEWER_VISITS, viewer.visit_bits, viewer.total[VISITS])


@inner
def read_pair(out: NDArray[np.int64], pair: Any) -> None:
    """Write the quantities of a pair, as of its clock, which is its viewer's."""
    _sum_rings(out, q.PAIR_COUNTS, pair.counts, pair.minor, PAIR_RINGS)
    for kind in range(N_LONG):
        out[q.PAIR_TOTAL + kind] = pair.total[kind]
        out[q.PAIR_AGE + kind] = since(pair.clock, pair.last[kind])
    out[q.PAIR_TOTAL + N_LONG] = pair.total_minor
    out[q.PAIR_AGE + N_LONG] = since(pair.clock, pair.first)
    out[q.PAIR_REST] = pair.visits_tipped
    _read_visits(out, q.PAIR_VISITS, pair.visit_bits, pair.total[LONG_VISITS])
    for kind in range(N_KINDS):
        out[q.VISIT + kind] = pair.visit[kind]
    out[q.VISIT + N_KINDS] = pair.visit_minor
    out[q.VISIT_AGE] = since(pair.clock, pair.visit_start)
    out[q.VISIT_AGE + 1] = since(pair.clock, pair.visit_tip)


@inner
def read_room(out: NDArray[np.int64], room: Any) -> None:
    """Write the quantities of this partition's share of a room, as of its clock."""
    _read_short(out, q.ROOM_SHORT, room)
    for kind in range(N_KINDS):
        out[q.ROOM_TOTAL + kind] = room.total[kind]
    out[q.ROOM_TOTAL + N_KINDS] = room.total_minor
    out[q.ROOM_AGE] = since(room.clock, room.first)
    out[q.ROOM_AGE + 1] = since(room.clock, room.last_tip)
    out[q.ROOM_AGE + 2] = since(room.clock, room.raid_time)
    out[q.ROOM_REST] = room.raid_size
    out[q.ROOM_REST + 1] = room.online


@inner
def _add_window(out: NDArray[np.int64], at: int, others: Any, r: int, span: int, now: int) -> None:
    """Add the others' buckets of ring r that lie in the `span` buckets up to the one of `now`."""
    width, slots, start = SHORT_RINGS[r, 0], SHORT_RINGS[r, 1], SHORT_RINGS[r, 2]
    last, newest = now // width, others.clock // width
    for bucket in range(max(last - span, newest - slots) + 1, min(last, newest) + 1):
        slot = start + bucket % slots
        for kind in range(N_KINDS):
            out[at + kind] += others.short[slot, kind]
        out[at + N_KINDS] += others.short_minor[slot]


@inner
def add_others(out: NDArray[np.int64], room: Any, others: Any) -> None:
    """Add what other partitions know about the room, as of this partition's clock of it."""
    now = room.clock
    span = 1
    for window in range(len(SHORT_RINGS) + 1):
        r = max(window - 1, 0)
        _add_window(out, q.ROOM_SHORT + window * _STEP, others, r, span, now)
        span = SHORT_RINGS[min(window, len(SHORT_RINGS) - 1), 1]
    for kind in range(N_KINDS):
        out[q.ROOM_TOTAL + kind] += others.total[kind]
    out[q.ROOM_TOTAL + N_KINDS] += others.total_minor
    if others.first > 0:
        out[q.ROOM_AGE] = max(out[q.ROOM_AGE], now - others.first, 0)
    if others.last_tip > room.last_tip:
        out[q.ROOM_AGE + 1] = max(now - others.last_tip, 0)
    if others.raid_time > room.raid_time:
        out[q.ROOM_AGE + 2] = max(now - others.raid_time, 0)
        out[q.ROOM_REST] = others.raid_size
    if others.online_time > room.online_time:
        out[q.ROOM_REST + 1] = others.online


@inner
def read_event(out: NDArray[np.int64], event: Any, time: int) -> None:
    """Write the quantities of the event itself."""
    out[q.EVENT] = event.type
    out[q.EVENT + 1] = event.badges
    out[q.EVENT + 2] = event.minor
    out[q.EVENT + 3] = event.text_len
    out[q.EVENT + 4] = event.count
    out[q.EVENT + 5] = event.fan_level
    out[q.EVENT + 6] = event.watch
    out[q.EVENT + 7] = event.months
    out[q.EVENT + 8] = time % DAY // _QUARTER
