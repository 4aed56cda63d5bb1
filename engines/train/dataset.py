"""The training set on disk: `dataset.json` and Parquet shards, one row an event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engines.model import ModelError

FACTS_FILE = "dataset.json"
_UNFINISHED = "unfinished-"  # a file of this name and a part's says that there is more to come


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What holds for every row of a set."""

    features: str
    """Fingerprint of the catalogue that computed the rows."""
    columns: tuple[str, ...]
    """Feature names in column order."""
    prior_columns: tuple[str, ...]
    """Those of them that tell of past tips: the prior and the baseline to beat use no others."""
    history: tuple[int, int]
    """(L, C): events of history, channels an event; channel 0 is the code of the event's type."""
    type_codes: int
    """Codes that channel 0 takes: 0 (no event) to this, exclusive."""
    horizons_s: tuple[int, ...]
    """Seconds, ascending."""
    source: str
    """One line: which traffic, which seed, how sampled."""


class Rows(NamedTuple):
    """n rows."""

    time_ms: NDArray[np.int64]
    """(n,) event time of the trigger."""
    features: NDArray[np.float32]
    """(n, F) as of the trigger."""
    history: NDArray[np.float32]
    """(n, L, C) as of the trigger."""
    tips: NDArray[np.bool_]
    """(n, H) whether a tip followed within each horizon, strictly after the trigger."""
    amount_minor: NDArray[np.int64]
    """(n,) minor units tipped within the longest horizon."""
    weight: NDArray[np.float32]
    """(n,) events of the traffic that the row stands for."""
    latent: NDArray[np.float32]
    """(n,) the true probability for the longest horizon where a simulator knows it, else NaN."""

    def where(self, which: NDArray[Any] | slice) -> Rows:
        """Rows that a mask, index array or slice selects."""
        columns: Iterator[Any] = (column[which] for column in self)
        return Rows(*columns)


def begin(folder: Path, facts: Facts, parts: Sequence[str] = ("0",)) -> None:
    """Make the folder and mark the parts that are to be written: until all of them are, the set cannot be read.

    Raises ModelError if one of them is there already, finished or not, or if parts with other facts are.
    """
    facts_file, encoded = folder / FACTS_FILE, msgspec.json.format(msgspec.json.encode(facts))
    there = any(any(folder.glob(f"shard-{part}-*")) or (folder / f"{_UNFINISHED}{part}").exists() for part in parts)
    if there or (facts_file.exists() and facts_file.read_bytes() != encoded):
        raise ModelError(f"{folder} already holds a training set. Choose another folder or delete this one.")
    beside = folder / f"{FACTS_FILE}.{parts[0]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in parts:
            (folder / f"{_UNFINISHED}{part}").touch()
        beside.write_bytes(encoded)
        beside.replace(facts_file)  # whole at every moment: those who make other parts may be reading it
    except OSError as error:
        raise ModelError(f"{folder} cannot be written to ({error.strerror}). Name another folder.") from error


class ShardWriter:
    """Writes one part of a set shard by shard; nothing is held between shards. Parts may be written side by side."""

    def __init__(self, folder: Path, *, part: str = "0") -> None:
        """The part was begun before (see `begin`)."""
        self._folder = folder
        self._part = part
        self._shards = 0

    def write(self, rows: Rows) -> None:
        """Write one shard."""
        columns = {name: _list_column(column) for name, column in rows._asdict().items()}
        path = self._folder / f"shard-{self._part}-{self._shards:05}.parquet"
        try:
            pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=False)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise ModelError(f"{path} cannot be written ({error.strerror or error}). Make the set again.") from error
        self._shards += 1

    def end(self) -> None:
        """Say that the part is whole."""
        (self._folder / f"{_UNFINISHED}{self._part}").unlink()


def read(folder: Path) -> tuple[Facts, list[Rows]]:
    """Read a whole set into memory, part by part; raises ModelError if there is none, or only some of it."""
    try:
        facts = msgspec.json.decode((folder / FACTS_FILE).read_bytes(), type=Facts)
    except (OSError, ValueError) as error:  # no JSON, no UTF-8, or of another release
        raise ModelError(f"{folder} is no training set ({error}). Make one with `tipstream-replay dataset`.") from error
    if any(folder.glob(f"{_UNFINISHED}*")):
        raise ModelError(
            f"{folder} is not whole: what makes it is still at it, or ended early. Wait, or delete it and make it "
            "again with `tipstream-replay dataset`."
        )
    shards = sorted(folder.glob("shard-*.parquet"))
    if not shards:
        raise ModelError(
            f"{folder} holds no rows: its recording covers the {facts.horizons_s[-1]} s after none of its events. Make "
            "the set again, of a recording that is longer."
        )
    parts = groupby(shards, key=lambda path: path.stem.rpartition("-")[0])
    return facts, [concatenate([_read_shard(path, facts) for path in paths]) for _, paths in parts]


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Return the rows of several in one."""
    columns: Iterator[Any] = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Rows(*columns)


def _list_column(array: NDArray[Any]) -> pa.Array[Any]:
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    return flat if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, int(np.prod(array.shape[1:])))


def _read_shard(path: Path, facts: Facts) -> Rows:
    shapes = {"features": (len(facts.columns),), "history": facts.history, "tips": (len(facts.horizons_s),)}

    def column(table: pa.Table, name: str) -> NDArray[Any]:
        values: Any = table.column(name).combine_chunks()
        flat: NDArray[Any] = (values.flatten() if name in shapes else values).to_numpy(zero_copy_only=False)
        return flat.reshape(len(values), *shapes.get(name, ()))

    try:
        table = pq.read_table(path)
        return Rows(*(column(table, name) for name in Rows._fields))
    except (OSError, pa.ArrowException, LookupError, AttributeError, ValueError) as error:
        raise ModelError(f"{path} is damaged ({error}). Make the set again with `tipstream-replay dataset`.") from error
