"""Rows as bytes: small because most of a row is zero, and what is not is small.

A packed row is one byte for version and table, then numbers in a fixed order. Times are packed as their distance to
the row's clock, rings from the current bucket back, the history as differences from one event to the one before. A
number is one byte where it can be, zeros are one run, and the last run of zeros is left out. What to write in which
order is data (`Layout`), so that packing and unpacking are the same walk in two directions.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled, inner
from features.rows import (
    LONG,
    PAIR,
    PAIR_ROW,
    ROOM,
    ROW_VERSION,
    SHORT,
    VIEWER,
    Ring,
    RowVersionError,
)

# How a run of fields is written.
PLAIN, AGE, RING, CHAIN, CHAIN_OF_TIMES, HASHES = range(6)

TABLES: Final = ("viewer", "pair", "room")
_ONE_BYTE: Final = 184  # below: the number itself; up to 247: two bytes, 6 + 8 bits; then 1 to 8 bytes follow
_TWO_BYTES: Final = 248


class Layout(NamedTuple):
    """How the rows of one table are packed."""

    head: int  # the first byte: version and table
    runs: NDArray[np.int64]  # (runs, 6): coding, log2 of an item's bytes, first item, items, step, width or counter
    max_bytes: int


def _layout(table: str, dtype: np.dtype[Any], fields: Sequence[tuple[Any, ...]]) -> Layout:
    runs, words = [], 0
    for coding, name, *more in fields:
        assert dtype.fields is not None
        field, offset = dtype.fields[name][:2]
        size, shape = field.base.itemsize, field.shape
        shift = size.bit_length() - 1
        first = offset >> shift
        if coding == RING:
            kinds = shape[1] if len(shape) > 1 else 1
            ring: Ring
            for ring in more[0]:
                for kind in range(kinds):
                    run = (coding, shift, first + ring.start * kinds + kind, ring.slots, kinds, ring.width)
                    runs.append(run)
        else:
            count = int(np.prod(shape))
            seen = dtype.fields[more[0]][1] >> 3 if more else 0
            runs.append((coding, shift, first, count, 1, seen))
        words += int(np.prod(shape))
    return Layout(ROW_VERSION << 2 | TABLES.index(table), np.array(runs, np.int64), 1 + 9 * words + 2)


LAYOUTS: Final = {
    "viewer": _layout(
        "viewer",
        VIEWER,
        (
            (PLAIN, "clock"), (PLAIN, "seen"), (PLAIN, "total"), (PLAIN, "total_minor"), (PLAIN, "streamers"),
            (PLAIN, "visits_tipped"), (AGE, "first"), (AGE, "last"),
            (RING, "short", SHORT), (RING, "short_minor", SHORT), (RING, "long", LONG), (RING, "long_minor", LONG),
            (CHAIN_OF_TIMES, "past_time", "seen"), (CHAIN, "past_type", "seen"), (CHAIN, "past_pair", "seen"),
            (CHAIN, "past_visit", "seen"), (CHAIN, "past_size", "seen"), (CHAIN, "past_minor", "seen"),
            (HASHES, "ids", "seen"),
        ),
    ),
    "pair": _layout(
        "pair",
        PAIR_ROW,
        (
            (PLAIN, "clock"), (PLAIN, "room"), (PLAIN, "number"), (PLAIN, "total"), (PLAIN, "total_minor"),
            (PLAIN, "visits_tipped"), (AGE, "first"), (AGE, "last"), (AGE, "visit_start"), (AGE, "visit_tip"),
            (PLAIN, "visit"), (PLAIN, "visit_minor"), (RING, "counts", PAIR), (RING, "minor", PAIR),
            (PLAIN, "free_gift"), (PLAIN, "gifts"), (CHAIN_OF_TIMES, "gift_time", "gifts"),
            (CHAIN, "gift_minor", "gifts"), (CHAIN, "gift_visit", "gifts"), (HASHES, "gift_key", "gifts"),
            (PLAIN, "gift_tx"), (HASHES, "gift_room", "gifts"),
        ),
    ),
    "room": _layout(
        "room",
        ROOM,
        (
            (PLAIN, "clock"), (PLAIN, "total"), (PLAIN, "total_minor"), (AGE, "first"), (AGE, "last_tip"),
            (AGE, "raid_time"), (PLAIN, "raid_size"), (AGE, "online_time"), (PLAIN, "online"),
            (RING, "short", SHORT), (RING, "short_minor", SHORT),
        ),
    ),
}  # fmt: skip


@inner
def _get(bytes8: Any, bytes4: Any, bytes1: Any, shift: int, row: int, item: int) -> Any:
    if shift == 3:
        return bytes8[row, item]
    if shift == 2:
        return np.int64(bytes4[row, item])
    return np.int64(bytes1[row, item])


@inner
def _set(bytes8: Any, bytes4: Any, bytes1: Any, shift: int, row: int, item: int, value: Any) -> None:
    if shift == 3:
        bytes8[row, item] = value
    elif shift == 2:
        bytes4[row, item] = value
    else:
        bytes1[row, item] = value


@inner
def _write_zeros(out: NDArray[np.uint8], at: int, zeros: int) -> int:
    """Write a run of zeros: 0, then its length in bytes that add up (255 = and more)."""
    if zeros > 0:
        out[at] = 0
        at += 1
        while zeros >= 255:
            out[at] = 255
            at += 1
            zeros -= 255
        out[at] = zeros
        at += 1
    return at


@inner
def _write(out: NDArray[np.uint8], at: int, value: int) -> int:
    """Write a number that is not zero, its sign in the lowest bit."""
    word = np.uint64((value << 1) ^ (value >> 63))
    if word < _ONE_BYTE:
        out[at] = word
        return at + 1
    if word < (_TWO_BYTES - _ONE_BYTE) << 8:
        out[at] = np.uint64(_ONE_BYTE) + (word >> np.uint64(8))
        out[at + 1] = word & np.uint64(255)
        return at + 2
    length = 0
    while word > 0:
        length += 1
        out[at + length] = word & np.uint64(255)
        word >>= np.uint64(8)
    out[at] = _TWO_BYTES - 1 + length
    return at + 1 + length


@compiled
def pack_rows(
    bytes8: NDArray[np.int64],
    bytes4: NDArray[np.int32],
    bytes1: NDArray[np.uint8],
    slots: NDArray[np.int32],
    runs: NDArray[np.int64],
    head: int,
    out: NDArray[np.uint8],
    ends: NDArray[np.int64],
) -> None:
    """Pack the rows at `slots` one after the other into `out`; `ends` receives where each ends.

    bytes8, bytes4, bytes1: the table's rows, one line each, as int64, int32 and uint8.
    """
    at = 0
    for i in range(slots.shape[0]):
        row = slots[i]
        clock = bytes8[row, 0]
        out[at] = head
        at += 1
        zeros = 0
        for r in range(runs.shape[0]):
            coding, shift, first = runs[r, 0], runs[r, 1], runs[r, 2]
            items, step, a = runs[r, 3], runs[r, 4], runs[r, 5]
            position = 0
            if coding == RING:
                position = clock // a % items
            elif coding >= CHAIN:
                position = (bytes8[row, a] - 1) % items
                items_held = min(bytes8[row, a], items)
            before: Any = clock if coding == CHAIN_OF_TIMES else 0
            n = items_held if coding >= CHAIN else items
            for j in range(n):
                if coding <= AGE:
                    value = _get(bytes8, bytes4, bytes1, shift, row, first + j)
                    if coding == AGE and value != 0:
                        value = clock - value + 1
                else:
                    item = position - j
                    if item < 0:
                        item += items
                    value = _get(bytes8, bytes4, bytes1, shift, row, first + item * step)
                    if coding == HASHES:
                        at = _write_zeros(out, at, zeros)
                        zeros = 0
                        for _ in range(8):
                            out[at] = value & 255
                            value >>= 8
                            at += 1
                        continue
                    if coding != RING:
                        value, before = before - value, value
                if value == 0:
                    zeros += 1
                else:
                    at = _write_zeros(out, at, zeros)
                    zeros = 0
                    at = _write(out, at, value)
        ends[i] = at


@inner
def _read(data: NDArray[np.uint8], at: int, end: int) -> tuple[Any, Any, Any]:
    """Read one number or run of zeros; return (number, zeros, where the next starts; -1 = the bytes are cut short)."""
    if at >= end:
        return 0, 1 << 40, at
    lead = np.int64(data[at])
    at += 1
    if lead == 0:
        zeros = 0
        while at < end and data[at] == 255:
            zeros += 255
            at += 1
        if at >= end:
            return 0, 1, -1
        return 0, zeros + np.int64(data[at]), at + 1
    length: Any = 0
    word = np.uint64(lead)
    if lead >= _TWO_BYTES:
        length = lead - _TWO_BYTES + 1
        word = np.uint64(0)
    elif lead >= _ONE_BYTE:
        length = 1
        word = np.uint64(lead - _ONE_BYTE)
    if at + length > end:
        return 0, 1, -1
    if lead >= _TWO_BYTES:
        for k in range(length):
            word |= np.uint64(data[at + k]) << np.uint64(8 * k)
    elif length == 1:
        word = (word << np.uint64(8)) | np.uint64(data[at])
    return np.int64(word >> np.uint64(1)) ^ -np.int64(word & np.uint64(1)), 0, at + length


@compiled
def unpack_rows(
    bytes8: NDArray[np.int64],
    bytes4: NDArray[np.int32],
    bytes1: NDArray[np.uint8],
    slots: NDArray[np.int32],
    runs: NDArray[np.int64],
    data: NDArray[np.uint8],
    ends: NDArray[np.int64],
) -> int:
    """Unpack rows, which are zero before, from `data`; return how many were good before the first that is not."""
    begin = 0
    for i in range(slots.shape[0]):
        row, at, end = slots[i], begin + 1, ends[i]
        begin = end
        zeros = 0
        clock = 0
        for r in range(runs.shape[0]):
            coding, shift, first = runs[r, 0], runs[r, 1], runs[r, 2]
            items, step, a = runs[r, 3], runs[r, 4], runs[r, 5]
            position = 0
            n = items
            if coding == RING:
                position = clock // a % items
            elif coding >= CHAIN:
                position = (bytes8[row, a] - 1) % items
                n = min(bytes8[row, a], items)
            before: Any = clock if coding == CHAIN_OF_TIMES else 0
            for j in range(n):
                if coding == HASHES:
                    if zeros > 0 or at + 8 > end:
                        return i
                    value = np.int64(0)
                    for k in range(8):
                        value |= np.int64(data[at + k]) << (8 * k)
                    at += 8
                elif zeros > 0:
                    value = np.int64(0)
                    zeros -= 1
                else:
                    value, zeros, at = _read(data, at, end)
                    if at < 0:
                        return i
                    if zeros > 0:
                        zeros -= 1
                item = j
                if coding >= RING:
                    item = position - j
                    if item < 0:
                        item += items
                if coding == AGE and value != 0:
                    value = clock + 1 - value
                elif coding in (CHAIN, CHAIN_OF_TIMES):
                    value = before - value
                    before = value
                _set(bytes8, bytes4, bytes1, shift, row, first + item * step, value)
            if r == 0:
                clock = bytes8[row, 0]
        if at != end:
            return i
    return len(slots)


class Words(NamedTuple):
    """The same rows, a line each, as items of 8, 4 and 1 bytes."""

    bytes8: NDArray[np.int64]
    bytes4: NDArray[np.int32]
    bytes1: NDArray[np.uint8]


def words_of(rows: NDArray[Any]) -> Words:
    """Return views of the rows (n,) of a table."""
    lines = rows.view(np.uint8).reshape(len(rows), rows.itemsize)
    return Words(lines.view(np.int64), lines.view(np.int32), lines)


def pack(table: str, words: Words, slots: NDArray[np.int32]) -> list[bytes]:
    """Return the rows at these slots as bytes."""
    if not len(slots):
        return []
    layout = LAYOUTS[table]
    out = np.empty(len(slots) * layout.max_bytes, np.uint8)
    ends = np.empty(len(slots), np.int64)
    pack_rows(*words, slots, layout.runs, layout.head, out, ends)
    stops = ends.tolist()
    data = out[: stops[-1]].tobytes()
    return [data[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


def unpack(table: str, words: Words, slots: Sequence[int], blobs: Sequence[bytes]) -> None:
    """Read packed rows into slots whose rows are zero. Raises RowVersionError."""
    if not blobs:
        return
    layout = LAYOUTS[table]
    for blob in blobs:
        if not blob or blob[0] != layout.head:
            raise RowVersionError(_refusal(table, blob))
    data = np.frombuffer(b"".join(blobs), np.uint8)
    ends = np.cumsum([len(blob) for blob in blobs], dtype=np.int64)
    good = unpack_rows(*words, np.array(slots, np.int32), layout.runs, data, ends)
    if good < len(blobs):
        raise RowVersionError(
            f"A stored {table} row of {len(blobs[good])} bytes is damaged: it ends too early or too late. "
            "Restore the store from a backup, or clear this group's keys and rebuild them from Kafka's retention."
        )


def _refusal(table: str, blob: bytes) -> str:
    if not blob:
        return f"A stored {table} row is empty: a row has at least its version byte."
    version, other = blob[0] >> 2, blob[0] & 3
    if version == ROW_VERSION:
        name = TABLES[other] if other < len(TABLES) else "unknown"
        return f"A stored {table} row is marked as a {name} row: something else wrote its key."
    return (
        f"A stored {table} row has version {version}; this build reads version {ROW_VERSION}. "
        "Run the build that wrote it, or let this one fill keys of its own from Kafka's retention or a recording."
    )
