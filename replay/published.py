"""Published scores: a recording of the topic of scores, which can be used wherever a score file can."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pyarrow as pa

from engines.manifest import Tier
from replay.recording import Record, Recording, RecordingError, is_recording
from replay.scores import About, Scores, batch, schema
from scorer.contracts import Score
from scorer.score import SOURCE_OFFSET

_CHUNK: Final = 65_536
_decode = msgspec.json.Decoder(Score).decode


class Published(NamedTuple):
    """One record of the topic of scores."""

    partition: int
    offset: int
    """Of the event that asked for the score."""
    score: Score


def open_scores(path: Path) -> Scores:
    """Read a score file, or a recording of the topic of scores. Raises RecordingError in words."""
    if not is_recording(path):
        return Scores.read(path)
    with Recording(path) as recording:
        return as_scores(path, once(published(recording.batches())))


def published(batches: Iterable[Sequence[Record]]) -> Iterator[Published]:
    """Decode records of the topic of scores. Raises RecordingError for what is none."""
    for records in batches:
        for record in records:
            try:
                source = dict(record.headers or ())[SOURCE_OFFSET]
                yield Published(record.partition or 0, int.from_bytes(source, "big"), _decode(record.value or b""))
            except (KeyError, TypeError, ValueError) as error:  # no such header, an empty one, no JSON, no UTF-8
                raise RecordingError(
                    f"The record at offset {record.offset} of partition {record.partition} is no score: {error}. "
                    "Record the topic of scores: `tipstream-replay record --topic live.tip-intent.scores.v1`."
                ) from error


def of_event(recording: Recording, event_id: str) -> list[Published]:
    """Return all scores of one event, repeats included, in the order in which they were published."""
    found = published(recording.mentioning(event_id))
    return [each for each in found if each.score.event_id == event_id]


def once(scores: Iterable[Published]) -> Iterator[Published]:
    """Drop repeats: what a partition publishes again after a crash is not above what was seen of it."""
    highest: dict[int, int] = {}
    for each in scores:
        if each.offset > highest.get(each.partition, -1):
            highest[each.partition] = each.offset
            yield each


def as_scores(path: Path, scores: Iterable[Published]) -> Scores:
    """Lay scores out as a score file has them. Raises RecordingError if their horizons differ, or there are none.

    Scores name their tiers and do not tell the thresholds: each tier begins at its lowest probability here.
    """
    scores = iter(scores)
    models: Counter[str] = Counter()
    engines: Counter[str] = Counter()
    lowest: dict[str, float] = {}
    about: About | None = None
    batches: list[pa.RecordBatch] = []
    while some := list(itertools.islice(scores, _CHUNK)):
        models.update(each.score.model for each in some)
        engines.update(each.score.engine for each in some)
        for each in some:
            lowest[each.score.tier] = min(_longest(each.score), lowest.get(each.score.tier, 1.0))
        about = about or About("", "", tuple(sorted(map(int, some[0].score.p_tip))), (), path.name)
        batches.append(_batch(path, about, some))
    if about is None:
        raise RecordingError(f"{path} holds no scores.")
    about = msgspec.structs.replace(
        about,
        model=", ".join(name for name, _ in models.most_common()),
        engine=", ".join(name for name, _ in engines.most_common()),
        tiers=_tiers(lowest),
    )
    return Scores(path, about, pa.Table.from_batches(batches).unify_dictionaries())


def _batch(path: Path, about: About, some: Sequence[Published]) -> pa.RecordBatch:
    scores = [each.score for each in some]
    horizons = [str(horizon) for horizon in about.horizons_s]
    if any(score.p_tip.keys() != set(horizons) for score in scores):
        raise RecordingError(
            f"{path} holds scores for other horizons than {', '.join(horizons)} s, too: record the time of one model, "
            "with --since and --until."
        )
    n = len(scores)
    columns: list[Any] = [
        pa.nulls(n, pa.int64()),
        [score.event_id for score in scores],
        [score.viewer_id for score in scores],
        [score.room_id for score in scores],
        [score.event_time_ms for score in scores],
        [each.partition for each in some],
        [each.offset for each in some],
        *([score.p_tip[horizon] for score in scores] for horizon in horizons),
        [score.expected_value_minor for score in scores],
        pa.array([score.tier for score in scores]).dictionary_encode(),
        pa.array([score.mode for score in scores]).dictionary_encode(),
        [sum(score.latency_us.values()) for score in scores],
    ]
    return batch(schema(about), columns)


def _longest(score: Score) -> float:
    return score.p_tip[max(score.p_tip, key=int)]


def _tiers(lowest: dict[str, float]) -> tuple[Tier, ...]:
    ascending = sorted(lowest.items(), key=lambda tier: tier[1])
    return tuple(Tier(name, at_least if i else 0.0) for i, (name, at_least) in enumerate(ascending))
