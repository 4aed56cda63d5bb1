"""The training set of a recording: features and history as of each event, and the tips that followed it.

Features come from the service's own pipeline, in one pass. The tips were looked up in the whole recording before, so
that no row has to wait for what follows it: memory holds the rows of people and rooms, and all tips of the recording.

Partitions are worked on one by one, which is what lets them be shared out: `write_dataset` maps one function over them,
and what maps may be another than Python's `map` (see `replay.workers`). What partitions know of each other's rooms goes
through files, so that the set is the same to the byte wherever its parts were made.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from engines.ladder import Ladder
from engines.manifest import read_manifest
from engines.prior import PriorModel
from engines.train.dataset import Facts, Rows, ShardWriter, begin, concatenate
from features.catalogue import FEATURES, HISTORY_LENGTH, N_CHANNELS, fingerprint
from features.engine import warm_up
from features.rows import FREE_GIFT
from replay.offline import Offline
from replay.outcomes import all_tips
from replay.recording import Recording, RecordingError, writing
from replay.shares import Telling, Told
from replay.taking import partitions_of
from scorer.pipeline import Work
from scorer.service import REFERENCE_MODEL
from scorer.tips import Label, Tips

HORIZONS_S: Final = (60, 600)
PRIOR_COLUMNS: Final = (
    "viewer_60d_tips", "viewer_60d_minor", "viewer_total_tips", "viewer_total_minor", "viewer_age_tips",
    "pair_60d_tips", "pair_60d_minor", "pair_total_tips", "pair_total_minor", "pair_age_tips",
)  # fmt: skip
"""Features that tell of a viewer's own past tips and of nothing else."""

_TIPS_BEFORE: Final = [feature.name for feature in FEATURES].index("viewer_total_tips")
_SHARD_ROWS: Final = 50_000
_TOLD: Final = "told"  # folder for what partitions tell each other, while the set is made

T = TypeVar("T")
R = TypeVar("R")


class Map(Protocol):
    """Calls a function with each item, anywhere and at any time, and gives the results in order."""

    def __call__(self, function: Callable[[T], R], items: Sequence[T], /) -> Iterable[R]:
        """Map."""
        ...


class Sampling(NamedTuple):
    """Which events become rows."""

    negatives: float = 1.0
    """Share of the events without a tip that is kept; each stands for 1 / share."""
    seed: int = 1
    tippers: float | None = None
    """The same for events of viewers who have tipped before, if it is to be another. Few events are theirs and most of
    the tips, so that it is among them that a model's highest scores are right or wrong."""

    def shares(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n,) shares of features (n, F)."""
        tippers = self.negatives if self.tippers is None else self.tippers
        return np.where(features[:, _TIPS_BEFORE] > 0, tippers, self.negatives)

    def __str__(self) -> str:
        """Say it in a few words."""
        if self.negatives == 1 and self.tippers in (None, 1):
            return "all events"
        apart = "" if self.tippers is None else f", {self.tippers:.2%} of those of viewers who had tipped before"
        return f"{self.negatives:.2%} of the events without a tip{apart} (weighted back), seed {self.seed}"


class Written(NamedTuple):
    """What was written."""

    events: int
    """Records gone through, those of `after` included."""
    rows: int
    tips: int
    """Rows with a tip within the longest horizon."""


class Part(NamedTuple):
    """What the maker of one partition's part has to know. Paths must lead to the same files everywhere."""

    recording: Path
    after: tuple[Path, ...]
    partitions: int
    partition: int
    others: tuple[int, ...]
    folder: Path
    name: str
    facts: Facts
    sampling: Sampling
    shard_rows: int

    def told(self, partition: int) -> Path:
        """Return where a partition writes down what it tells of rooms."""
        return self.folder / _TOLD / f"{partition}.parquet"


