"""Cutting a recording into batches: in order, of a fixed size, and ended where partitions tell each other of rooms."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from replay.importers.twitch_tape import ROW_HEADER
from replay.kafka import key_partition
from replay.recording import Recording, RecordingError, said
from replay.simulate.recorded import CHANCE_HEADER
from scorer.record import Record

ROOM_MS: Final = 500
"""How often partitions tell each other of rooms: twice `features.room_refresh_ms`, for both waits of the service."""

_LEAP_MS: Final = 3_600_000
_COLUMNS: Final = ("key", "value", "partition", "offset", "headers", "timestamp_ms")
_CHUNK: Final = 16_384  # records read from the file at once


class Replayed(NamedTuple):
    """A record of a recording, as the pipeline wants it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    row: int
    """What its score goes by; -1 for a record that a recording with header `row` does not name."""
    chance: float
    """True chance of a tip within the longest horizon, where a simulator told it, else NaN."""


class Time(NamedTuple):
    """Record time."""

    now_ms: int = 0
    """It never goes back."""
    last_ms: int = 2**63 - 1
    """Timestamp of the last record; of none, so late that the first one is believed."""


class Taken(NamedTuple):
    """The records of one batch."""

    interval: int
    """In which stretch of record time they are: between two of these, partitions tell each other of rooms."""
    records: dict[int, list[Record]]
    """By partition, in offset order."""


def partitions_of(recording: Recording, partitions: int) -> set[int]:
    """Find in which partitions records are: where they were read, else one of `partitions` by key."""
    found: set[int | None] = set()
    for batch in recording.columns(1 << 20, ["partition"]):
        found.update(pc.unique(batch.column("partition")).to_pylist())
    recorded = {number for number in found if number is not None}
    return recorded | set(range(partitions)) if None in found or not found else recorded


class Taker:
    """Takes batches out of a recording."""

    def __init__(
        self,
        *,
        partitions: int,
        size: int,
        alone: bool,
        only: int | None = None,
        since: Time = Time(),  # noqa: B008 -- immutable
    ) -> None:
        """Records without a partition get one of `partitions` by key.

        `alone` says that all are in one partition, to which nobody tells anything; `only` takes the records of one
        partition and passes over the others, in the same intervals. Record time goes on from `since`.
        """
        self._partitions = partitions
        self._size = size
        self._alone = alone
        self._only = only
        self.time = since
        """Record time so far: the latest timestamp that is believed."""

    def take(self, recording: Recording) -> Iterator[Taken]:
        """Cut a recording into batches."""
        first, named = 0, None
        ends: Counter[int] = Counter()  # next offset of each partition, for records that never were on Kafka
        for batch in recording.columns(_CHUNK, _COLUMNS):
            columns = {name: batch.column(name) for name in batch.schema.names}
            times = columns["timestamp_ms"].to_numpy()
            clock = self._clock(times)
            keys = columns["key"].to_pylist()
            partition = _partitions(columns["partition"], keys, self._partitions)
            offset = _offsets(columns["offset"], partition, ends)
            rows = _rows(columns["headers"])
            if named is None:
                named = bool((rows >= 0).any())
            if not named:
                rows = np.arange(first, first + len(keys))
            first += len(keys)
            records: list[Record] = list(
                map(
                    Replayed, offset.tolist(), times.tolist(), keys, columns["value"].to_pylist(), rows.tolist(),
                    _chances(columns["headers"]),
                )
            )  # fmt: skip
            interval = np.zeros(len(records), np.int64) if self._alone else clock // ROOM_MS
            if self._only is not None:
                mine = np.flatnonzero(partition == self._only)
                records = [records[i] for i in mine]
                partition, interval = partition[mine], interval[mine]
            yield from self._batches(records, partition, interval)

    def _clock(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return record time as of each record, (n,): timestamps of several partitions cross.

        What is more than an hour ahead may be a producer's broken clock: it is believed once two records in a row agree
        on it. Else record time would stand still until the others have caught up, and with it all that hangs on it.
        """
        now, last = self.time
        clock = np.maximum.accumulate(np.maximum(times, now))
        if (np.diff(clock, prepend=now) > _LEAP_MS).any():
            for i, at in enumerate(times.tolist()):
                believed = at if at <= now + _LEAP_MS else max(min(at, last), now + ROOM_MS)
                clock[i] = now = max(now, believed)
                last = at
        self.time = Time(int(clock[-1]), int(times[-1]))
        return clock

    def _batches(
        self, records: list[Record], partition: NDArray[np.int64], interval: NDArray[np.int64]
    ) -> Iterator[Taken]:
        edges = [0, *(np.flatnonzero(np.diff(interval)) + 1).tolist(), len(records)]
        for begin, end in itertools.pairwise(edges):
            for start in range(begin, end, self._size):
                stop = min(start + self._size, end)
                yield Taken(int(interval[start]), _by_partition(records[start:stop], partition[start:stop]))


def _by_partition(records: list[Record], partition: NDArray[np.int64]) -> dict[int, list[Record]]:
    present = np.unique(partition).tolist()
    if len(present) == 1:
        return {present[0]: records}
    return {number: [records[i] for i in np.flatnonzero(partition == number)] for number in present}


def _partitions(recorded: pa.Array[Any], keys: Sequence[bytes | None], partitions: int) -> NDArray[np.int64]:
    """As recorded, else by key; (n,)."""
    found = recorded.fill_null(-1).to_numpy().astype(np.int64)
    if partitions == 1:
        found[found < 0] = 0
    for i in np.flatnonzero(found < 0).tolist():
        found[i] = key_partition(keys[i] or b"", partitions)
    return found


def _offsets(recorded: pa.Array[Any], partition: NDArray[np.int64], ends: Counter[int]) -> NDArray[np.int64]:
    """As recorded, else one after the other from `ends` on; (n,)."""
    offset: NDArray[np.int64] = recorded.fill_null(-1).to_numpy().copy()
    for number in np.unique(partition[offset < 0]).tolist():
        unknown = np.flatnonzero((partition == number) & (offset < 0))
        offset[unknown] = ends[number] + np.arange(len(unknown))
        ends[number] += len(unknown)
    return offset


def _rows(headers: Any) -> NDArray[np.int64]:
    """Return what the header `row` says, (n,); -1 for records without it. Raises RecordingError."""
    rows = np.full(len(headers), -1, np.int64)
    values, at = _header(headers, ROW_HEADER)
    try:
        rows[at] = values.cast(pa.string()).cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise RecordingError(f"A record's header `{ROW_HEADER}` is no number: {said(error)}.") from error
    return rows


def _chances(headers: Any) -> Sequence[float]:
    """Return what a simulator's header says of the longest horizon, n entries; NaN for records without it.

    Raises RecordingError for a header of this name that says something else.
    """
    chances = [math.nan] * len(headers)
    values, at = _header(headers, CHANCE_HEADER)
    for i, value in zip(at.tolist(), values.to_pylist(), strict=True):
        try:
            chances[i] = float((value or b"").rpartition(b",")[2].rstrip(b"]"))
        except ValueError as error:
            raise RecordingError(f"A record's header `{CHANCE_HEADER}` is no list of chances: {value!r}.") from error
    return chances


def _header(headers: Any, name: str) -> tuple[Any, NDArray[np.int64]]:
    """Return the values of one header, and of which records they are."""
    names, values = headers.flatten().flatten()
    mine = pc.equal(names, pa.scalar(name))
    return values.filter(mine), pc.list_parent_indices(headers).filter(mine).to_numpy()
