"""Every feature, once, in column order; the channels of the history; and the fingerprint of all that changes a value.

Counts, amounts and ages go through `lg`, a piecewise-linear log2 that is exact in integer arithmetic: for y = n + 1
and e = floor(log2 y), lg(n) = e + y / 2**e - 1. It equals log2 at powers of two, is monotone, and needs no maths
library, so that every machine gives the same bits.
"""

import math
from functools import cache
from typing import Final, NamedTuple

import xxhash

from features import rows
from features.events import BADGES, EVENT_TYPES
from features.quantities import LONG_WINDOWS, PAIR_WINDOWS, QUANTITIES, RECENT

KERNEL_VERSION: Final = 1  # raise it when the kernel computes something else from the same declarations
FUTURE_MS: Final = 2_000  # an event time is clamped to the record's broker time plus this
NEVER: Final = 40.0  # the value of an age that has no beginning; ages are capped below it
QUARTERS: Final = 96  # of an hour, in a day

# How an integer quantity becomes a float32.
LOG, AGE, RATIO, BIT, MEMBER, SINE, COSINE = range(7)
_TRANSFORMS: Final = ("log", "age", "ratio", "bit", "member", "sine", "cosine")


class Feature(NamedTuple):
    """One column of the feature matrix."""

    name: str
    description: str
    unit: str
    window: str
    source: str  # the quantity it is made of
    transform: int
    argument: int = 0  # RATIO: position of the divisor; BIT: which bit; MEMBER: a mask of type codes


class Channel(NamedTuple):
    """One number of each history entry."""

    name: str
    description: str


_POSITION: Final = {name: position for position, name in enumerate(QUANTITIES)}
_WORDS: Final = {
    "events": "events", "comments": "comments", "social": "likes, follows and shares",
    "intent": "gift panel openings and recharges", "tips": "tips (paid gifts and paid chats)", "minor": "tipped money",
    "subs": "subscriptions", "free": "gifts without money", "visits": "visits", "newcomers": "viewers not seen before",
}  # fmt: skip
_WHOSE: Final = {"viewer": "of the viewer", "pair": "of the viewer with this streamer", "room": "in the room"}


def _log(source: str, description: str, unit: str = "count", window: str = "") -> Feature:
    return Feature(source.replace(".", "_"), description, f"lg {unit}", window, source, LOG)


def _age(source: str, description: str) -> Feature:
    return Feature(source.replace(".", "_"), description, "lg ms", "", source, AGE)


def _ratio(name: str, over: str, under: str, description: str) -> Feature:
    return Feature(name, description, "share", "", over, RATIO, _POSITION[under])


def _counts(entity: str, window: str, kinds: str) -> list[Feature]:
    span = {"total": "ever", "visit": "in this visit"}.get(window, f"in {window}")
    return [
        _log(
            f"{entity}.{window}.{kind}",
            f"{_WORDS[kind]} {_WHOSE[entity]}, {span}",
            "minor units" if kind == "minor" else "count",
            window,
        )
        for kind in kinds.split()
    ]


def _recent(entity: str) -> list[Feature]:
    """Shares of recent visits with a tip, visits since the last one, and how many tips such a visit brings."""
    shares = [
        _ratio(
            f"{entity}_visits_tipped_{name}",
            f"{entity}.visits_tipped.{name}",
            f"{entity}.visits.{name}",
            f"share of visits {_WHOSE[entity]} with a tip, each weighing {over}/{under} of the one after it",
        )
        for name, (over, under) in RECENT.items()
    ]
    since = _log(
        f"{entity}.visits_since_tip",
        f"visits {_WHOSE[entity]} since the last one with a tip, {rows.VISIT_BITS} if none is remembered",
    )
    tips = _ratio(
        f"{entity}_tips_per_visit_tipped",
        f"{entity}.total.tips",
        f"{entity}.visits_tipped",
        f"tips {_WHOSE[entity]}, per visit with a tip",
    )
    return [*shares, since, tips]


def _member(name: str, types: str, description: str) -> Feature:
    mask = sum(1 << (rows.FREE_GIFT if name == "free_gift" else rows.TYPE_CODE[kind]) for kind in types.split())
    return Feature(f"event_is_{name}", description, "0 or 1", "", "event.type", MEMBER, mask)