def write_dataset(
    recording: Path,
    folder: Path,
    *,
    after: Sequence[Path] = (),
    sampling: Sampling = Sampling(),  # noqa: B008 -- immutable
    partitions: int = 1,
    part: str = "",
    source: str = "",
    shard_rows: int = _SHARD_ROWS,
    map_: Map | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Written:
    """Write a training set, a part for each partition; `advance` is told of the records gone through.

    The recordings in `after` came before: they fill the rows, and nothing of them is in the set. Records without a
    partition get one of `partitions` by key. `part` sets the parts' names apart from those of other recordings in one
    set, all of which must name the same `source`. Raises RecordingError, and ModelError if the folder holds the part.
    """
    numbers: set[int] = set()
    for path in (*after, recording):
        with Recording(path) as file:
            numbers |= partitions_of(file, partitions)
            made_by = file.source
    for share in (sampling.negatives, sampling.tippers):
        if share is not None and not 0 < share <= 1:
            raise RecordingError(f"{share:g} is no share of the events without a tip: above 0, and 1 at most.")
    facts = Facts(
        features=fingerprint(),
        columns=tuple(feature.name for feature in FEATURES),
        prior_columns=PRIOR_COLUMNS,
        history=(HISTORY_LENGTH, N_CHANNELS),
        type_codes=FREE_GIFT + 1,
        horizons_s=HORIZONS_S,
        source=source or _source(recording, made_by, after, sampling),
    )
    parts = [
        Part(
            recording.absolute(), tuple(path.absolute() for path in after), partitions, number,
            tuple(sorted(numbers - {number})), folder.absolute(), f"{part}{number}", facts, sampling, shard_rows,
        )
        for number in sorted(numbers)
    ]  # fmt: skip
    begin(folder, facts, [each.name for each in parts])
    results: list[Written] = []
    try:
        if len(parts) > 1:
            with writing(folder):
                (folder / _TOLD).mkdir(exist_ok=True)
            for events in (map_ or map)(_tell, parts):
                advance(events)
        if map_ is None:
            with Recording(recording) as file:
                followed = all_tips(file)
            results += (_write(each, advance, followed) for each in parts)
        else:
            for written in map_(_write, parts):
                advance(written.events)
                results.append(written)
    finally:
        shutil.rmtree(folder / _TOLD, ignore_errors=True)
    return Written(*(sum(column) for column in zip(*results, strict=True)))


def _source(recording: Path, made_by: str, after: Sequence[Path], sampling: Sampling) -> str:
    before = f", after {', '.join(path.name for path in after)}" if after else ""
    return f"{recording.name} ({made_by}){before}; {sampling}"


def _tell(part: Part) -> int:
    """Write down what a partition tells of its rooms; returns the number of its records."""
    return asyncio.run(_tell_all(part))


async def _tell_all(part: Part) -> int:
    told = Telling(part.told(part.partition))
    run = _pass(part, told, told.at)
    events = 0
    for path in (*part.after, part.recording):
        with Recording(path) as recording:
            async for work in run.read(recording):
                events += work.counts["consumed"]
    await run.exchange()
    await told.close()
    return events


def _write(
    part: Part, advance: Callable[[int], None] = lambda _: None, followed: tuple[Tips, int] | None = None
) -> Written:
    """Write one partition's part of the set; what `all_tips` found in the recording is looked up unless told."""
    return asyncio.run(_write_all(part, advance, followed))


async def _write_all(part: Part, advance: Callable[[int], None], followed: tuple[Tips, int] | None) -> Written:
    told = Told({number: part.told(number) for number in part.others})
    run = _pass(part, told, told.at)
    events = 0
    for path in part.after:
        with Recording(path) as recording:
            async for work in run.read(recording):
                events += work.counts["consumed"]
                advance(work.counts["consumed"])
    with Recording(part.recording) as recording:
        tips, end_ms = followed or all_tips(recording)
        rows = _Rows(part, tips, end_ms)
        async for work in run.read(recording):
            rows.take(work)
            events += work.counts["consumed"]
            advance(work.counts["consumed"])
    rows.end()
    return Written(events, rows.written, rows.tips)


def _pass(part: Part, store: Telling | Told, at: Callable[[int], None]) -> Offline:
    warm_up()
    nobody = Ladder([], PriorModel(read_manifest(REFERENCE_MODEL)))  # is never asked
    return Offline(nobody, partitions=part.partitions, only=part.partition, store=store, at=at)


class _Rows:
    """Labels events, keeps some, and writes shard after shard. Neither depends on how events come in batches."""

    def __init__(self, part: Part, tips: Tips, end_ms: int) -> None:
        self._sampling = part.sampling
        self._tips = tips
        self._last_ms = end_ms - 1000 * HORIZONS_S[-1]  # of what follows later events, the recording does not tell all
        self._shard_rows = part.shard_rows
        self._writer = ShardWriter(part.folder, part=part.name)
        self._rng = np.random.default_rng((part.sampling.seed, part.partition))
        self._kept: list[Rows] = []
        self._waiting = 0
        self.written = self.tips = 0

    def take(self, work: Work) -> None:
        """Take in a batch of which features are known."""
        shares = self._sampling.shares(work.features)
        sampled = self._rng.random(len(work.events)) < shares
        at: list[int] = []
        labels: list[Label] = []
        for i in work.to_score.tolist():
            event = work.events[i]
            if event.event_time_ms > self._last_ms:
                continue
            label = self._tips.label((event.viewer_id, event.room_id), event.event_time_ms, HORIZONS_S)
            if label.tips[-1] or sampled[i]:
                at.append(i)
                labels.append(label)
        if not at:
            return
        records: list[Any] = [work.records[i] for i in at]
        tips = np.array([label.tips for label in labels])
        self._kept.append(
            Rows(
                time_ms=np.array([work.events[i].event_time_ms for i in at]),
                features=work.features[at],
                history=work.history[at],
                tips=tips,
                amount_minor=np.array([label.amount_minor for label in labels]),
                weight=np.where(tips[:, -1], 1, 1 / shares[at]).astype(np.float32),
                latent=np.array([record.chance for record in records], np.float32),
            )
        )
        self._waiting += len(at)
        self.tips += int(tips[:, -1].sum())
        while self._waiting >= self._shard_rows:
            self._write(self._shard_rows)

    def end(self) -> None:
        """Write what is left; the part is whole."""
        if self._waiting:
            self._write(self._waiting)
        self._writer.end()

    def _write(self, n: int) -> None:
        rows = concatenate(self._kept)
        self._writer.write(rows.where(slice(n)))
        self._kept = [rows.where(slice(n, None))]
        self._waiting -= n
        self.written += n
