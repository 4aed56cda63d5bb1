"""The event contract: what a record on `live.events.v1` holds, its bounds, and decoding it.

An unknown type is counted and ignored, an unknown field ignored, so that producers can move first; anything else that
is wrong makes the record a reject, with a short reason for the metric and a sentence for the person who reads it.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

MAX_EVENT_BYTES: Final = 16 * 1024

VIEWER_TYPES: Final = (
    "enter", "leave", "heartbeat",
    "comment", "like", "follow", "unfollow", "share",
    "gift_panel_open", "gift_panel_close", "recharge",
    "gift", "subscribe", "paid_chat", "gift_reversal", "erase",
)  # fmt: skip
ROOM_TYPES: Final = ("raid", "room_start", "room_end", "room_stats", "pk_start", "pk_end", "red_packet")
EVENT_TYPES: Final[tuple[str, ...]] = VIEWER_TYPES + ROOM_TYPES
ROOM_LEVEL: Final = frozenset(ROOM_TYPES)
BADGES: Final = ("subscriber", "supporter", "premium", "moderator", "broadcaster")
COIN_TYPES: Final = ("paid", "free", "bag")

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64, description="printable text")]
Word = Annotated[str, msgspec.Meta(max_length=32)]
Count = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
Audience = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]
Minor = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000_000, description="minor units of the currency")]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=30 * 86_400_000)]
Timestamp = Annotated[int, msgspec.Meta(ge=1, le=4_102_444_800_000, description="Unix time in ms, before 2100")]


class Event(msgspec.Struct, omit_defaults=True, gc=False):
    """One thing that happened: a viewer's act or, for the room-level types, something about the room.

    `room_id` is one broadcast, `streamer_id` the channel it belongs to. Which optional fields a type carries is in the
    contract's table; a field that a type does not use is ignored.
    """

    event_id: Id
    type: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    event_time_ms: Timestamp
    room_id: Id
    streamer_id: Id
    viewer_id: Id | None = None
    session_id: Id | None = None
    platform: Word | None = None
    region: Word | None = None
    badges: Annotated[tuple[Word, ...], msgspec.Meta(max_length=16)] | None = None
    fan_level: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None
    source: Word | None = None
    watch_ms: Milliseconds | None = None
    text_len: Count | None = None
    count: Count | None = None
    amount_minor: Minor | None = None
    gift_tx_id: Id | None = None
    gift_id: Id | None = None
    unit_price: Minor | None = None
    coin_type: Literal["paid", "free", "bag"] | None = None
    combo_id: Id | None = None
    combo_end: bool | None = None
    tier: Annotated[int, msgspec.Meta(ge=0, le=1_000)] | None = None
    months: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None
    viewers: Audience | None = None
    online: Audience | None = None
    category: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    duration_ms: Milliseconds | None = None


class Reject(NamedTuple):
    """A record that is no event. `index` is its position in the input, `reason` a metric label, `detail` a sentence."""

    index: int  # type: ignore[assignment]  # the word that fits, though tuple has a method of that name
    reason: str
    detail: str


class Decoded(NamedTuple):
    """What `decode` made of n records: len(events) + len(rejects) + unknown == n."""

    events: list[Event]
    index: list[int]  # type: ignore[assignment]  # index[i] is the position in the input of events[i]
    rejects: list[Reject]
    unknown: int  # records of a type that this build does not know


class _Typed(msgspec.Struct):
    type: str


_event = msgspec.json.Decoder(Event).decode
_typed = msgspec.json.Decoder(_Typed).decode
_encode = msgspec.json.Encoder().encode
_KNOWN = frozenset(EVENT_TYPES)
_VIEWER_LEVEL = frozenset(VIEWER_TYPES)
_BOUND = re.compile(r"[<>]=|length")


def encode(event: Event) -> bytes:
    """Return the event as the contract's JSON; fields that are None are left out."""
    return _encode(event)


def decode(values: Sequence[bytes | None], keys: Sequence[bytes | None]) -> Decoded:
    """Decode records, given their values and keys. Never raises for what a record holds."""
    events: list[Event] = []
    index: list[int] = []
    rejects: list[Reject] = []
    unknown = 0
    for i, value in enumerate(values):
        if not value:
            rejects.append(Reject(i, "empty", "The record has no value: an event is a JSON object."))
            continue
        if len(value) > MAX_EVENT_BYTES:
            detail = f"The record has {len(value)} bytes: at most {MAX_EVENT_BYTES} are read."
            rejects.append(Reject(i, "oversize", detail))
            continue
        try:
            event = _event(value)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            if _is_unknown(value):
                unknown += 1
            else:
                rejects.append(_undecodable(i, error))
            continue
        if event.type not in _KNOWN:
            unknown += 1
            continue
        fault = _fault(event, keys[i])
        if fault is None:
            events.append(event)
            index.append(i)
        else:
            rejects.append(Reject(i, *fault))
    return Decoded(events, index, rejects, unknown)


def _is_unknown(value: bytes) -> bool:
    """Tell whether a record that is no Event has a type of its own, which may have other fields."""
    try:
        return _typed(value).type not in _KNOWN
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False


def _undecodable(i: int, error: Exception) -> Reject:
    if isinstance(error, RecursionError):
        return Reject(i, "syntax", "The record nests too deep: an event is one flat JSON object.")
    if isinstance(error, UnicodeDecodeError):
        return Reject(i, "syntax", f"The record is not UTF-8: {error}.")
    if not isinstance(error, msgspec.ValidationError):
        return Reject(i, "syntax", f"The record is not JSON: {error}.")
    reason = "bounds" if _BOUND.search(str(error)) else "schema"
    return Reject(i, reason, f"The record does not fit the event contract: {error}.")


def _fault(event: Event, key: bytes | None) -> tuple[str, str] | None:
    """Return (reason, detail) for what no single field's bounds can say, or None if the event is good."""
    viewer = event.viewer_id
    if not (event.event_id.isprintable() and event.room_id.isprintable() and event.streamer_id.isprintable()):
        return "id", "An id holds a character that cannot be printed: ids are printable text."
    if event.type not in _VIEWER_LEVEL:
        return None
    if viewer is None:
        return "schema", f"The event has no `viewer_id`: only {', '.join(ROOM_TYPES)} may go without."
    if not viewer.isprintable():
        return "id", "`viewer_id` holds a character that cannot be printed: ids are printable text."
    if key is None or key != viewer.encode():
        return "key", "The record's key is not its `viewer_id`: produce viewer events with key = viewer_id in UTF-8."
    if event.type == "gift" and (event.gift_tx_id is None or event.amount_minor is None or event.coin_type is None):
        return "schema", "A gift must carry `gift_tx_id`, `amount_minor` and `coin_type`."
    if event.type == "gift_reversal" and event.gift_tx_id is None:
        return "schema", "A gift_reversal must carry the `gift_tx_id` of the gift that it takes back."
    if event.type == "paid_chat" and event.amount_minor is None:
        return "schema", "A paid_chat must carry `amount_minor`."
    return None
