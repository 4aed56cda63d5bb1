"""What partitions tell each other about rooms, in files, for passes over one partition each.

In service, and in a pass over all partitions, shares of rooms go through the store. Where each partition has a pass of
its own, perhaps on another machine, each first writes down what it tells, and when; then each reads, as its own time
goes on, what the others told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from features.store import MemoryStore
from replay.recording import writing

_FIELDS: Final[list[tuple[str, pa.DataType]]] = [
    ("interval", pa.int64()), ("room", pa.string()), ("share", pa.binary())
]  # fmt: skip
_SCHEMA: Final = pa.schema(_FIELDS)
_ROW_GROUP: Final = 65_536
_READ: Final = 4_096


class Telling(MemoryStore):
    """Rows in memory; writes down the shares that are published, and tells nothing of others'."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._interval = 0
        self._rows: list[tuple[int, str, bytes]] = []
        with writing(path):
            self._file = pq.ParquetWriter(path, _SCHEMA, compression="zstd")

    def at(self, interval: int) -> None:
        """Note that what is published next is as of the end of this interval."""
        self._interval = interval

    async def publish_shares(self, shares: Mapping[int, Mapping[str, bytes]]) -> None:
        self._rows += [(self._interval, room, blob) for rooms in shares.values() for room, blob in rooms.items()]
        if len(self._rows) >= _ROW_GROUP:
            self._flush()

    async def read_shares(self, rooms: Sequence[str]) -> list[dict[int, bytes]]:
        return [{} for _ in rooms]

    async def close(self) -> None:
        """End the file; raises RecordingError, as all does that writes."""
        self._flush()
        with writing(self._path):
            self._file.close()

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
            with writing(self._path):
                self._file.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA))
        self._rows.clear()


class Told(MemoryStore):
    """Rows in memory; knows what the other partitions had told by the end of an interval."""

    def __init__(self, files: Mapping[int, Path]) -> None:
        """`files` are those that other partitions wrote, by partition."""
        super().__init__()
        self._rooms: defaultdict[str, dict[int, bytes]] = defaultdict(dict)
        self._ahead = {number: _rows(path) for number, path in files.items()}
        self._next = {number: next(rows, None) for number, rows in self._ahead.items()}

    def at(self, interval: int) -> None:
        """Read on, to the end of this interval."""
        for number, rows in self._ahead.items():
            following = self._next[number]
            while following is not None and following[0] <= interval:
                self._rooms[following[1]][number] = following[2]
                following = next(rows, None)
            self._next[number] = following

    async def publish_shares(self, shares: Mapping[int, Mapping[str, bytes]]) -> None:
        pass

    async def read_shares(self, rooms: Sequence[str]) -> list[dict[int, bytes]]:
        return [dict(self._rooms.get(room, {})) for room in rooms]


def _rows(path: Path) -> Iterator[tuple[int, str, bytes]]:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(_READ):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
