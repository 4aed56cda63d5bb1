"""A published score computed again: the same from the same recording, and told apart when anything is another."""

import asyncio
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from engines.cpu import OnnxModel
from engines.ladder import Ladder, Rung
from engines.prior import PriorModel
from engines.worker import InlineWorker
from features.catalogue import FEATURES, fingerprint
from replay import cli
from replay.explain import APART, SAME, explain
from replay.offline import Offline
from replay.recording import Record, Recording, RecordingError, Writer
from replay.simulate import Traffic, simulate
from replay.simulate.recorded import records
from scorer.contracts import Score
from scorer.score import Scoring, Timing, messages
from scorer.service import REFERENCE_MODEL

TRAFFIC = Traffic(seed=4, rate=60, duration_s=120, viewers=200, rooms=4, tips=30, diurnal=1)


class Recorded(NamedTuple):
    """Recordings of the two topics, and what an honest pass made of one event."""

    events: Path
    scores: Path
    event_id: str
    features: np.ndarray[Any, np.dtype[np.float32]]


def message(published: Any, partition: int) -> Record:
    return Record(published.key, published.value, partition, 0, published.headers, 0, None)


async def publish(events: Path, scores: Path) -> Recorded:
    """Publish as the service does, batch by batch; the event is one of a viewer of whom much is known."""
    model = OnnxModel.load(REFERENCE_MODEL, features=fingerprint())
    last = PriorModel(model.manifest)
    run = Offline(Ladder([Rung("full", InlineWorker(model), None)], last), batch=100)
    known, event_id, features = -1, "", np.zeros(0, np.float32)
    with Recording(events) as source, Writer(scores, source="topic scores") as writer:
        async for work, answer in run.run(source):
            if answer is None:
                continue
            rows = work.to_score.tolist()
            told = messages(
                Scoring(answer, fingerprint(), "blue", Timing(0, 1, 2)),
                [work.events[i] for i in rows], [work.records[i] for i in rows], work.cold[rows], math.inf,
            )  # fmt: skip
            writer.write([message(each, int(work.partitions[i])) for each, i in zip(told, rows, strict=True)])
            entries = (work.history[rows][:, :, 0] > 0).sum(axis=1)
            if entries.max() > known:
                known, best = int(entries.max()), rows[int(entries.argmax())]
                event_id, features = work.events[best].event_id, work.features[best]
    return Recorded(events, scores, event_id, features)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("recorded")
    with Writer(folder / "events.parquet", source="simulated") as writer:
        for moment in simulate(TRAFFIC):
            writer.write(records(moment, TRAFFIC))
    return asyncio.run(publish(folder / "events.parquet", folder / "scores.parquet"))


def changed(recorded: Recorded, path: Path, **fields: object) -> Path:
    """The topic of scores, had it said something else of the event."""
    with Recording(recorded.scores) as recording, Writer(path, source="changed") as writer:
        for batch in recording.batches():
            for each in batch:
                score = msgspec.json.decode(each.value or b"", type=Score)
                if score.event_id == recorded.event_id:
                    score = msgspec.structs.replace(score, **fields)
                writer.write([each._replace(value=msgspec.json.encode(score))])
    return path


