"""A pass over a recording: what is scored, as which row, and that neither batch size nor packing changes a score."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.ladder import Ladder
from engines.manifest import read_manifest
from engines.model import Model
from engines.prior import PriorModel
from features.catalogue import FEATURES
from features.events import Event, encode
from features.store import Checkpoint, MemoryStore, Written
from replay import offline
from replay.offline import Offline, score
from replay.recording import Record, Recording, RecordingError, Writer
from replay.scores import Scores
from replay.simulate import Traffic, simulate
from replay.simulate.recorded import records
from scorer.service import REFERENCE_MODEL

T0 = 1_750_000_000_000


@pytest.fixture
def prior() -> Model:
    return PriorModel(read_manifest(REFERENCE_MODEL))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traffic") / "simulated.parquet"
    traffic = Traffic(seed=4, rate=60, duration_s=240, viewers=400, rooms=6, tips=30, diurnal=1)
    with Writer(path, source="simulated") as writer:
        for moment in simulate(traffic):
            writer.write(records(moment, traffic))
    return path


def comment(i: int, viewer: str = "v", headers: list[tuple[str, bytes]] | None = None) -> Record:
    event = Event(f"e{i}", "comment", T0 + i * 100, "r", "s", viewer)
    return Record(viewer.encode(), encode(event), None, None, headers, event.event_time_ms, event.event_time_ms)


def recording(path: Path, made: list[Record]) -> Path:
    with Writer(path, source="made by hand") as writer:
        writer.write(made)
    return path


async def scored(path: Path, model: Model, out: Path, partitions: int = 1) -> Scores:
    with Recording(path) as source:
        await score(source, model, out, partitions=partitions)
    return Scores.read(out)


async def features(path: Path, model: Model, **options: Any) -> tuple[Offline, dict[str, NDArray[np.float32]]]:
    run = Offline(Ladder([], model), **options)
    found = {}
    with Recording(path) as source:
        async for work, _ in run.run(source):
            for i in work.to_score:
                found[work.events[i].event_id] = work.features[i]
    return run, found


async def test_rows_are_places_in_the_recording(tmp_path: Path, prior: Model) -> None:
    made = [comment(0), comment(0), comment(1), comment(2)._replace(value=b"no json"), comment(3)]
    path, out = recording(tmp_path / "r.parquet", made), tmp_path / "s.parquet"
    with Recording(path) as source:
        run = await score(source, prior, out)
    assert run.counts["consumed"] == 5
    assert (run.counts["scored"], run.counts["duplicate"], run.counts["rejected"]) == (3, 1, 1)
    scores = Scores.read(out)
    assert scores.column("row").tolist() == [0, 2, 4]
    assert scores.column("offset").tolist() == [0, 2, 4]
    assert scores.text("event_id") == ["e0", "e1", "e3"]
    assert scores.text("mode") == ["prior"] * 3
    assert scores.table.schema.names[7:9] == ["p_60", "p"]
    assert (scores.column("p_60") <= scores.column("p")).all()


async def test_rows_are_what_the_header_says(tmp_path: Path, prior: Model) -> None:
    made = [comment(0), comment(1, headers=[("x", b"y"), ("row", b"70")]), comment(2, headers=[("row", b"3")])]
    scores = await scored(recording(tmp_path / "r.parquet", made), prior, tmp_path / "s.parquet")
    assert scores.table["row"].to_pylist() == [None, 70, 3]
    broken = recording(tmp_path / "b.parquet", [comment(0, headers=[("row", b"x")])])
    with pytest.raises(RecordingError, match="header `row` is no number"):
        await scored(broken, prior, tmp_path / "b.scores.parquet")
    assert not (tmp_path / "b.scores.parquet.part").is_file()


async def test_recorded_partitions_and_offsets_are_kept(tmp_path: Path, prior: Model) -> None:
    made = [comment(i, f"v{i}")._replace(partition=i % 2 + 3, offset=100 + i) for i in range(4)]
    scores = await scored(recording(tmp_path / "r.parquet", made), prior, tmp_path / "s.parquet", partitions=9)
    told = zip(*(scores.column(name).tolist() for name in ("partition", "offset")), strict=True)
    assert sorted(told) == [(3, 100), (3, 102), (4, 101), (4, 103)]


async def test_what_came_before_is_known_and_not_scored(simulated: Path, tmp_path: Path, prior: Model) -> None:
    with Recording(simulated) as source:
        made = [record for batch in source.batches() for record in batch]
    early, late = (recording(tmp_path / name, half) for name, half in (("a", made[:4_000]), ("b", made[4_000:])))
    out = tmp_path / "s.parquet"
    with Recording(early) as before, Recording(late) as source:
        run = await score(source, prior, out, after=[before])
    whole = await scored(simulated, prior, tmp_path / "whole.parquet")
    later = whole.column("row") >= 4_000
    assert run.counts["consumed"] == len(made) - 4_000
    assert run.counts["scored"] == later.sum() > 1_000
    np.testing.assert_array_equal(Scores.read(out).column("p"), whole.column("p")[later])


async def test_neither_batches_nor_packing_change_a_feature(simulated: Path, prior: Model) -> None:
    _, whole = await features(simulated, prior)
    run, tight = await features(simulated, prior, batch=37, cache_viewers=64)
    assert run.counts["cache_misses"] > 0
    assert whole.keys() == tight.keys()
    for event_id, line in whole.items():
        np.testing.assert_array_equal(line, tight[event_id], err_msg=event_id)


async def test_time_that_stands_still_does_not_fill_memory(
    simulated: Path, tmp_path: Path, prior: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Recording(simulated) as source:
        made = [record for batch in source.batches() for record in batch]
    ahead = made[0]._replace(timestamp_ms=made[0].timestamp_ms + 365 * 86_400_000)
    path = recording(tmp_path / "ahead.parquet", [ahead, *made[1:]])
    monkeypatch.setattr(offline, "_LONG", 500)
    packed = 0

    class Packing(MemoryStore):
        async def checkpoint(self, write: Checkpoint) -> Written:
            nonlocal packed
            packed += len(write.changes.viewers)
            return await super().checkpoint(write)

    _, still = await features(path, prior, partitions=3, batch=64, cache_viewers=64, store=Packing())
    assert packed > 1_000
    monkeypatch.setattr(offline, "_LONG", len(made))
    _, kept = await features(path, prior, partitions=3, batch=64)
    for event_id, line in kept.items():
        np.testing.assert_array_equal(line, still[event_id], err_msg=event_id)


async def test_a_pass_ends_where_it_is_cancelled(simulated: Path, prior: Model) -> None:
    """As Ctrl-C does it."""
    run, batches = Offline(Ladder([], prior), batch=64), 0

    async def cancelled_at_once() -> None:
        nonlocal batches
        with Recording(simulated) as source:
            async for _ in run.read(source):
                batches += 1
                task.cancel()

    task = asyncio.create_task(cancelled_at_once())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert batches == 1


async def test_several_partitions_change_only_what_is_known_of_rooms(simulated: Path, prior: Model) -> None:
    _, one = await features(simulated, prior)
    _, three = await features(simulated, prior, partitions=3)
    assert one.keys() == three.keys()
    room = np.array(["room" in feature.name for feature in FEATURES])
    a, b = np.array(list(one.values())), np.array([three[event_id] for event_id in one])
    np.testing.assert_array_equal(a[:, ~room], b[:, ~room])
    at = [feature.name for feature in FEATURES].index("room_1m_events")
    exact, known = counts(a[:, at]), counts(b[:, at])
    behind = np.abs(exact - known)
    assert 0 < behind.mean() < 0.05 * exact.mean()


def counts(logarithms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Undo the catalogue's `lg`."""
    whole = np.floor(logarithms)
    exact: NDArray[np.float32] = (logarithms - whole + 1) * 2**whole - 1
    return exact
