"""Why an event got its score.

Features and history are computed anew from recorded events; the score that the model gives to them stands beside the
one that was published.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engines.folder import load, read_either
from engines.ladder import Answer, Ladder
from engines.manifest import read_manifest
from engines.model import Model
from engines.prior import PriorModel
from features.catalogue import fingerprint
from features.engine import warm_up
from features.events import Event, decode
from replay.offline import Offline
from replay.published import Published, of_event
from replay.recording import Recording, RecordingError
from scorer.contracts import Score
from scorer.pipeline import Work
from scorer.score import published
from scorer.service import REFERENCE_MODEL

SAME: Final = 1e-6
"""How far apart two runs of one model on equal rows may be, on processors: a matrix product's last bits."""
ENGINE: Final = 2e-3
"""The same for a GPU's engine and its model on a processor."""
APART: Final = 0.02
"""The same where counts of a room come from several partitions, up to 500 ms late, and not equally late twice."""
_VALUE: Final = 20  # expected amounts may differ by so many times as much, in relation to themselves


class Field(NamedTuple):
    """One thing that a score says."""

    name: str
    published: object
    again: object
    same: bool
    """Whether they are, as far as they can be."""


class Explanation(NamedTuple):
    """One score, and what it came from."""

    published: Published
    repeats: int
    """How often the score was published again."""
    event: Event
    model: str
    """What scored it again."""
    fields: list[Field]
    tolerance: float
    reason: str
    """Why so much is tolerated."""
    features: NDArray[np.float32]
    """(F,) in the catalogue's order."""
    history: NDArray[np.float32]
    """(L, C), newest first."""

    @property
    def same(self) -> bool:
        """Whether the score is the published one."""
        return all(field.same for field in self.fields)


def explain(
    event_id: str,
    scores: Path,
    events: Path,
    *,
    after: Sequence[Path] = (),
    model: Path = REFERENCE_MODEL,
    tolerance: float | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Explanation:
    """Explain the published score of one event.

    `scores` and `events` are recordings of the two topics, `after` recordings of events that came before, `model` the
    folder of the model that scored. Raises RecordingError and ModelError in words.
    """
    with Recording(scores) as recording:
        found = of_event(recording, event_id)
    if not found:
        raise RecordingError(f"{scores} holds no score of an event {event_id}: was it scored, and recorded?")
    score = found[0].score
    if score.features != fingerprint():
        raise RecordingError(
            f"The score was made with the feature catalogue {score.features}, and this build has {fingerprint()}: "
            "explain it with the release that published it."
        )
    scorer = _model(model, score)
    work, at, partitions = asyncio.run(_found(event_id, (*after, events), advance))
    features, history = work.features[at : at + 1], work.history[at : at + 1]
    answer = Answer(scorer.infer(features, history), score.mode, scorer)
    scorer.close()
    allowed, reason = _allowed(score, partitions, tolerance)
    return Explanation(
        published=found[0],
        repeats=len(found) - 1,
        event=work.events[at],
        model=scorer.engine,
        fields=_fields(score, work, at, answer, allowed),
        tolerance=allowed,
        reason=reason,
        features=features[0],
        history=history[0],
    )


def _model(folder: Path, score: Score) -> Model:
    manifest = read_manifest(folder)
    if score.model != f"{manifest.name}:{manifest.version}":
        raise RecordingError(
            f"{score.model} scored the event, and {folder} holds {manifest.name}:{manifest.version}: name the folder "
            "of the former with --model."
        )
    return PriorModel(manifest) if score.mode == "prior" else load(read_either(folder, features=fingerprint()))


async def _found(event_id: str, events: Sequence[Path], advance: Callable[[int], None]) -> tuple[Work, int, int]:
    """Go through recordings until the event: its batch, its place there, and how many partitions there are."""
    with Recording(events[-1]) as recording:
        if not _holds(recording, event_id):
            raise RecordingError(f"{events[-1]} holds no event {event_id}: record the topic of events, from before it.")
    warm_up()
    run = Offline(Ladder([], PriorModel(read_manifest(REFERENCE_MODEL))))
    for path in events:
        with Recording(path) as recording:
            async with contextlib.aclosing(run.read(recording)) as works:
                async for work in works:
                    for i in work.to_score.tolist():
                        if work.events[i].event_id == event_id:
                            return work, i, len(run.partitions)
                    advance(work.counts["consumed"])
    raise RecordingError(f"{events[-1]} holds event {event_id}, but nothing of it that gets a score: it is a repeat.")


def _holds(recording: Recording, event_id: str) -> bool:
    for records in recording.mentioning(event_id):
        decoded = decode([record.value for record in records], [record.key for record in records])
        if any(event.event_id == event_id for event in decoded.events):
            return True
    return False


def _allowed(score: Score, partitions: int, tolerance: float | None) -> tuple[float, str]:
    """How far apart probabilities may be, and why."""
    if tolerance is not None:
        return tolerance, "as asked for"
    if partitions > 1:
        return APART, f"counts of rooms from {partitions} partitions are up to 500 ms late, and not equally late twice"
    if score.engine.startswith(("cpu:", "prior:")):
        return SAME, "one model on equal rows"
    return ENGINE, "a GPU's engine against its model on a processor"


def _fields(score: Score, work: Work, at: int, answer: Answer, allowed: float) -> list[Field]:
    told, manifest, event = published(answer), answer.model.manifest, work.events[at]
    fields = [
        Field(name, was, now, was == now)
        for name, was, now in (
            ("type", score.type, event.type),
            ("viewer", score.viewer_id, event.viewer_id),
            ("room", score.room_id, event.room_id),
            ("streamer", score.streamer_id, event.streamer_id),
            ("session", score.session_id, event.session_id),
            ("event time, ms", score.event_time_ms, event.event_time_ms),
            ("cold start", score.cold_start, bool(work.cold[at])),
        )
    ]
    for horizon, now in zip(manifest.horizons_s, told.p_tip[0].tolist(), strict=True):
        was = score.p_tip.get(str(horizon), float("nan"))
        fields.append(Field(f"p within {horizon} s", was, now, abs(was - now) <= allowed))
    amount, longest = int(told.value[0]), float(told.p_tip[0, -1])
    apart = abs(score.expected_value_minor - amount)
    fields.append(
        Field(
            "expected, minor units", score.expected_value_minor, amount,
            apart <= 1 + _VALUE * allowed * score.expected_value_minor,
        )
    )  # fmt: skip
    tier = manifest.tiers[int(told.tier[0])].name
    close = any(abs(longest - each.at_least) <= allowed for each in manifest.tiers[1:])
    return [*fields, Field("tier", score.tier, tier, score.tier == tier or close)]
