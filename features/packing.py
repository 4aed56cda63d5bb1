"""Rows as bytes: small because most of a row is zero, and what is not is small.

A packed row is one byte for version and table, then the row's numbers by length: a number takes 0, 1, 3 or 8 bytes, two
bits say which, and four zeros in a row take no bits either:

    head | which groups of four are not all zero | two bits a number for those | the numbers' bytes | hashes

Times go in as their distance to the row's clock, and what is remembered of events as differences from one to the next.
Which fields, in which order, is data (`Layout`), so that packing and unpacking are the same walk in two directions.
No branch depends on a single number, which is what makes it fast.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled, inner
from features.rows import FREE_GIFT, PAIR_ROW, ROOM, ROW_VERSION, VIEWER, RowVersionError

TABLES: Final = ("viewer", "pair", "room")

# How a run of items goes in: as it is, as distance to the clock, as differences (the first to the clock or to 0), or
# byte by byte at the end. The last three kinds stop where the row's counter says that nothing was remembered yet.
PLAIN, AGE, TIMES, CHAIN, HASHES = range(5)
_LENGTHS: Final = np.array([0, 1, 3, 8], np.int64)


def _bytes_of(dtype: np.dtype[Any], name: str) -> slice:
    """Where a field lies in a row."""
    assert dtype.fields is not None
    field, offset = dtype.fields[name][:2]
    return slice(offset, offset + field.itemsize)


_TYPES: Final = _bytes_of(VIEWER, "past_type")


class Layout(NamedTuple):
    """How the rows of one table are packed."""

    head: int  # the first byte: version and table
    runs: NDArray[np.int64]  # (runs, 5): coding, log2 of an item's bytes, first item, items, where the counter is
    words: int  # numbers in a row, a multiple of 4
    max_bytes: int


def _layout(table: str, dtype: np.dtype[Any], fields: Sequence[tuple[Any, ...]]) -> Layout:
    runs, words, hashes = [], 0, 0
    for coding, name, *counter in fields:
        assert dtype.fields is not None
        field, offset = dtype.fields[name][:2]
        shift, items = field.base.itemsize.bit_length() - 1, int(np.prod(field.shape))
        runs.append((coding, shift, offset >> shift, items, dtype.fields[counter[0]][1] >> 3 if counter else -1))
        if coding == HASHES:
            hashes += items
        else:
            words += items
    words += -words % 4
    max_bytes = 1 + (words // 4 + 7) // 8 + words // 4 + 8 * words + 8 * hashes
    return Layout(ROW_VERSION << 2 | TABLES.index(table), np.array(runs, np.int64), words, max_bytes)


LAYOUTS: Final = {
    "viewer": _layout(
        "viewer",
        VIEWER,
        (
            (PLAIN, "clock"), (PLAIN, "seen"), (PLAIN, "total"), (PLAIN, "total_minor"), (PLAIN, "streamers"),
            (PLAIN, "visits_tipped"), (PLAIN, "visit_bits"), (AGE, "first"), (AGE, "last"),
            (PLAIN, "short"), (PLAIN, "short_minor"), (PLAIN, "long"), (PLAIN, "long_minor"),
            (TIMES, "past_time", "seen"), (CHAIN, "past_type", "seen"), (CHAIN, "past_place", "seen"),
            (CHAIN, "past_size", "seen"), (CHAIN, "past_minor", "seen"), (HASHES, "ids", "seen"),
        ),
    ),
    "pair": _layout(
        "pair",
        PAIR_ROW,
        (
            (PLAIN, "clock"), (PLAIN, "number"), (PLAIN, "total"), (PLAIN, "total_minor"), (PLAIN, "visits_tipped"),
            (PLAIN, "visit_bits"), (PLAIN, "visit_number"), (AGE, "first"), (AGE, "last"), (AGE, "visit_start"),
            (AGE, "visit_tip"), (PLAIN, "visit"), (PLAIN, "visit_minor"), (PLAIN, "counts"), (PLAIN, "minor"),
            (PLAIN, "room"), (PLAIN, "free_gift"), (PLAIN, "gifts"), (TIMES, "gift_time", "gifts"),
            (CHAIN, "gift_minor", "gifts"), (CHAIN, "gift_visit", "gifts"), (PLAIN, "gift_tx"),
            (HASHES, "gift_key", "gifts"), (HASHES, "gift_room", "gifts"),
        ),
    ),
    "room": _layout(
        "room",
        ROOM,
        (
            (PLAIN, "clock"), (PLAIN, "total"), (PLAIN, "total_minor"), (AGE, "first"), (AGE, "last_tip"),
            (AGE, "raid_time"), (PLAIN, "raid_size"), (AGE, "online_time"), (PLAIN, "online"),
            (PLAIN, "short"), (PLAIN, "short_minor"),
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
def _store(out: NDArray[np.uint8], at: int, word: Any) -> None:
    """Write 8 bytes, lowest first. Unsigned positions let the compiler do it in one move."""
    begin, bits = np.uint64(at), np.uint64(word)
    for k in range(np.uint64(8)):
        out[begin + k] = (bits >> (k << np.uint64(3))) & np.uint64(255)


@inner
def _load(data: NDArray[np.uint8], at: int) -> Any:
    """Read 8 bytes, lowest first."""
    begin, bits = np.uint64(at), np.uint64(0)
    for k in range(np.uint64(8)):
        bits |= np.uint64(data[begin + k]) << (k << np.uint64(3))
    return np.int64(bits)


@inner
def _gather(bytes8: Any, bytes4: Any, bytes1: Any, row: int, runs: NDArray[np.int64], words: NDArray[np.int64]) -> None:
    """Write a row's numbers, but for the hashes, as they are packed."""
    clock = bytes8[row, 0]
    n = 0
    for r in range(len(runs)):
        coding, shift, first, items, counter = runs[r, 0], runs[r, 1], runs[r, 2], runs[r, 3], runs[r, 4]
        if coding == PLAIN:
            if shift == 3:
                for j in range(items):
                    words[n + j] = bytes8[row, first + j]
            else:
                for j in range(items):
                    words[n + j] = bytes4[row, first + j]
        elif coding == AGE:
            for j in range(items):
                time = bytes8[row, first + j]
                words[n + j] = clock - time + 1 if time != 0 else 0
        elif coding != HASHES:
            held = min(bytes8[row, counter], items)
            before = clock if coding == TIMES else 0
            for j in range(held):
                value = _get(bytes8, bytes4, bytes1, shift, row, first + j)
                step = value - before
                words[n + j] = (step << 1) ^ (step >> 63)  # the sign goes to the lowest bit
                before = value
            words[n + held : n + items] = 0
        if coding != HASHES:
            n += items
    words[n:] = 0


