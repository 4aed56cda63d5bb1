"""A topic becomes a recording whatever its records hold."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from replay.kafka import Producer
from replay.record import record
from replay.recording import Record, Recording
from scorer.config import Kafka
from scorer.embedded.kafka import MockCluster


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


async def test_a_time_that_no_column_holds_is_recorded_as_not_told(kafka: Kafka, tmp_path: Path) -> None:
    times = {b"9223372036854775807": 2**63 - 1, b"9223372036854775808": None, b"-9223372036854775809": None}
    values = [b'{"event_time_ms":%s}' % time for time in times]
    await send(kafka, *values)
    assert await record(kafka, "events", tmp_path / "out.parquet") == 3
    assert {each.value: each.event_time_ms for each in read(tmp_path / "out.parquet")} == dict(
        zip(values, times.values(), strict=True)
    )
