"""A topic becomes a recording whatever its records hold, by one process at a time, in bounded memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from engines import files
from replay import kafka as clients
from replay import record as recorder
from replay.kafka import KafkaAccessError, Producer
from replay.record import record
from replay.recording import Record, Recording, RecordingError
from scorer.config import Kafka
from scorer.embedded.kafka import MockCluster
from scorer.ports import free_port


@pytest.fixture
def kafka() -> Iterator[Kafka]:
    cluster = MockCluster({"events": 3})
    yield Kafka(bootstrap=cluster.bootstrap, events_topic="events")
    cluster.close()


async def send(kafka: Kafka, *values: bytes) -> None:
    """Send records to the partitions in turn, a millisecond apart."""
    async with Producer(kafka, "events") as producer:
        for i, value in enumerate(values):
            producer.send(i % producer.partitions, 1_000 + i, Record(b"k", value, None, None, None, 0, None))
        await producer.flush()


def read(path: Path) -> list[Record]:
    with Recording(path) as recording:
        return [each for batch in recording.batches() for each in batch]


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_a_time_that_no_column_holds_is_recorded_as_not_told(kafka: Kafka, tmp_path: Path) -> None:
    times = {b"9223372036854775807": 2**63 - 1, b"9223372036854775808": None, b"-9223372036854775809": None}
    values = [b'{"event_time_ms":%s}' % time for time in times]
    await send(kafka, *values)
    assert await record(kafka, "events", tmp_path / "out.parquet") == 3
    assert {each.value: each.event_time_ms for each in read(tmp_path / "out.parquet")} == dict(
        zip(values, times.values(), strict=True)
    )


async def test_one_process_at_a_time_records_under_a_name(kafka: Kafka, tmp_path: Path) -> None:
    await send(kafka, b"{}")
    parts = tmp_path / "out.parquet.parts"
    parts.mkdir()
    with files.locked(parts / "lock"), pytest.raises(RecordingError, match="Another process records into"):
        await record(kafka, "events", tmp_path / "out.parquet")
    assert await record(kafka, "events", tmp_path / "out.parquet") == 1
    assert names(tmp_path) == ["out.parquet"]


async def test_nothing_is_left_where_nothing_was_begun(tmp_path: Path) -> None:
    with pytest.raises(KafkaAccessError):
        await record(Kafka(bootstrap=f"127.0.0.1:{free_port()}"), "events", tmp_path / "out.parquet")
    assert names(tmp_path) == []


async def test_a_place_where_nothing_can_be_written_is_told_in_words(kafka: Kafka, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordingError, match=r"out\.parquet\.parts cannot be written: Not a directory\."):
        await record(kafka, "events", tmp_path / "file" / "out.parquet")
    (tmp_path / "out.parquet.parts" / recorder.PLAN).mkdir(parents=True)
    with pytest.raises(RecordingError, match=r"remove .*parts and record again"):
        await record(kafka, "events", tmp_path / "out.parquet")


async def test_what_is_held_does_not_grow_with_the_partitions(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, held, written, write = 10, 30, [], recorder._write_part

    def written_down(parts: Path, number: int, first: int, end: int, records: list[Record]) -> None:
        written.append(len(records))
        write(parts, number, first, end, records)

    monkeypatch.setattr(clients, "_FETCH", fetch)
    monkeypatch.setattr(recorder, "_HELD", held)
    monkeypatch.setattr(recorder, "_write_part", written_down)
    values = [b"%d" % i for i in range(300)]
    await send(kafka, *values)
    assert await record(kafka, "events", tmp_path / "out.parquet") == 300
    assert sum(written) == 300
    assert max(written) <= held + fetch
    assert [each.value for each in read(tmp_path / "out.parquet")] == values
