"""A recording: the records of a topic in a Parquet file, as Kafka held them.

| column | type | holds |
|---|---|---|
| key, value | binary | the record's bytes, untouched; null where Kafka had none |
| partition, offset | int32, int64 | where it was read; null for records that were never on Kafka |
| headers | list of (key text, value binary) | in order; null for none |
| timestamp_ms | int64 | the record's Kafka timestamp: of creation or of the broker's append, as the topic is set |
| event_time_ms | int64 | when the event happened; null where the value does not tell |

Rows are in the order in which they are to be played. The file's metadata says that it is a recording, of which version,
and what made it. Reading and writing hold one row group at a time, however long the file is.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

VERSION: Final = 1
ROW_GROUP: Final = 65_536
_VERSION_KEY: Final = b"tipstream.recording"
_SOURCE_KEY: Final = b"tipstream.source"

UNREADABLE: Final = (OSError, pa.ArrowException, UnicodeDecodeError)
"""What Arrow says to a file that may be anything."""

Headers = Sequence[tuple[str, bytes]]

_FIELDS: Final[list[pa.Field[Any]]] = [
    pa.field("key", pa.binary()),
    pa.field("value", pa.binary()),
    pa.field("partition", pa.int32()),
    pa.field("offset", pa.int64()),
    pa.field("headers", pa.list_(pa.struct([pa.field("key", pa.string()), pa.field("value", pa.binary())]))),
    pa.field("timestamp_ms", pa.int64(), nullable=False),
    pa.field("event_time_ms", pa.int64()),
]
SCHEMA: Final = pa.schema(_FIELDS)


class RecordingError(Exception):
    """A file that cannot be read as a recording, or a place where none can be written."""


class Record(NamedTuple):
    """One row."""

    key: bytes | None
    value: bytes | None
    partition: int | None
    offset: int | None
    headers: Headers | None
    timestamp_ms: int
    event_time_ms: int | None


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in words what keeps a file or folder from being written: RecordingError instead of OSError."""
    try:
        yield
    except OSError as error:
        raise RecordingError(f"{path} cannot be written: {error.strerror or said(error)}.") from error


def said(error: Exception) -> str:
    """Return what an error says, for the middle of a sentence."""
    return str(error).rstrip(".")