def halves(recorded: Recorded, folder: Path) -> tuple[Path, Path]:
    """The topic of events, recorded twice; the event is in the second half."""
    with Recording(recorded.events) as recording:
        made = [each for batch in recording.batches() for each in batch]
    at = next(i for i, each in enumerate(made) if recorded.event_id.encode() in (each.value or b"")) // 2
    paths = folder / "early.parquet", folder / "late.parquet"
    for path, half in zip(paths, (made[:at], made[at:]), strict=True):
        with Writer(path, source="half") as writer:
            writer.write(half)
    return paths


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["explain", *(str(argument) for argument in arguments)])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def test_the_same_score_from_the_same_features(recorded: Recorded) -> None:
    found = explain(recorded.event_id, recorded.scores, recorded.events)
    assert found.same
    assert found.tolerance == SAME
    np.testing.assert_array_equal(found.features, recorded.features)
    assert (found.history[:, 0] > 0).sum() > 10
    assert {field.name for field in found.fields} >= {"p within 60 s", "p within 600 s", "tier", "cold start", "viewer"}
    assert found.published.score.arm == "blue"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"p_tip": {"60": 0.001, "600": 0.5}}, "p within 600 s"),
        ({"expected_value_minor": 10_000_000}, "expected, minor units"),
        ({"tier": "whale"}, "tier"),
        ({"cold_start": True}, "cold start"),
        ({"streamer_id": "another"}, "streamer"),
    ],
)
def test_another_score_is_told_apart(recorded: Recorded, tmp_path: Path, fields: dict[str, object], name: str) -> None:
    found = explain(recorded.event_id, changed(recorded, tmp_path / "s.parquet", **fields), recorded.events)
    assert not found.same
    assert name in [field.name for field in found.fields if not field.same]
    if name.startswith("p "):
        loose = explain(
            recorded.event_id, changed(recorded, tmp_path / "s.parquet", **fields), recorded.events, tolerance=1.0
        )
        assert name not in [field.name for field in loose.fields if not field.same]


def test_an_event_is_explained_however_its_id_is_written(recorded: Recorded, tmp_path: Path) -> None:
    """Python's own JSON, to name one, escapes what is no ASCII."""
    written, event_id = (json.dumps(text).encode() for text in ("é", recorded.event_id))
    paths = tmp_path / "e.parquet", tmp_path / "s.parquet"
    for source, target in zip((recorded.events, recorded.scores), paths, strict=True):
        with Recording(source) as recording, Writer(target, source="escaped") as writer:
            for batch in recording.batches():
                writer.write([each._replace(value=(each.value or b"").replace(event_id, written)) for each in batch])
    assert explain("é", paths[1], paths[0]).same
    with pytest.raises(RecordingError, match=r"e\.parquet holds no event"):
        explain(recorded.event_id, recorded.scores, paths[0])


def test_what_came_before_counts(recorded: Recorded, tmp_path: Path) -> None:
    early, late = halves(recorded, tmp_path)
    assert not explain(recorded.event_id, recorded.scores, late).same
    assert explain(recorded.event_id, recorded.scores, late, after=[early]).same


def test_several_partitions_are_given_leave(recorded: Recorded, tmp_path: Path) -> None:
    with Recording(recorded.events) as recording, Writer(tmp_path / "e.parquet", source="spread") as writer:
        for batch in recording.batches():
            writer.write([each._replace(partition=len(each.key or b"") % 2, offset=0) for each in batch])
    assert explain(recorded.event_id, recorded.scores, tmp_path / "e.parquet").tolerance == APART


def test_the_command_tells_and_its_status_says_whether_they_agree(
    recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--events", recorded.events)
    assert run(recorded.event_id, *options, "--scores", recorded.scores) == 0
    told = capsys.readouterr().out
    assert all(feature.name in told for feature in FEATURES)
    assert "The score is the published one" in told
    other = changed(recorded, tmp_path / "s.parquet", tier="whale")
    assert run(recorded.event_id, *options, "--scores", other) == 1
    assert "DIFFERS" in capsys.readouterr().out
    assert run(recorded.event_id, *options, "--scores", other, "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["differs"] == ["tier"]
    assert [each["name"] for each in document["features"]] == [feature.name for feature in FEATURES]
    assert document["published"]["arm"] == "blue"


def test_what_cannot_be_explained_is_said_in_words(recorded: Recorded, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="holds no score of an event nobody"):
        explain("nobody", recorded.scores, recorded.events)
    for fields, words in (
        ({"model": "other:2"}, "other:2 scored the event.*--model"),
        ({"features": "feed"}, "explain it with the release that published it"),
    ):
        other = changed(recorded, tmp_path / "s.parquet", **fields)
        with pytest.raises(RecordingError, match=words):
            explain(recorded.event_id, other, recorded.events)
    assert run("\udcff", "--events", recorded.events, "--scores", recorded.scores) == 2
    with Writer(tmp_path / "e.parquet", source="empty") as writer:
        writer.write([])
    with pytest.raises(RecordingError, match="holds no event"):
        explain(recorded.event_id, recorded.scores, tmp_path / "e.parquet")