FEATURES: Final[tuple[Feature, ...]] = (
    *_counts("viewer", "10s", "events comments"),
    *_counts("viewer", "1m", "events comments social intent"),
    *_counts("viewer", "5m", "events comments social intent tips minor free"),
    *_counts("viewer", "1h", "events comments social intent tips minor subs free visits"),
    *(feature for window in LONG_WINDOWS for feature in _counts("viewer", window, "events tips minor subs visits")),
    *_counts("viewer", "total", "events comments tips minor subs visits"),
    _age("viewer.age.events", "time since the viewer's event before this one"),
    _age("viewer.age.first", "time since the viewer's first event"),
    _age("viewer.age.comments", "time since the viewer's last comment"),
    _age("viewer.age.intent", "time since the viewer last opened the gift panel or recharged"),
    _age("viewer.age.tips", "time since the viewer's last tip"),
    _age("viewer.age.subs", "time since the viewer's last subscription"),
    _log("viewer.streamers", "streamers that the viewer ever visited"),
    _log("viewer.visits_tipped", "visits of the viewer that brought a tip"),
    _ratio("viewer_visits_tipped_share", "viewer.visits_tipped", "viewer.total.visits", "share of visits with a tip"),
    *_recent("viewer"),
    *_counts("pair", "1h", "tips minor"),
    *(feature for window in PAIR_WINDOWS[1:] for feature in _counts("pair", window, "events tips minor subs visits")),
    *_counts("pair", "total", "events tips minor subs visits"),
    _age("pair.age.events", "time since the viewer's event before this one with this streamer"),
    _age("pair.age.first", "time since the viewer's first event with this streamer"),
    _age("pair.age.tips", "time since the viewer's last tip to this streamer"),
    _age("pair.age.subs", "time since the viewer's last subscription to this streamer"),
    _log("pair.visits_tipped", "visits of the viewer to this streamer that brought a tip"),
    _ratio("pair_visits_tipped_share", "pair.visits_tipped", "pair.total.visits", "share of such visits with a tip"),
    *_recent("pair"),
    _age("pair.visit.age.start", "length of this visit so far"),
    *_counts("pair", "visit", "events comments social intent tips minor"),
    _age("pair.visit.age.tip", "time since the last tip of this visit"),
    *_counts("room", "10s", "events"),
    *_counts("room", "1m", "events comments social tips minor visits"),
    *_counts("room", "5m", "events comments social intent tips minor newcomers visits"),
    *_counts("room", "1h", "events comments social tips minor subs newcomers visits"),
    *_counts("room", "total", "tips minor"),
    _age("room.age.first", "age of the room"),
    _age("room.age.tip", "time since the last tip in the room"),
    _age("room.age.raid", "time since the last raid into the room"),
    _log("room.raid_size", "viewers whom the last raid brought", "viewers"),
    _log("room.online", "viewers online, as last reported", "viewers"),
    _member("presence", "enter leave heartbeat", "the event is an enter, a leave or a heartbeat"),
    _member("comment", "comment", "the event is a comment"),
    _member("social", "like follow share", "the event is a like, a follow or a share"),
    _member("intent", "gift_panel_open recharge", "the event opens the gift panel or recharges"),
    _member("tip", "gift paid_chat", "the event is a tip"),
    _member("sub", "subscribe", "the event is a subscription"),
    _member("free_gift", "gift", "the event is a gift without money"),
    _log("event.minor", "amount of the event", "minor units"),
    _log("event.text_len", "length of the comment", "characters"),
    _log("event.count", "count that the event carries"),
    _log("event.fan_level", "fan level that the event carries", "level"),
    _log("event.watch_ms", "watch time that the event carries", "ms"),
    *(
        Feature(f"event_badge_{badge}", f"the viewer wears {badge}", "0 or 1", "", "event.badges", BIT, bit)
        for bit, badge in enumerate(BADGES)
    ),
    Feature("hour_sine", "sine of the UTC time of day, by quarters of an hour", "", "", "event.quarter", SINE),
    Feature("hour_cosine", "cosine of the UTC time of day, by quarters of an hour", "", "", "event.quarter", COSINE),
)
N_FEATURES: Final = len(FEATURES)

HISTORY_LENGTH: Final = rows.HISTORY
HISTORY_CHANNELS: Final[tuple[Channel, ...]] = (
    Channel("type", "code of the event's type, 0 = no event; the last code is a gift without money"),
    Channel("age", "lg ms since the event"),
    Channel("gap", f"lg ms from the event before it to this one, {NEVER:g} for the oldest remembered"),
    Channel("amount", "lg minor units"),
    Channel("size", "lg of the comment's length, else of the count"),
    Channel("tip", "1 for a tip"),
    Channel("same_visit", "1 if it belongs to this visit"),
    Channel("same_streamer", "1 if it was with this streamer"),
)
N_CHANNELS: Final = len(HISTORY_CHANNELS)


def day_circle() -> list[tuple[float, float]]:
    """Return (sine, cosine) of each quarter of an hour of the day, rounded so that every maths library agrees."""
    angles = (2 * math.pi * quarter / QUARTERS for quarter in range(QUARTERS))
    return [(round(math.sin(angle), 6) + 0.0, round(math.cos(angle), 6) + 0.0) for angle in angles]


@cache
def fingerprint() -> str:
    """Return 16 hex digits that change whenever the same events could give another feature value."""
    parts = (
        KERNEL_VERSION, FUTURE_MS, NEVER, _TRANSFORMS, FEATURES, HISTORY_LENGTH, HISTORY_CHANNELS, QUANTITIES,
        EVENT_TYPES,
        rows.ROW_VERSION, rows.SHORT, rows.LONG, rows.PAIR, rows.KIND_OF_CODE, rows.IDS, rows.GIFTS,
        rows.VISIT_BITS, RECENT,
        rows.VIEWER.descr, rows.PAIR_ROW.descr, rows.ROOM.descr,
    )  # fmt: skip
    return xxhash.xxh3_64_hexdigest(repr(parts).encode())
