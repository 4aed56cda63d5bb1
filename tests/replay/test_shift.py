"""Copies of traffic are other people's, later turns new events of the same people."""

import msgspec
import pytest

from features.events import Event, decode, encode
from replay.recording import Record
from replay.shift import shifted

GIFT = Event("e1", "gift", 1_000, "r1", "s1", "v1", "x1", count=2, amount_minor=20, gift_tx_id="g1", combo_id="c1")
GIFT.coin_type = "paid"


def record(event: Event) -> Record:
    return Record((event.viewer_id or event.room_id).encode(), encode(event), 2, 9, [("row", b"3")], 1_001, 1_000)


def event(made: Record) -> Event:
    decoded = decode([made.value], [made.key])
    assert not decoded.rejects
    return decoded.events[0]


def test_the_first_copy_of_the_first_turn_is_the_record() -> None:
    original = record(GIFT)
    assert shifted(original, 0, 0, 0) is original


def test_a_copy_has_people_rooms_and_events_of_its_own() -> None:
    made = event(shifted(record(GIFT), 2, 0, 0))
    assert (made.viewer_id, made.room_id, made.streamer_id, made.session_id) == ("v1~2", "r1~2", "s1~2", "x1~2")
    assert (made.event_id, made.gift_tx_id, made.combo_id) == ("e1~0.2", "g1~0.2", "c1~0.2")
    assert (made.event_time_ms, made.amount_minor) == (1_000, 20)


def test_a_turn_has_the_same_people_later() -> None:
    later = shifted(record(GIFT), 0, 1, 5_000)
    made = event(later)
    assert (made.viewer_id, made.event_id, made.event_time_ms) == ("v1", "e1~1.0", 6_000)
    assert (later.timestamp_ms, later.event_time_ms, later.headers) == (6_001, 6_000, [("row", b"3")])


def test_events_of_a_room_keep_the_room_as_key() -> None:
    made = shifted(record(Event("e2", "raid", 1_000, "r1", "s1", viewers=3)), 1, 0, 0)
    assert made.key == b"r1~1"


def test_unknown_fields_stay_and_long_ids_stay_within_the_contract() -> None:
    value = msgspec.json.encode({"event_id": "e" * 64, "type": "enter", "viewer_id": "v" * 64, "new_field": [1]})
    made = msgspec.json.decode(shifted(Record(b"v" * 64, value, None, None, None, 1, 1), 3, 1, 0).value or b"")
    assert made["new_field"] == [1]
    assert max(len(made["event_id"]), len(made["viewer_id"])) <= 64
    assert made["viewer_id"].endswith("~3")


@pytest.mark.parametrize("value", [None, b"", b"no json", b"[1]", b"\xff"])
def test_what_is_no_event_keeps_its_bytes(value: bytes | None) -> None:
    assert shifted(Record(b"k", value, 0, 0, None, 1, None), 1, 1, 10).value == value
