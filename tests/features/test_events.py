"""The contract: what is an event, what is a reject and why, what is passed over."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.events import EVENT_TYPES, MAX_EVENT_BYTES, ROOM_LEVEL, VIEWER_TYPES, Decoded, Event, decode, encode


def fields(**changes: Any) -> dict[str, Any]:
    base = {
        "event_id": "e1",
        "type": "comment",
        "event_time_ms": 1_700_000_000_000,
        "room_id": "r1",
        "streamer_id": "s1",
        "viewer_id": "v1",
    }
    return {name: value for name, value in (base | changes).items() if value is not ...}


def decode_one(value: bytes | None, key: bytes | None = b"v1") -> Decoded:
    return decode([value], [key])


def reason(value: bytes | None, key: bytes | None = b"v1") -> str:
    decoded = decode_one(value, key)
    assert decoded.events == []
    (reject,) = decoded.rejects
    assert reject.detail.endswith(".")
    return reject.reason


def test_every_type_survives_the_wire() -> None:
    for kind in EVENT_TYPES:
        event = Event("e1", kind, 5, "r1", "s1", count=3, amount_minor=100, gift_tx_id="t1", coin_type="paid")
        if kind not in ROOM_LEVEL:
            event.viewer_id = "v1"
            event.badges = ("subscriber",)
        assert decode_one(encode(event)).events == [event]


def test_what_is_none_is_not_on_the_wire() -> None:
    wire = json.loads(encode(Event("e1", "comment", 5, "r1", "s1", viewer_id="v1")))
    assert list(wire) == ["event_id", "type", "event_time_ms", "room_id", "streamer_id", "viewer_id"]


def test_null_is_the_same_as_left_out() -> None:
    wire = json.dumps(fields(text_len=None, amount_minor=None, badges=None)).encode()
    assert decode_one(wire).events == [Event(**fields())]


def test_positions_lead_back_to_the_records() -> None:
    good = json.dumps(fields()).encode()
    decoded = decode([None, good, b'{"type":"hologram"}', b"{", good], [b"v1"] * 5)

    assert decoded.index == [1, 4]
    assert [reject.index for reject in decoded.rejects] == [0, 3]
    assert decoded.unknown == 1


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b" " * (MAX_EVENT_BYTES + 1), "oversize"),
        (b"{", "syntax"),
        (b"not json", "syntax"),
        (b"\xff\xfe", "syntax"),
        (b'{"a":' * 3_000, "syntax"),
        (b'{"event_id":"\xff","type":"comment","event_time_ms":1,"room_id":"r","streamer_id":"s"}', "syntax"),
        (b"[]", "schema"),
        (b"{}", "schema"),
        (b"null", "schema"),
    ],
)
def test_what_is_no_event_says_why(value: bytes | None, why: str) -> None:
    assert reason(value) == why


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"event_time_ms": 0}, "bounds"),
        ({"event_time_ms": 4_102_444_800_001}, "bounds"),
        ({"event_time_ms": 10**30}, "bounds"),
        ({"event_time_ms": "now"}, "schema"),
        ({"amount_minor": -1}, "bounds"),
        ({"amount_minor": 10**12 + 1}, "bounds"),
        ({"amount_minor": 9.99}, "schema"),
        ({"count": 100_001}, "bounds"),
        ({"event_id": ""}, "bounds"),
        ({"event_id": "x" * 65}, "bounds"),
        ({"event_id": ...}, "schema"),
        ({"room_id": ...}, "schema"),
        ({"room_id": 7}, "schema"),
        ({"event_id": "a\nb"}, "id"),
        ({"room_id": "a\x00b"}, "id"),
        ({"viewer_id": "a\x7fb"}, "id"),
        ({"viewer_id": ...}, "schema"),
        ({"viewer_id": "v2"}, "key"),
        ({"badges": ["x"] * 17}, "bounds"),
        ({"type": "gift"}, "schema"),
        ({"type": "gift", "gift_tx_id": "t", "amount_minor": 5}, "schema"),
        ({"type": "gift", "gift_tx_id": "t", "amount_minor": 5, "coin_type": "gold"}, "schema"),
        ({"type": "gift_reversal"}, "schema"),
        ({"type": "paid_chat"}, "schema"),
    ],
)
def test_an_event_out_of_bounds_says_why(change: dict[str, Any], why: str) -> None:
    viewer = change.get("viewer_id")
    key = viewer.encode() if isinstance(viewer, str) and why != "key" else b"v1"
    assert reason(json.dumps(fields(**change)).encode(), key) == why


def test_the_key_must_be_there_for_viewers_and_may_be_anything_for_rooms() -> None:
    assert reason(json.dumps(fields()).encode(), None) == "key"
    for key in (None, b"r1", b"anything"):
        assert decode_one(json.dumps(fields(type="raid", viewer_id=...)).encode(), key).rejects == []


def test_ids_may_be_in_any_script() -> None:
    wire = json.dumps(fields(viewer_id="観客-七")).encode()
    assert decode_one(wire, "観客-七".encode()).rejects == []


@pytest.mark.parametrize(
    "wire",
    [b'{"type":"hologram"}', b'{"type":"hologram","event_time_ms":"later"}', json.dumps(fields(type="wave")).encode()],
)
def test_a_type_of_tomorrow_is_counted_and_no_reject(wire: bytes) -> None:
    assert decode_one(wire) == ([], [], [], 1)


def test_a_field_of_tomorrow_is_ignored() -> None:
    assert decode_one(json.dumps(fields(mood={"happy": [1, 2]})).encode()).events == [Event(**fields())]


@given(st.lists(st.binary(max_size=80) | st.sampled_from([json.dumps(fields()).encode(), b'{"type":"x"}'])))
def test_every_record_is_accounted_for(values: list[bytes]) -> None:
    decoded = decode(values, [b"v1"] * len(values))

    assert len(decoded.events) == len(decoded.index)
    assert len(decoded.events) + len(decoded.rejects) + decoded.unknown == len(values)


@given(
    st.dictionaries(
        st.sampled_from(Event.__struct_fields__),
        st.none() | st.integers() | st.text(max_size=70) | st.floats() | st.lists(st.text(max_size=5)) | st.booleans(),
    )
)
def test_nothing_in_a_record_raises(change: dict[str, Any]) -> None:
    decoded = decode_one(msgspec.json.encode(fields(**change)))
    assert len(decoded.events) + len(decoded.rejects) + decoded.unknown == 1


def test_types_are_of_a_viewer_or_of_a_room() -> None:
    assert set(VIEWER_TYPES) | ROOM_LEVEL == set(EVENT_TYPES)
    assert not set(VIEWER_TYPES) & ROOM_LEVEL
