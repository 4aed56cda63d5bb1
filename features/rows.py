"""What is remembered about a viewer, a viewer with one streamer, and a room: fixed-size rows of integers.

Counts live in rings of time buckets. A ring has no head of its own: a row's `clock`, the newest event time that it has
seen, says which bucket is current, and bucket b sits in slot b % slots. A window is the current bucket and those before
it. Money is in minor units, time in ms, 0 = never. Rings of counts are [bucket][kind], so that a sum over buckets is
one vector addition each; the money of tips has rings of its own because it needs 64 bits.
"""

from typing import Final, NamedTuple

import numpy as np

from features.events import EVENT_TYPES

ROW_VERSION: Final = 2  # the first byte of a packed row; raise it with every change of what a packed row means

SECOND: Final = 1_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR


class Ring(NamedTuple):
    """A ring of `slots` buckets of `width` ms, from index `start` on in its row's arrays."""

    width: int
    slots: int
    start: int


def _rings(*shapes: tuple[int, int]) -> tuple[Ring, ...]:
    rings, start = [], 0
    for width, slots in shapes:
        rings.append(Ring(width, slots, start))
        start += slots
    return tuple(rings)


_LONG = ((2 * HOUR, 12), (DAY, 7), (5 * DAY, 12))
SHORT: Final = _rings((10 * SECOND, 6), (MINUTE, 5), (5 * MINUTE, 12))  # viewer and room: 10 s and 1 min, 5 min, 1 h
LONG: Final = _rings(*_LONG)  # viewer: 24 h, 7 d, 60 d
PAIR: Final = _rings((5 * MINUTE, 12), *_LONG)  # pair: 1 h, 24 h, 7 d, 60 d
SHORT_SLOTS: Final = sum(ring.slots for ring in SHORT)
LONG_SLOTS: Final = sum(ring.slots for ring in LONG)
PAIR_SLOTS: Final = sum(ring.slots for ring in PAIR)

# Kinds of activity. `free` counts gifts that cost nothing (coins given or from the bag); a room counts newcomers,
# viewers who never visited its streamer before, in the same place. A visit starts when a viewer's events with a
# streamer come from another room than before.
KINDS: Final = ("events", "comments", "social", "intent", "tips", "subs", "free", "visits")
ROOM_KINDS: Final = ("events", "comments", "social", "intent", "tips", "subs", "newcomers", "visits")
LONG_KINDS: Final = ("events", "tips", "subs", "visits")
EVENTS, COMMENTS, SOCIAL, INTENT, TIPS, SUBS, FREE, VISITS = range(8)
NEWCOMERS: Final = FREE
LONG_EVENTS, LONG_TIPS, LONG_SUBS, LONG_VISITS = range(4)

# Codes of event types: 0 is none, then the contract's order, and last the gift that costs nothing.
TYPE_CODE: Final = {name: code for code, name in enumerate(EVENT_TYPES, start=1)}
FREE_GIFT: Final = len(EVENT_TYPES) + 1
_KIND_OF_TYPE = {
    "comment": COMMENTS, "like": SOCIAL, "follow": SOCIAL, "share": SOCIAL, "gift_panel_open": INTENT,
    "recharge": INTENT, "gift": TIPS, "paid_chat": TIPS, "subscribe": SUBS,
}  # fmt: skip
KIND_OF_CODE: Final = (-1, *(_KIND_OF_TYPE.get(name, -1) for name in EVENT_TYPES), FREE)

IDS: Final = 32  # event ids remembered per viewer
HISTORY: Final = 32  # events remembered per viewer
GIFTS: Final = 8  # paid gifts remembered per pair
VISIT_BITS: Final = 64  # visits remembered per viewer and per pair: whether they brought a tip

VIEWER: Final = np.dtype(
    [
        ("clock", "i8"),
        ("first", "i8"),
        ("seen", "i8"),  # events taken in so far: where the rings of ids and history stand
        ("short", "i4", (SHORT_SLOTS, len(KINDS))),
        ("short_minor", "i8", (SHORT_SLOTS,)),
        ("long", "i4", (LONG_SLOTS, len(LONG_KINDS))),
        ("long_minor", "i8", (LONG_SLOTS,)),
        ("total", "i8", (len(KINDS),)),
        ("total_minor", "i8"),
        ("last", "i8", (len(KINDS),)),  # time of the newest event of a kind
        ("streamers", "i8"),  # pairs so far: the number of the newest one
        ("visits_tipped", "i8"),  # visits with at least one tip
        ("visit_bits", "i8"),  # a bit for each of the last visits, the newest lowest: 1 = with a tip
        ("ids", "u8", (IDS,)),  # hashes of event ids
        ("past_time", "i8", (HISTORY,)),
        ("past_minor", "i8", (HISTORY,)),
        ("past_size", "i4", (HISTORY,)),  # text length of a comment, else the count
        ("past_place", "i8", (HISTORY,)),  # which visit of which pair
        ("past_type", "u1", (HISTORY,)),
    ],
    align=True,
)

PAIR_ROW: Final = np.dtype(
    [
        ("clock", "i8"),
        ("first", "i8"),
        ("number", "i8"),  # this pair is its viewer's n-th, from 1
        ("visits_tipped", "i8"),
        ("visit_bits", "i8"),  # as the viewer's, for visits to this streamer
        ("visit_number", "i8"),  # this visit is its viewer's n-th, from 1
        ("counts", "i4", (PAIR_SLOTS, len(LONG_KINDS))),
        ("minor", "i8", (PAIR_SLOTS,)),
        ("total", "i8", (len(LONG_KINDS),)),
        ("total_minor", "i8"),
        ("last", "i8", (len(LONG_KINDS),)),
        ("room", "u8"),  # this visit: hash of the room
        ("visit_start", "i8"),
        ("visit_tip", "i8"),  # time of its newest tip
        ("visit", "i8", (len(KINDS),)),
        ("visit_minor", "i8"),
        ("free_gift", "u8"),  # hash of the newest free gift, so that its combo counts once
        ("gifts", "i8"),  # paid gifts so far: where the ring of gifts stands
        ("gift_key", "u8", (GIFTS,)),  # hash of combo_id, else of gift_tx_id
        ("gift_tx", "u8", (GIFTS,)),  # hash of the newest gift_tx_id of a combo, 0 without a combo
        ("gift_room", "u8", (GIFTS,)),
        ("gift_visit", "i8", (GIFTS,)),  # number of the visit
        ("gift_minor", "i8", (GIFTS,)),  # -1: taken back
        ("gift_time", "i8", (GIFTS,)),  # of its first frame
    ],
    align=True,
)

ROOM: Final = np.dtype(
    [
        ("clock", "i8"),
        ("first", "i8"),
        ("short", "i4", (SHORT_SLOTS, len(ROOM_KINDS))),
        ("short_minor", "i8", (SHORT_SLOTS,)),
        ("total", "i8", (len(ROOM_KINDS),)),
        ("total_minor", "i8"),
        ("last_tip", "i8"),
        ("raid_time", "i8"),
        ("raid_size", "i8"),
        ("online_time", "i8"),
        ("online", "i8"),
    ],
    align=True,
)


class RowVersionError(ValueError):
    """A stored row cannot be read by this build; the message says why and what to do."""
