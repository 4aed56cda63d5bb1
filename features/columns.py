"""A batch's events as integer columns: what the kernel reads."""

import struct
from typing import Final

import numpy as np

_FIELDS: Final = (
    ("time", "i8"),  # ms
    ("broker", "i8"),  # ms, when Kafka took the record; <= 0 = unknown
    ("id", "u8"),  # hash of event_id
    ("gift", "u8"),  # hash of gift_tx_id, 0 = none
    ("combo", "u8"),  # hash of combo_id, 0 = none
    ("room_hash", "u8"),
    ("minor", "i8"),
    ("watch", "i8"),  # ms
    ("audience", "i8"),  # raid: viewers, room_stats: online; -1 = not said
    ("viewer", "i4"),  # slots; -1 = none
    ("pair", "i4"),
    ("room", "i4"),
    ("others", "i4"),
    ("text_len", "i4"),
    ("count", "i4"),
    ("fan_level", "i4"),
    ("months", "i4"),
    ("type", "i4"),  # rows.TYPE_CODE, rows.FREE_GIFT
    ("badges", "i4"),  # bits in the order of events.BADGES
)
_CODES: Final = {"i8": "q", "u8": "Q", "i4": "i"}

COLUMNS: Final = np.dtype(list(_FIELDS), align=True)
LINE: Final = struct.Struct("=" + "".join(_CODES[kind] for _, kind in _FIELDS))
assert LINE.size == COLUMNS.itemsize
