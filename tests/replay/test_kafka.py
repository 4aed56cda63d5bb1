"""Records arrive whole and in order, and come back the same: on the embedded broker, and on a real one."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from aiokafka.partitioner import DefaultPartitioner

from replay import record as recorder
from replay.kafka import KafkaAccessError, Producer, Range, Reader
from replay.play import FLAT_OUT, Plan, play
from replay.recording import Record, Recording, RecordingError
from replay.simulate import Traffic, simulate
from replay.simulate.recorded import records
from scorer.config import Kafka
from scorer.embedded.kafka import MockCluster
from scorer.ports import free_port
from tests.conftest import Topics
from tests.services.kafka import Broker

TRAFFIC = Traffic(rate=400, duration_s=10)


@pytest.fixture
def embedded() -> Iterator[Kafka]:
    cluster = MockCluster({"events": 4})
    yield Kafka(bootstrap=cluster.bootstrap, events_topic="events")
    cluster.close()


@pytest.fixture
async def real(kafka_broker: Broker, kafka_topics: Topics) -> Kafka:
    return Kafka(bootstrap=kafka_broker.bootstrap, events_topic=await kafka_topics("events", partitions=4))


def traffic() -> Iterator[list[Record]]:
    for moment in simulate(TRAFFIC):
        yield [record._replace(headers=[("n", b"1")]) for record in records(moment, TRAFFIC)]


async def send(kafka: Kafka, batches: Callable[[], Iterator[list[Record]]] = traffic) -> list[Record]:
    async with Producer(kafka, kafka.events_topic) as producer:
        played = await play(batches, producer, Plan(speed=FLAT_OUT))
        assert producer.acknowledged == played.records
    return [record for batch in batches() for record in batch]


def by_key(rows: list[Record]) -> dict[bytes | None, list[Record]]:
    """A viewer's records, in their order, without what Kafka gives."""
    found: dict[bytes | None, list[Record]] = defaultdict(list)
    for record in rows:
        found[record.key].append(record._replace(partition=None, offset=None))
    return found


async def round_trip(kafka: Kafka, target: Path) -> None:
    sent = await send(kafka)
    told: list[recorder.Progress] = []
    n = await recorder.record(kafka, kafka.events_topic, target, report=told.append)
    with Recording(target) as recording:
        assert recording.metadata == {"topic": kafka.events_topic}
        got = [record for batch in recording.batches() for record in batch]
    assert n == len(got) == len(sent)
    assert told[-1] == recorder.Progress(n, n)
    assert by_key(got) == by_key(sent)
    choose = DefaultPartitioner()
    assert all(record.partition == choose(record.key, [0, 1, 2, 3], [0]) for record in got)
    offsets: dict[int | None, list[int | None]] = defaultdict(list)
    for record in got:
        offsets[record.partition].append(record.offset)
    assert all(found == list(range(len(found))) for found in offsets.values())
    assert [record.timestamp_ms for record in got] == sorted(record.timestamp_ms for record in got)
    assert sorted(path.name for path in target.parent.iterdir()) == [target.name]


async def test_what_is_played_can_be_recorded(embedded: Kafka, tmp_path: Path) -> None:
    await round_trip(embedded, tmp_path / "out.parquet")


@pytest.mark.kafka
async def test_what_is_played_can_be_recorded_from_a_real_broker(real: Kafka, tmp_path: Path) -> None:
    await round_trip(real, tmp_path / "out.parquet")


