"""The same traffic once more, by other people: how a recording is multiplied."""

from typing import Any, Final

import msgspec
import xxhash

from replay.recording import Record

_MOST: Final = 64  # characters of an id in the contract
_PEOPLE: Final = ("viewer_id", "room_id", "streamer_id", "session_id")
_ACTS: Final = ("event_id", "gift_tx_id", "combo_id")
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def shifted(record: Record, copy: int, turn: int, later_ms: int) -> Record:
    """Return the record as the `copy`th set of people causes it, in the `turn`th playing, `later_ms` later.

    People and rooms of a copy get ids of their own and stay the same from turn to turn; events, gifts and combos are
    new in each. Copy 0 of turn 0 is the record itself. A value that is no JSON object keeps its bytes.
    """
    if not copy and not turn:
        return record
    record = record._replace(
        timestamp_ms=record.timestamp_ms + later_ms,
        event_time_ms=None if record.event_time_ms is None else record.event_time_ms + later_ms,
    )
    try:
        value: Any = _decode(record.value or b"")
    except (msgspec.DecodeError, RecursionError):
        return record
    if not isinstance(value, dict):
        return record
    key = record.key
    if copy:
        same = next((name for name in ("viewer_id", "room_id") if _bytes(value.get(name)) == key), None)
        _mark(value, _PEOPLE, f"~{copy}")
        key = _bytes(value[same]) if same else key
    _mark(value, _ACTS, f"~{turn}.{copy}")
    if isinstance(value.get("event_time_ms"), int):
        value["event_time_ms"] += later_ms
    return record._replace(key=key, value=_encode(value))


def _mark(value: dict[str, Any], names: tuple[str, ...], mark: str) -> None:
    for name in names:
        text = value.get(name)
        if isinstance(text, str):
            fits = len(text) + len(mark) <= _MOST
            value[name] = (text if fits else xxhash.xxh3_128_hexdigest(text.encode())) + mark


def _bytes(text: object) -> bytes | None:
    return text.encode() if isinstance(text, str) else None
