"""A score file: what a model said of each scored event of a recording, in Parquet.

| column | type | holds |
|---|---|---|
| row | int64 | the record's header `row` if the recording has such headers, else its place in the recording, from 0 |
| event_id, viewer_id, room_id | text | of the event |
| event_time_ms | int64 | when it happened |
| partition, offset | int32, int64 | where it was read |
| p | float64 | probability of a tip within the longest horizon |
| p_60, ... | float64 | the same within each shorter horizon, in seconds |
| value | int64 | expected tips within the longest horizon, minor units |
| tier, mode | text | as published |
| latency_us | int64 | from the record's Kafka timestamp to the model's answer; null where nobody waited |

The metadata names the model and its tiers' thresholds.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engines.manifest import Tier
from replay.recording import UNREADABLE, PartialFile, RecordingError, said

_KEY: Final = b"tipstream.scores"
_ROW_GROUP: Final = 131_072
_REPEATED: Final = ["viewer_id", "room_id", "tier", "mode"]  # columns whose values come again and again
_TEXT: Final = pa.dictionary(pa.int32(), pa.string())


class About(msgspec.Struct, frozen=True):
    """Whose scores they are."""

    model: str
    """Name and version."""
    engine: str
    horizons_s: tuple[int, ...]
    """Ascending, seconds."""
    tiers: tuple[Tier, ...]
    source: str
    """What was scored."""

    def p(self, horizon_s: int) -> str:
        """Name of the column that holds the probability within a horizon."""
        return "p" if horizon_s == self.horizons_s[-1] else f"p_{horizon_s}"


def schema(about: About) -> pa.Schema:
    """Return the columns of a score file."""
    fields: list[tuple[str, pa.DataType]] = [
        ("row", pa.int64()),
        ("event_id", pa.string()),
        ("viewer_id", pa.string()),
        ("room_id", pa.string()),
        ("event_time_ms", pa.int64()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        *((about.p(horizon), pa.float64()) for horizon in about.horizons_s),
        ("value", pa.int64()),
        ("tier", _TEXT),
        ("mode", _TEXT),
        ("latency_us", pa.int64()),
    ]
    return pa.schema(fields, {_KEY: msgspec.json.encode(about)})


def batch(schema: pa.Schema, columns: Sequence[Any]) -> pa.RecordBatch:
    """Put rows together: one sequence or Arrow array for each column."""
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values, field.type)
        for field, values in zip(schema, columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class ScoreWriter:
    """Writes a score file, which appears under its name once it is complete: on leaving the `with` block unharmed."""

    def __init__(self, path: Path, about: About) -> None:
        """Open the file. Raises RecordingError."""
        self.rows = 0
        self._schema = schema(about)
        self._held: list[pa.RecordBatch] = []
        self._waiting = 0
        self._file = PartialFile(path, self._schema, use_dictionary=_REPEATED)

    def write(self, columns: Sequence[Any]) -> None:
        """Append rows, one sequence or Arrow array for each column of `schema`."""
        self._held.append(batch(self._schema, columns))
        self._waiting += len(self._held[-1])
        if self._waiting >= _ROW_GROUP:
            self._flush()

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Complete the file, or remove what there is of it."""
        try:
            if kind is None:
                self._flush()
                self._file.complete()
        finally:
            self._file.drop()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._held, self._schema).unify_dictionaries()
            self._file.write(table)
        self.rows += self._waiting
        self._held.clear()
        self._waiting = 0


class Scores:
    """A score file in memory: a hundred bytes or two a row."""

    def __init__(self, path: Path, about: About, table: pa.Table) -> None:
        """Raises RecordingError if there is no score."""
        if not table.num_rows:
            raise RecordingError(f"{path} holds no scores: no event of its recording has a viewer.")
        self.path = path
        self.about = about
        self.table = table.combine_chunks()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a score file. Raises RecordingError in words."""
        try:
            with pq.ParquetFile(path) as file:  # and no folder of files, as other ways to read take it
                table = file.read()
        except FileNotFoundError as error:
            raise RecordingError(f"There is no file {path}.") from error
        except UNREADABLE as error:
            raise RecordingError(f"{path} is no Parquet file, or was not written to its end: {said(error)}.") from error
        metadata = table.schema.metadata or {}
        if _KEY not in metadata:
            raise RecordingError(
                f"{path} holds no scores. Make a score file with `tipstream-replay score`, or record the topic of "
                "scores with `tipstream-replay record --topic`."
            )
        try:
            about = msgspec.json.decode(metadata[_KEY], type=About)
        except ValueError as error:  # no JSON, no UTF-8, or of another release
            raise RecordingError(f"{path} does not say what its scores are ({error}): score again.") from error
        return cls(path, about, table)

    def column(self, name: str) -> NDArray[Any]:
        """Return a column of numbers, (n,)."""
        values: NDArray[Any] = self.table[name].to_numpy()
        return values

    def text(self, name: str) -> list[str]:
        """Return a column of text, n entries."""
        return cast(list[str], self.table[name].to_pylist())

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return some of the scores."""
        part = copy.copy(self)
        part.table = self.table.take(rows)
        return part
