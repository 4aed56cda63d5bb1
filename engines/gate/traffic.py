"""Recorded traffic as rows: read from a labelled set, which is first made where a recording is given."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from engines.child import converse, leashed
from engines.gate.accuracy import Sample
from engines.manifest import Manifest
from engines.model import ModelError

#: More rows change no figure; they only take time and memory.
MOST_ROWS: Final = 100_000
_FEWEST_ROWS: Final = 2_000
_FEWEST_TIPS: Final = 20
_DATASET_TIMEOUT_S: Final = 3600.0
#: The replay tool computes features as the service does; it knows this package, so it is only ever run from here.
_REPLAY: Final = leashed("replay.cli")


class Traffic(NamedTuple):
    """Rows to judge by."""

    sample: Sample
    source: str
    """One line: what was recorded, and how many rows of it are used."""


def read_traffic(
    path: Path,
    manifest: Manifest,
    *,
    progress: Callable[[str], None] = lambda step: None,
    replay: tuple[str, ...] = _REPLAY,
) -> Traffic:
    """Read what a model is to be judged by: a recording, or the folder of a labelled set made from one.

    Raises ModelError if the set was computed for other features, or holds too few rows or tips to judge by.
    """
    if path.is_dir():
        return _read(path, path, manifest)
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "set"
        progress(f"computing the features of {path}")
        _compute(path, shards, replay, progress)
        if not any(shards.glob("shard-*")):
            raise ModelError(
                f"{path} gives no rows: it covers the {manifest.horizons_s[-1]} s after none of its events. Record for "
                "longer than that."
            )
        return _read(shards, path, manifest)


def thin(sample: Sample, most: int) -> Sample:
    """Keep every row with a tip and as many others as fit, each standing for those that went."""
    if len(sample.weight) <= most:
        return sample
    others = np.flatnonzero(~sample.tipped)
    kept = max(most - int(sample.tipped.sum()), 1)
    chosen = np.random.default_rng(1).permutation(others)[:kept]
    at = np.sort(np.concatenate([np.flatnonzero(sample.tipped), chosen]))
    found = Sample(*(column[at] for column in sample))
    scale = sample.weight[others].sum(dtype=np.float64) / sample.weight[chosen].sum(dtype=np.float64)
    weight = np.where(found.tipped, found.weight, found.weight * scale).astype(np.float32)
    return found._replace(weight=weight)


def _read(shards: Path, named: Path, manifest: Manifest) -> Traffic:
    from engines.train.dataset import concatenate, read  # brings PyArrow, which an engine's host may do without

    facts, parts = read(shards)
    if facts.features != manifest.features or facts.horizons_s != manifest.horizons_s:
        raise ModelError(
            f"{named} gives rows of feature catalogue {facts.features} and tips within {facts.horizons_s} s, but the "
            f"model takes {manifest.features} and foretells {manifest.horizons_s} s. Use the release that the model "
            "was trained with, or train it again."
        )
    rows = concatenate(parts)
    sample = thin(Sample(rows.features, rows.history, rows.tips[:, -1], rows.weight), MOST_ROWS)
    n, tips = len(sample.weight), int(sample.tipped.sum())
    if n < _FEWEST_ROWS or tips < _FEWEST_TIPS:
        raise ModelError(
            f"{named} gives {n:,} rows, {tips:,} of them with a tip; the gate needs {_FEWEST_ROWS:,} and "
            f"{_FEWEST_TIPS}. Record more traffic (rows count once their horizon has passed)."
        )
    return Traffic(sample, f"{facts.source}; {n:,} rows, {tips:,} with a tip")


def _compute(recording: Path, shards: Path, replay: tuple[str, ...], progress: Callable[[str], None]) -> None:
    share = min(1.0, MOST_ROWS / max(_records(recording), 1))
    command = (*replay, "dataset", str(recording), str(shards), "--negatives", f"{share:.6g}", "--seed", "1")

    def heard(line: bytes) -> None:
        with contextlib.suppress(UnicodeDecodeError):
            progress(line.decode())

    ended = converse(command, b"", timeout_s=_DATASET_TIMEOUT_S, heard=heard)
    if ended.status != 0:
        full = " Set TMPDIR to a place on a larger disk." if os.strerror(errno.ENOSPC) in ended.last_words else ""
        raise ModelError(f"{recording} could not be made into rows: {ended.last_words.rstrip('.')}.{full}")


def _records(recording: Path) -> int:
    import pyarrow.parquet as pq

    try:
        return int(pq.ParquetFile(recording).metadata.num_rows)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{recording} cannot be read as a recording ({error}). Make one with `tipstream-replay record`."
        ) from error
