"""A training set against the scores' own pipeline and labels looked up one by one, wherever its parts were made."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from engines.ladder import Ladder
from engines.manifest import read_manifest
from engines.model import ModelError
from engines.prior import PriorModel
from engines.train.dataset import Rows, read
from features.catalogue import FEATURES, HISTORY_LENGTH, N_CHANNELS, fingerprint
from features.events import Event, encode
from replay import dataset
from replay.dataset import HORIZONS_S, PRIOR_COLUMNS, Map, Sampling, write_dataset
from replay.offline import Offline
from replay.outcomes import all_tips
from replay.recording import Record, Recording, RecordingError, Writer
from replay.simulate import Traffic, simulate
from replay.simulate.recorded import records
from replay.workers import shared_out
from scorer.pipeline import Work
from scorer.service import REFERENCE_MODEL
from scorer.tips import Tips
from tests.features.oracle import lg

T0 = 1_750_000_000_000
TRAFFIC = Traffic(seed=3, rate=10, duration_s=1_300, viewers=100, tips=40, truth=True)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traffic") / "simulated.parquet"
    with Writer(path, source="simulated") as writer:
        for moment in simulate(TRAFFIC):
            writer.write(records(moment, TRAFFIC))
    return path


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Map]:
    pytest.importorskip("distributed", reason="needs the cluster extra: pip install 'tipstream[cluster]'")
    with shared_out(workers=2) as map_:
        yield map_


def pipeline(*recordings: Path, partitions: int = 1) -> list[Work]:
    """Everything that the pipeline makes of recordings; only what it makes of the last one is returned."""
    return asyncio.run(passed(recordings, partitions))


async def passed(recordings: tuple[Path, ...], partitions: int) -> list[Work]:
    run = Offline(Ladder([], PriorModel(read_manifest(REFERENCE_MODEL))), partitions=partitions)
    for path in recordings:
        with Recording(path) as file:
            works = [work async for work in run.read(file)]
    return works


def halves(recording: Path, folder: Path) -> tuple[Path, Path]:
    with Recording(recording) as file:
        made: list[Record] = [record for batch in file.batches() for record in batch]
    paths = folder / "early.parquet", folder / "late.parquet"
    for path, half in zip(paths, (made[:1_500], made[1_500:]), strict=True):
        with Writer(path, source="half") as writer:
            writer.write(half)
    return paths


def say(number: int, partition: int, after_ms: int) -> Record:
    event = Event(f"e{number}", "comment", T0 + after_ms, "room", "streamer", f"viewer-{partition}")
    return Record(f"viewer-{partition}".encode(), encode(event), partition, None, None, T0 + after_ms, T0 + after_ms)


def test_the_last_that_a_partition_saw_reaches_the_others(tmp_path: Path) -> None:
    path = tmp_path / "one.parquet"
    with Writer(path, source="made") as writer:
        writer.write([say(i, 1, i) for i in range(40)] + [say(100 + i, 0, 2_000 + 1_000 * i) for i in range(700)])
    write_dataset(path, tmp_path / "set", sampling=Sampling(negatives=1.0))
    at = [feature.name for feature in FEATURES].index("room_1h_events")
    _, parts = read(tmp_path / "set")
    known = np.concatenate([rows.features[rows.time_ms >= T0 + 2_000, at] for rows in parts])
    assert known.min() > lg(35), "the forty events of the other partition"


def wanted(works: list[Work], recording: Path) -> list[tuple[Work, int]]:
    """The events that are to be rows: those of which the recording tells what followed."""
    with Recording(recording) as file:
        _, end_ms = all_tips(file)
    events = [(work, i) for work in works for i in work.to_score.tolist()]
    return [(work, i) for work, i in events if work.events[i].event_time_ms + 600_000 <= end_ms]


def made(folder: Path) -> list[Rows]:
    return read(folder)[1]


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_event_that_is_scored_becomes_a_row_with_what_followed_it(recording: Path, tmp_path: Path) -> None:
    written = write_dataset(recording, tmp_path / "set", shard_rows=1_000)
    (rows,) = made(tmp_path / "set")
    with Recording(recording) as file:
        tips, _ = all_tips(file)
        assert written.events == file.rows
    every = wanted(pipeline(recording), recording)
    assert len(every) == len(rows.weight) == written.rows > 3_000
    np.testing.assert_array_equal(rows.features, np.array([work.features[i] for work, i in every]))
    np.testing.assert_array_equal(rows.history, np.array([work.history[i] for work, i in every]))
    events = [work.events[i] for work, i in every]
    np.testing.assert_array_equal(rows.time_ms, [event.event_time_ms for event in events])
    labels = [tips.label((each.viewer_id, each.room_id), each.event_time_ms, HORIZONS_S) for each in events]
    np.testing.assert_array_equal(rows.tips, [label.tips for label in labels])
    np.testing.assert_array_equal(rows.amount_minor, [label.amount_minor for label in labels])
    assert rows.tips[:, 1].sum() == written.tips > 50
    assert (rows.weight == 1).all()
    assert rows.latent[rows.tips[:, 1]].mean() > 2 * rows.latent[~rows.tips[:, 1]].mean()
    assert len(list((tmp_path / "set").glob("shard-0-*"))) == -(-written.rows // 1_000)


def test_negatives_are_sampled_and_weighted_back(recording: Path, tmp_path: Path) -> None:
    for name, share in (("whole", 1.0), ("part", 0.2)):
        write_dataset(recording, tmp_path / name, sampling=Sampling(share))
    (whole,), (part,) = made(tmp_path / "whole"), made(tmp_path / "part")
    assert part.tips[:, 1].sum() == whole.tips[:, 1].sum()
    assert part.amount_minor.sum() == whole.amount_minor.sum()
    assert part.weight.sum() == pytest.approx(whole.weight.sum(), rel=0.05)
    assert set(part.weight.tolist()) == {1.0, 5.0}
    assert "20.00% of the events without a tip" in read(tmp_path / "part")[0].source
    for none in (Sampling(0), Sampling(0.5, tippers=1.5)):
        with pytest.raises(RecordingError, match="no share"):
            write_dataset(recording, tmp_path / "none", sampling=none)


def test_viewers_who_tipped_before_may_be_sampled_apart(recording: Path, tmp_path: Path) -> None:
    for name, sampling in (("whole", Sampling()), ("part", Sampling(0.2, tippers=1.0))):
        write_dataset(recording, tmp_path / name, sampling=sampling)
    (whole,), (part,) = made(tmp_path / "whole"), made(tmp_path / "part")
    column = [feature.name for feature in FEATURES].index("viewer_total_tips")
    tipped, kept = whole.features[:, column] > 0, part.features[:, column] > 0
    assert 50 < tipped.sum() == kept.sum()
    assert (part.weight[kept] == 1).all()
    assert set(part.weight[~kept].tolist()) == {1.0, 5.0}
    assert part.weight.sum() == pytest.approx(whole.weight.sum(), rel=0.05)
    assert "20.00% of the events without a tip, 100.00% of those of viewers who" in read(tmp_path / "part")[0].source


def test_what_came_before_is_known_and_not_in_the_set(recording: Path, tmp_path: Path) -> None:
    early, late = halves(recording, tmp_path)
    write_dataset(late, tmp_path / "set", after=[early])
    (rows,) = made(tmp_path / "set")
    every = wanted(pipeline(early, late), late)
    assert len(every) > 500
    np.testing.assert_array_equal(rows.features, np.array([work.features[i] for work, i in every]))


def test_two_workers_make_the_same_files_as_one_process(recording: Path, tmp_path: Path, two_workers: Map) -> None:
    early, late = halves(recording, tmp_path)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for folder, map_ in ((alone, None), (shared, two_workers)):
        write_dataset(late, folder, after=[early], partitions=3, sampling=Sampling(0.5), shard_rows=300, map_=map_)
    assert shards(alone) == shards(shared)
    parts = {name.split("-")[1] for name in shards(alone) if name.startswith("shard")}
    assert parts == {"0", "1", "2"}


def test_one_process_looks_the_tips_up_once(recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def counted(file: Recording) -> tuple[Tips, int]:
        nonlocal looks
        looks += 1
        return all_tips(file)

    monkeypatch.setattr(dataset, "all_tips", counted)
    assert write_dataset(recording, tmp_path / "set", partitions=3).tips > 50
    assert looks == 1


def test_partitions_on_their_own_know_of_rooms_what_they_know_together(recording: Path, tmp_path: Path) -> None:
    early, late = halves(recording, tmp_path)
    write_dataset(late, tmp_path / "set", after=[early], partitions=3)
    works = pipeline(early, late, partitions=3)
    for partition, rows in enumerate(made(tmp_path / "set")):
        lines = [work.features[i] for work, i in wanted(works, late) if work.partitions[i] == partition]
        assert len(lines) > 100
        np.testing.assert_array_equal(rows.features, np.array(lines))
    alone = np.concatenate([work.features[work.to_score] for work in pipeline(early, late)])
    together = np.concatenate([work.features[work.to_score] for work in works])
    assert alone.sum() != together.sum()  # others are heard of late


def test_the_facts_are_the_catalogue_s(recording: Path, tmp_path: Path) -> None:
    write_dataset(recording, tmp_path / "set")
    facts, _ = read(tmp_path / "set")
    assert facts.features == fingerprint()
    assert facts.columns == tuple(feature.name for feature in FEATURES)
    assert facts.history == (HISTORY_LENGTH, N_CHANNELS)
    assert set(PRIOR_COLUMNS) <= set(facts.columns)
    assert facts.source == "simulated.parquet (simulated); all events"


def test_a_part_is_not_written_twice(recording: Path, tmp_path: Path) -> None:
    write_dataset(recording, tmp_path / "set", sampling=Sampling(0.1))
    with pytest.raises(ModelError, match="already holds a training set"):
        write_dataset(recording, tmp_path / "set", sampling=Sampling(0.1))


def test_a_set_whose_maker_failed_half_way_is_not_taken_for_whole(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, late = halves(recording, tmp_path)
    whole = dataset._write

    def breaks(part: dataset.Part, advance: Callable[[int], None], followed: tuple[Tips, int]) -> dataset.Written:
        if part.partition == 1:
            raise RecordingError("It is damaged.")
        return whole(part, advance, followed)

    monkeypatch.setattr(dataset, "_write", breaks)
    with pytest.raises(RecordingError):
        write_dataset(late, tmp_path / "set", after=[early], partitions=3)
    assert list((tmp_path / "set").glob("shard-0-*"))
    with pytest.raises(ModelError, match="is not whole"):
        read(tmp_path / "set")


@pytest.mark.parametrize("partitions", [1, 2])
def test_a_file_is_no_folder_for_a_set(recording: Path, tmp_path: Path, partitions: int) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((ModelError, RecordingError), match="cannot be written to"):
        write_dataset(recording, tmp_path / "file", partitions=partitions)
