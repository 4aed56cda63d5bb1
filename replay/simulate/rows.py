"""One simulated event as a row of numbers, before it becomes an event of the contract."""

from collections.abc import Iterator
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from features.events import BADGES, COIN_TYPES, EVENT_TYPES, ROOM_LEVEL, Event

TYPE: Final = {name: i for i, name in enumerate(EVENT_TYPES)}
COIN: Final = {name: i for i, name in enumerate(COIN_TYPES)}
SOURCES: Final = ("feed", "follow", "search", "share", "raid")
PLATFORMS: Final = ("android", "ios", "web", "tv")
REGIONS: Final = ("us", "br", "jp", "de", "gb", "fr", "kr", "id", "mx", "in", "es", "tr")
CATEGORIES: Final = ("chatting", "music", "gaming", "dance", "outdoor", "talent")

ROW: Final = np.dtype(
    [
        ("arrive_ms", "i8"),  # when the record reaches Kafka
        ("time_ms", "i8"),
        ("number", "i8"),  # of the event; a duplicate repeats it
        ("type", "u1"),
        ("viewer", "i4"),  # -1 for room-level events
        ("streamer", "i4"),
        ("broadcast", "i4"),  # of the streamer: 0, 1, ...
        ("visit", "i8"),
        ("badges", "u1"),
        ("fan", "u1"),
        ("platform", "u1"),
        ("region", "u1"),
        ("source", "u1"),
        ("count", "i4"),  # likes, items, characters of a comment, audience: by type
        ("amount", "i8"),  # minor units; for a gift, unit price times count
        ("span_ms", "i8"),  # watched, or duration
        ("gift", "i8"),  # number of the transaction, and of its combo
        ("combo", "u1"),  # 0 no combo, 1 one more frame follows, 2 the last frame
        ("coin", "u1"),
        ("months", "i2"),
        ("p", "f4", 2),  # true chance of a tip within 60 and 600 s; NaN where nobody can tip
    ]
)
Rows = NDArray[Any]
_BADGE_SETS = [tuple(name for bit, name in enumerate(BADGES) if mask >> bit & 1) or None for mask in range(8)]


def rows(n: int, kind: str, **columns: Any) -> Rows:
    """Return n rows of one type; columns not given are zero, `p` NaN."""
    made = np.zeros(n, ROW)
    made["type"] = TYPE[kind]
    made["p"] = np.nan
    for name, values in columns.items():
        made[name] = values
    return made


def events(batch: Rows, prefix: str) -> list[Event]:
    """Return the rows as events of the contract, in their order. `prefix` makes event ids of seeds differ."""
    made: list[Event | None] = [None] * len(batch)
    for kind in np.unique(batch["type"]).tolist():
        at = np.flatnonzero(batch["type"] == kind)
        part = batch[at]
        name = EVENT_TYPES[kind]
        these = _for_room(part, name, prefix) if name in ROOM_LEVEL else _by_viewer(part, name, prefix)
        if name in _FILL:
            _FILL[name](part, these, prefix)
        for i, event in zip(at.tolist(), these, strict=True):
            made[i] = event
    return cast(list[Event], made)


def _columns(part: Rows, *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(part[name].tolist() for name in names), strict=True)


def _by_viewer(part: Rows, kind: str, prefix: str) -> list[Event]:
    return [
        Event(f"{prefix}{number}", kind, time_ms, f"r{streamer}-{broadcast}", f"s{streamer}", f"v{viewer}", f"{visit}")
        for number, time_ms, streamer, broadcast, viewer, visit in _columns(
            part, "number", "time_ms", "streamer", "broadcast", "viewer", "visit"
        )
    ]


def _for_room(part: Rows, kind: str, prefix: str) -> list[Event]:
    return [
        Event(f"{prefix}{number}", kind, time_ms, f"r{streamer}-{broadcast}", f"s{streamer}", duration_ms=span or None)
        for number, time_ms, streamer, broadcast, span in _columns(
            part, "number", "time_ms", "streamer", "broadcast", "span_ms"
        )
    ]


def _presence(part: Rows, made: list[Event], _: str) -> None:
    for event, span in zip(made, part["span_ms"].tolist(), strict=True):
        event.watch_ms = span


def _enter(part: Rows, made: list[Event], _: str) -> None:
    _standing(part, made, _)
    for event, (platform, region, source) in zip(made, _columns(part, "platform", "region", "source"), strict=True):
        event.platform, event.region, event.source = PLATFORMS[platform], REGIONS[region], SOURCES[source]


def _standing(part: Rows, made: list[Event], _: str) -> None:
    for event, (badges, fan) in zip(made, _columns(part, "badges", "fan"), strict=True):
        event.badges, event.fan_level = _BADGE_SETS[badges], fan or None


def _comment(part: Rows, made: list[Event], _: str) -> None:
    _standing(part, made, _)
    for event, length in zip(made, part["count"].tolist(), strict=True):
        event.text_len = length


def _like(part: Rows, made: list[Event], _: str) -> None:
    for event, count in zip(made, part["count"].tolist(), strict=True):
        event.count = count


def _gift(part: Rows, made: list[Event], prefix: str) -> None:
    _standing(part, made, prefix)
    columns = _columns(part, "count", "amount", "gift", "combo", "coin")
    for event, (count, amount, gift, combo, coin) in zip(made, columns, strict=True):
        event.count, event.amount_minor, event.unit_price = count, amount, amount // count
        event.gift_tx_id, event.gift_id = f"{prefix}g{gift}", f"g{amount // count}"
        event.coin_type = COIN_TYPES[coin]
        if combo:
            event.combo_id, event.combo_end = f"{prefix}c{gift}", combo == 2


def _reversal(part: Rows, made: list[Event], prefix: str) -> None:
    for event, gift in zip(made, part["gift"].tolist(), strict=True):
        event.gift_tx_id = f"{prefix}g{gift}"


def _payment(part: Rows, made: list[Event], _: str) -> None:
    _standing(part, made, _)
    for event, (amount, months) in zip(made, _columns(part, "amount", "months"), strict=True):
        event.amount_minor = amount
        if months:
            event.tier, event.months = 1, months


def _crowd(part: Rows, made: list[Event], _: str) -> None:
    for event, count in zip(made, part["count"].tolist(), strict=True):
        event.viewers = count


def _audience(part: Rows, made: list[Event], _: str) -> None:
    for event, (count, streamer) in zip(made, _columns(part, "count", "streamer"), strict=True):
        event.online, event.category = count, CATEGORIES[streamer % len(CATEGORIES)]


_FILL: Final = {
    "enter": _enter,
    "heartbeat": _presence,
    "leave": _presence,
    "comment": _comment,
    "like": _like,
    "recharge": _payment,
    "gift": _gift,
    "gift_reversal": _reversal,
    "subscribe": _payment,
    "paid_chat": _payment,
    "raid": _crowd,
    "room_start": _audience,
    "room_end": _audience,
    "room_stats": _audience,
}