@pytest.mark.kafka
async def test_a_range_of_time_is_recorded(real: Kafka, tmp_path: Path) -> None:
    sent = await send(real)
    middle = sent[len(sent) // 2].timestamp_ms
    n = await recorder.record(real, real.events_topic, tmp_path / "out.parquet", since_ms=middle)
    assert n == sum(record.timestamp_ms >= middle for record in sent)
    n = await recorder.record(real, real.events_topic, tmp_path / "out.parquet", until_ms=middle)
    assert n == sum(record.timestamp_ms < middle for record in sent)


async def test_an_interrupted_recording_goes_on(embedded: Kafka, tmp_path: Path) -> None:
    """With the range that it began with, and without reading again what it has."""
    sent = await send(embedded)
    whole = tmp_path / "whole.parquet"
    await recorder.record(embedded, "events", whole)
    target, parts = tmp_path / "out.parquet", tmp_path / "out.parquet.parts"

    async def stop_at(share: float) -> None:
        def report(now: recorder.Progress) -> None:
            if now.done >= share * now.total:
                raise asyncio.CancelledError

        await recorder.record(embedded, "events", target, report=report)

    with pytest.raises(asyncio.CancelledError):
        await stop_at(1)
    assert not target.exists()
    await send(embedded)  # comes after the range
    had = {path: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    assert had
    n = await recorder.record(embedded, "events", target)
    assert n == len(sent)
    assert target.read_bytes() != b""
    with Recording(target) as ours, Recording(whole) as theirs:
        assert list(ours.batches()) == list(theirs.batches())
    assert not parts.exists()


async def test_parts_of_another_topic_are_not_mixed_in(embedded: Kafka, tmp_path: Path) -> None:
    parts = tmp_path / "out.parquet.parts"
    parts.mkdir()
    (parts / recorder.PLAN).write_bytes(msgspec.json.encode({"topic": "others", "ranges": {}}))
    with pytest.raises(RecordingError, match="others"):
        await recorder.record(embedded, "events", tmp_path / "out.parquet")
    for damaged in (b"{", b'{"topic": "\xff"}'):
        (parts / recorder.PLAN).write_bytes(damaged)
        with pytest.raises(RecordingError, match="remove"):
            await recorder.record(embedded, "events", tmp_path / "out.parquet")


async def test_an_empty_topic_gives_an_empty_recording(embedded: Kafka, tmp_path: Path) -> None:
    assert await recorder.record(embedded, "events", tmp_path / "out.parquet") == 0
    with Recording(tmp_path / "out.parquet") as recording:
        assert recording.rows == 0


async def test_records_that_fill_many_batches_keep_their_order(embedded: Kafka) -> None:
    many = [Record(b"k", b"%d" % i + bytes(2_000), 1, None, None, 1_000 + i, None) for i in range(500)]
    await send(embedded, lambda: iter([many]))
    async with Reader(embedded, "events") as reader:
        got = [record async for *_, batch in reader.read({1: Range(0, 500)}) for record in batch]
    assert [record.value for record in got] == [record.value for record in many]


async def test_a_broker_lost_in_the_middle_is_told_in_words(embedded: Kafka, tmp_path: Path) -> None:
    cluster = MockCluster({"events": 4})
    kafka = Kafka(bootstrap=cluster.bootstrap, events_topic="events")
    await send(kafka)
    async with Reader(kafka, "events", silence_s=0.5) as reader:
        ranges = await reader.ranges(None, None)
        cluster.close()
        with pytest.raises(KafkaAccessError, match=r"Nothing has come of events for 0\.5 s\. Once Kafka at"):
            async for _ in reader.read(ranges):
                pass
        with pytest.raises(KafkaAccessError, match="--bootstrap"):
            await reader.ranges(None, None)


async def test_what_the_client_cannot_take_is_told_and_not_waited_for(embedded: Kafka) -> None:
    async with asyncio.timeout(20), Producer(embedded, "events") as producer:
        producer.send(0, 2**80, Record(b"k", b"{}", None, None, None, 0, None))
        with pytest.raises(KafkaAccessError, match="did not take all records"):
            await producer.flush()


@pytest.mark.parametrize("use", [Producer, Reader])
async def test_no_broker_is_told_in_words(use: Callable[[Kafka, str], Producer | Reader]) -> None:
    with pytest.raises(KafkaAccessError, match="--bootstrap") as told:
        async with use(Kafka(bootstrap=f"127.0.0.1:{free_port()}"), "events"):
            pass
    assert str(told.value).count("KafkaConnectionError") == 1


@pytest.mark.kafka
async def test_a_missing_topic_is_told_in_words(kafka_broker: Broker) -> None:
    for use in (Producer, Reader):
        with pytest.raises(KafkaAccessError, match=r"missing\.topic"):
            async with asyncio.timeout(30), use(Kafka(bootstrap=kafka_broker.bootstrap), "missing.topic"):
                pass


@pytest.mark.kafka
async def test_refused_records_are_told_in_words(kafka_broker: Broker, kafka_topics: Topics) -> None:
    topic = await kafka_topics("small", partitions=1, settings={"max.message.bytes": "1000"})
    kafka = Kafka(bootstrap=kafka_broker.bootstrap, events_topic=topic)
    large = [Record(b"k", bytes(5_000), None, None, None, 1_000, None)]
    with pytest.raises(KafkaAccessError, match="did not take all records"):
        await send(kafka, lambda: iter([large]))