@inner
def _scatter(
    bytes8: Any, bytes4: Any, bytes1: Any, row: int, runs: NDArray[np.int64], words: NDArray[np.int64]
) -> None:
    """Undo `_gather`, into a row of zeros."""
    clock = words[0]
    n = 0
    for r in range(len(runs)):
        coding, shift, first, items, counter = runs[r, 0], runs[r, 1], runs[r, 2], runs[r, 3], runs[r, 4]
        if coding == PLAIN:
            if shift == 3:
                for j in range(items):
                    bytes8[row, first + j] = words[n + j]
            else:
                for j in range(items):
                    bytes4[row, first + j] = words[n + j]
        elif coding == AGE:
            for j in range(items):
                age = words[n + j]
                bytes8[row, first + j] = clock + 1 - age if age != 0 else 0
        elif coding != HASHES:
            value: Any = clock if coding == TIMES else 0
            for j in range(min(bytes8[row, counter], items)):
                word = words[n + j]
                value += np.int64(np.uint64(word) >> np.uint64(1)) ^ -(word & 1)
                _set(bytes8, bytes4, bytes1, shift, row, first + j, value)
        if coding != HASHES:
            n += items


@compiled
def pack_rows(
    bytes8: NDArray[np.int64],
    bytes4: NDArray[np.int32],
    bytes1: NDArray[np.uint8],
    slots: NDArray[np.int32],
    runs: NDArray[np.int64],
    n_words: int,
    head: int,
    out: NDArray[np.uint8],
    ends: NDArray[np.int64],
) -> None:
    """Pack the rows at `slots` one after the other into `out`; `ends` receives where each ends.

    bytes8, bytes4, bytes1: the table's rows, one line each, as int64, int32 and uint8.
    """
    words = np.empty(n_words, np.int64)
    numbers = np.empty(8 * n_words + 8, np.uint8)
    groups = n_words // 4
    at = 0
    for i in range(len(slots)):
        row = slots[i]
        _gather(bytes8, bytes4, bytes1, row, runs, words)
        out[at] = head
        bitmap = at + 1
        at = bitmap + (groups + 7) // 8
        out[bitmap:at] = 0
        size: Any = 0
        for group in range(groups):
            a, b, c, d = words[4 * group], words[4 * group + 1], words[4 * group + 2], words[4 * group + 3]
            if a | b | c | d == 0:
                continue
            out[bitmap + (group >> 3)] |= 1 << (group & 7)
            bits: Any = 0
            for k in range(4):
                word = np.uint64(words[4 * group + k])
                code = np.int64(word != 0) + np.int64(word >= np.uint64(1 << 8)) + np.int64(word >= np.uint64(1 << 24))
                _store(numbers, size, word)
                size += _LENGTHS[code]
                bits |= code << (2 * k)
            out[at] = bits
            at += 1
        for j in range(size):
            out[at + j] = numbers[j]
        at += size
        for r in range(len(runs)):
            if runs[r, 0] == HASHES:
                for j in range(min(bytes8[row, runs[r, 4]], runs[r, 3])):
                    _store(out, at, bytes8[row, runs[r, 2] + j])
                    at += 8
        ends[i] = at