class PartialFile:
    """A Parquet file that appears under its name once it is complete, and of which nothing is left otherwise.

    Until then it is locked: two who write under one name would leave a mixture of both.
    """

    def __init__(self, path: Path, schema: pa.Schema, **options: Any) -> None:
        """Begin it; raises RecordingError."""
        if path.is_dir():
            raise RecordingError(f"{path} cannot be written: it is a folder.")
        self._path = path
        self._partial = path.with_name(path.name + ".part")
        with writing(path):
            self._bytes = self._own()
            self._file = pq.ParquetWriter(self._bytes, schema, compression="zstd", **options)

    def write(self, rows: pa.Table) -> None:
        """Write a row group; raises RecordingError."""
        with writing(self._path):
            self._file.write_table(rows, row_group_size=rows.num_rows)

    def complete(self) -> None:
        """End it and give it its name; raises RecordingError."""
        with writing(self._path):
            self._file.close()
            self._bytes.flush()
            self._partial.replace(self._path)
            self._bytes.close()

    def drop(self) -> None:
        """Remove what there is of it, unless it is complete."""
        if self._bytes.closed:  # and what has its name may be another's by now
            return
        for end in (self._file.close, self._partial.unlink, self._bytes.close):
            with contextlib.suppress(OSError):
                end()

    def _own(self) -> BinaryIO:
        """Open it, locked and empty. Raises OSError, and RecordingError where somebody else writes it."""
        while True:
            with contextlib.ExitStack() as stack:
                file = stack.enter_context(self._partial.open("ab"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    mine = self._partial.stat().st_ino == os.fstat(file.fileno()).st_ino
                except BlockingIOError as error:
                    raise RecordingError(
                        f"{self._path} is being written by another process: wait, or name another file."
                    ) from error
                except FileNotFoundError:
                    mine = False
                if mine:  # and not what another has just completed, and renamed
                    file.truncate(0)
                    stack.pop_all()
                    return file


class Writer:
    """Writes a recording. The file appears under its name once it is complete: on leaving the `with` block unharmed."""

    def __init__(self, path: Path, *, source: str, metadata: Mapping[str, str] | None = None) -> None:
        """Open the file; `source` says in one line what made it. Raises RecordingError."""
        extra = {_VERSION_KEY: str(VERSION).encode(), _SOURCE_KEY: source.encode()}
        extra |= {f"tipstream.{name}".encode(): value.encode() for name, value in (metadata or {}).items()}
        self._schema = SCHEMA.with_metadata(extra)
        self.rows = 0
        self._held: list[Record] = []
        self._file = PartialFile(path, self._schema)

    def write(self, records: Sequence[Record]) -> None:
        """Append records, in the order of play."""
        self._held += records
        while len(self._held) >= ROW_GROUP:
            self._flush(ROW_GROUP)

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Complete the file, or remove what there is of it."""
        try:
            if kind is None:
                if self._held:
                    self._flush(len(self._held))
                self._file.complete()
        finally:
            self._file.drop()

    def _flush(self, n: int) -> None:
        rows, self._held = self._held[:n], self._held[n:]
        columns = list(zip(*rows, strict=True))
        arrays = [
            _headers(list(values)) if field.name == "headers" else pa.array(values, field.type)
            for field, values in zip(SCHEMA, columns, strict=True)
        ]
        self._file.write(pa.Table.from_arrays(arrays, schema=self._schema))
        self.rows += n


def is_recording(path: Path) -> bool:
    """Tell whether a file says that it is a recording."""
    try:
        return _VERSION_KEY in (pq.read_schema(path).metadata or {})
    except UNREADABLE:
        return False


class Recording:
    """A recording on disk, open for reading."""

    def __init__(self, path: Path) -> None:
        """Open and check it; raises RecordingError in words."""
        self.path = path
        try:
            self._file = pq.ParquetFile(path, pre_buffer=False)  # it would keep all that it has read ahead
            schema = self._file.schema_arrow
        except FileNotFoundError as error:
            raise RecordingError(f"There is no file {path}.") from error
        except UNREADABLE as error:
            raise RecordingError(f"{path} is no Parquet file, or was not written to its end: {said(error)}.") from error
        metadata = schema.metadata or {}
        version = metadata.get(_VERSION_KEY)
        if version is None:
            raise RecordingError(
                f"{path} is a Parquet file but no recording. Make one with `tipstream-replay simulate`, `import` or "
                "`record`."
            )
        if version != str(VERSION).encode():
            raise RecordingError(
                f"{path} is a recording of version {version.decode(errors='replace')}, and this build reads version "
                f"{VERSION}. Read it with the build that wrote it, or record again."
            )
        if not schema.remove_metadata().equals(SCHEMA):
            raise RecordingError(f"{path} has other columns than a recording: {', '.join(schema.names)}.")
        self.source = metadata.get(_SOURCE_KEY, b"").decode(errors="replace")
        self.metadata = {
            name.decode(errors="replace").removeprefix("tipstream."): value.decode(errors="replace")
            for name, value in metadata.items()
            if name.startswith(b"tipstream.") and name not in (_VERSION_KEY, _SOURCE_KEY)
        }
        self.rows: int = self._file.metadata.num_rows

    def batches(self, size: int = 8_192) -> Iterator[list[Record]]:
        """Yield the records in order, at most `size` at a time."""
        return map(_records, self.columns(size))

    def mentioning(self, text: str, size: int = 65_536) -> Iterator[list[Record]]:
        r"""Yield the records whose value may be JSON with this text in it, in order: a quick look, before decoding.

        JSON may write a text in many ways (`\u00e9`, `\/`), all but one of which take a backslash.
        """
        plain = f'"{text}"'.encode(errors="replace").decode()  # what has no UTF-8 is in no JSON
        for batch in self.columns(size):
            values = batch.column("value")
            found = batch.filter(pc.or_(pc.match_substring(values, plain), pc.match_substring(values, "\\")))
            if len(found):
                yield _records(found)

    def columns(self, size: int, names: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order as columns, all of them or those named, at most `size` rows at a time.

        Raises RecordingError where the file turns out to be damaged.
        """
        try:
            for batch in self._file.iter_batches(batch_size=size, columns=None if names is None else list(names)):
                batch.validate(full=True)  # that texts are UTF-8, and lists end where they say
                yield batch
        except UNREADABLE as error:
            raise RecordingError(f"{self.path} is damaged, and cannot be read on: {said(error)}.") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """Return the recording itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()


def _records(batch: pa.RecordBatch) -> list[Record]:
    columns = [column.to_pylist() for column in batch.columns]
    at = SCHEMA.get_field_index("headers")
    columns[at] = _headers_of(batch.column(at))
    return list(map(Record._make, zip(*columns, strict=True)))


def _headers_of(column: Any) -> list[Headers | None]:
    """Return what a batch's column `headers` holds, row by row."""
    names, values = (field.to_pylist() for field in column.flatten().flatten())
    pairs = zip(names, values, strict=True)
    lengths: list[int | None] = pc.list_value_length(column).to_pylist()
    return [None if length is None else list(itertools.islice(pairs, length)) for length in lengths]


def _headers(rows: list[Headers | None]) -> pa.Array[Any]:
    """Flatten first: a list of dictionaries a row costs Arrow several times as much."""
    ends, names, values = [0], [], []
    for headers in rows:
        for name, value in headers or ():
            names.append(name)
            values.append(value)
        ends.append(len(names))
    kind = SCHEMA.field("headers").type
    pairs = pa.StructArray.from_arrays(
        [pa.array(names, pa.string()), pa.array(values, pa.binary())], fields=list(kind.value_type)
    )
    none = pa.array([headers is None for headers in rows], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pairs, type=kind, mask=none)