@compiled
def unpack_rows(
    bytes8: NDArray[np.int64],
    bytes4: NDArray[np.int32],
    bytes1: NDArray[np.uint8],
    slots: NDArray[np.int32],
    runs: NDArray[np.int64],
    n_words: int,
    data: NDArray[np.uint8],
    ends: NDArray[np.int64],
) -> int:
    """Unpack rows, which are zero before, from `data`; return how many were good before the first that is not.

    `data` has 8 bytes more than the rows take.
    """
    words = np.empty(n_words, np.int64)
    groups = n_words // 4
    begin = 0
    for i in range(len(slots)):
        row, end = slots[i], ends[i]
        bitmap = begin + 1
        control = bitmap + (groups + 7) // 8
        begin = end
        if control > end:
            return i
        at = control
        for group in range(groups):
            at += (data[bitmap + (group >> 3)] >> (group & 7)) & 1
        words[:] = 0
        for group in range(groups):
            if (data[bitmap + (group >> 3)] >> (group & 7)) & 1:
                for k in range(4):
                    length: Any = _LENGTHS[(data[control] >> (2 * k)) & 3] if control < end else 0
                    if at + length > end:
                        return i
                    if length > 0:
                        words[4 * group + k] = _load(data, at) & (-1 if length == 8 else (1 << (8 * length)) - 1)
                    at += length
                control += 1
        _scatter(bytes8, bytes4, bytes1, row, runs, words)
        for r in range(len(runs)):
            if runs[r, 0] == HASHES:
                for j in range(min(bytes8[row, runs[r, 4]], runs[r, 3])):
                    if at + 8 > end:
                        return i
                    bytes8[row, runs[r, 2] + j] = _load(data, at)
                    at += 8
        if at != end:
            return i
    return len(slots)


class RowBytes:
    """Packs and unpacks the rows of one array. Not to be shared between threads."""

    def __init__(self, table: str, rows: NDArray[Any]) -> None:
        lines = rows.view(np.uint8).reshape(len(rows), rows.itemsize)
        self.lines = lines  # (n, bytes of a row)
        self._items = (lines.view(np.int64), lines.view(np.int32), lines)
        self._table = table
        self._layout = LAYOUTS[table]
        self._out = np.empty(0, np.uint8)

    def pack(self, slots: NDArray[np.int32]) -> list[bytes]:
        """Return the rows at these slots as bytes."""
        n, layout = len(slots), self._layout
        if n == 0:
            return []
        if len(self._out) < n * layout.max_bytes + 8:
            self._out = np.empty(2 * n * layout.max_bytes + 8, np.uint8)
        ends = np.empty(n, np.int64)
        pack_rows(*self._items, slots, layout.runs, layout.words, layout.head, self._out, ends)
        stops = ends.tolist()
        data = self._out[: stops[-1]].tobytes()
        return [data[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]

    def unpack(self, slots: Sequence[int], blobs: Sequence[bytes]) -> None:
        """Read packed rows into slots whose rows are zero. Raises RowVersionError."""
        if not blobs:
            return
        layout = self._layout
        for blob in blobs:
            if not blob or blob[0] != layout.head:
                raise RowVersionError(_refusal(self._table, blob))
        data = np.frombuffer(b"".join((*blobs, bytes(8))), np.uint8)
        ends = np.cumsum([len(blob) for blob in blobs], dtype=np.int64)
        places = np.array(slots, np.int32)
        good = unpack_rows(*self._items, places, layout.runs, layout.words, data, ends)
        if good < len(blobs):
            raise _damaged(self._table, blobs[good], "it ends too early or too late")
        if self._table == "viewer":  # what the kernel looks up by these codes has no place for others
            unknown = np.flatnonzero((self.lines[places, _TYPES] > FREE_GIFT).any(axis=1))
            if unknown.size:
                raise _damaged(self._table, blobs[unknown[0]], "it remembers an event of a type that there is not")

    def unpack_readable(self, slots: Sequence[int], blobs: Sequence[bytes]) -> dict[int, RowVersionError]:
        """Unpack what can be read. Returns what is wrong with the others, by slot: their rows stay zero."""
        try:
            self.unpack(slots, blobs)
        except RowVersionError:
            self.lines[list(slots)] = 0
        else:
            return {}
        refused: dict[int, RowVersionError] = {}
        for slot, blob in zip(slots, blobs, strict=True):
            try:
                self.unpack([slot], [blob])
            except RowVersionError as error:
                self.lines[slot] = 0
                refused[slot] = error
        return refused


def _damaged(table: str, blob: bytes, how: str) -> RowVersionError:
    return RowVersionError(
        f"A stored {table} row of {len(blob)} bytes is damaged: {how}. Restore the store from a backup, or clear this "
        "group's keys and rebuild them from Kafka's retention."
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
