"""The source against a real broker, including what aiokafka gets wrong."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import GroupAuthorizationFailedError
from aiokafka.structs import TopicPartition

from scorer.config import Kafka
from scorer.kafka.refusal import Unreachable
from scorer.kafka.source import KafkaUnavailable, Source, Unreadable
from tests.conftest import Topics
from tests.services import kafka
from tests.services.kafka import Broker
from tests.services.missing import require
from tests.services.topics import create_topic

pytestmark = pytest.mark.kafka


class Notes:
    """An owner that writes down what it is told."""

    def __init__(self) -> None:
        self.now: list[int] = []
        self.told = asyncio.Event()

    def assigned(self, partitions: Sequence[int]) -> None:
        self.now = list(partitions)
        self.told.set()

    async def revoked(self, partitions: Sequence[int]) -> None:
        self.now = []


@asynccontextmanager
async def consuming(
    broker: Broker, topic: str, *, fetch_min_bytes: int = 1, fetch_max_wait_ms: int = 10
) -> AsyncIterator[tuple[Source, Notes]]:
    notes = Notes()
    config = Kafka(
        bootstrap=broker.bootstrap,
        group=f"g.{topic}",
        events_topic=topic,
        fetch_min_bytes=fetch_min_bytes,
        fetch_max_wait_ms=fetch_max_wait_ms,
    )
    source = Source(config, notes)
    await source.start()
    try:
        while not notes.told.is_set():
            await source.poll(50)
        yield source, notes
    finally:
        await source.stop()


async def produce(broker: Broker, topic: str, partition: int, values: Sequence[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, linger_ms=0)
    await producer.start()
    for value in values:  # one batch each
        await producer.send_and_wait(topic, value, key=b"k", partition=partition)
    await producer.stop()


async def read(source: Source, count: int) -> dict[int, list[bytes]]:
    """Poll until `count` records have come."""
    found: dict[int, list[bytes]] = {}
    while sum(map(len, found.values())) < count:
        fetched = await source.poll(200)
        for partition, records in fetched.items():
            found.setdefault(partition, []).extend(record.value or b"" for record in records)
    return found


async def test_a_broker_gathers_records_as_long_as_it_is_told_to(kafka_broker: Broker, kafka_topics: Topics) -> None:
    topic, values = await kafka_topics("events"), [b"%d" % i for i in range(10)]
    async with consuming(kafka_broker, topic, fetch_min_bytes=1_048_576, fetch_max_wait_ms=500) as (source, _):
        source.resume(0, 0)
        produced = asyncio.create_task(produce(kafka_broker, topic, 0, values))
        polls: list[int] = []
        while sum(polls) < len(values):
            polls += map(len, (await source.poll(200)).values())
        await produced
        assert max(polls) >= 5, "each was written by itself, within a few milliseconds of the one before"


async def test_nothing_is_handed_out_before_the_owner_says_from_where(
    kafka_broker: Broker, kafka_topics: Topics
) -> None:
    topic = await kafka_topics("source", 2)
    await produce(kafka_broker, topic, 0, [b"0", b"1", b"2"])
    async with consuming(kafka_broker, topic) as (source, notes):
        assert notes.now == [0, 1]
        assert [await source.poll(20) for _ in range(5)] == [{}] * 5
        assert source.resume(0, 1)
        assert await read(source, 2) == {0: [b"1", b"2"]}


async def test_stopping_while_a_failed_fetch_waits_ends_well_and_leaves_nothing_open(
    kafka_broker: Broker, kafka_topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await kafka_topics("source", 2)
    async with asyncio.timeout(20), consuming(kafka_broker, topic) as (source, _):
        source.resume(0, 0)
        client, fetcher = source._consumer._client, source._consumer._fetcher
        monkeypatch.setattr(fetcher, "_retry_backoff", 60.0)
        while not client._conns or not fetcher._in_flight:
            await source.poll(20)
        for connection in list(client._conns.values()):
            connection.close()
        await source.poll(20)
        assert fetcher._in_flight, "the fetch waits"
        await source.stop()
        assert not any(connection.connected() for connection in client._conns.values())
        assert all(task.done() for task in fetcher._pending_tasks)


async def test_positions_are_committed_and_read_back(kafka_broker: Broker, kafka_topics: Topics) -> None:
    topic = await kafka_topics("source", 2)
    await produce(kafka_broker, topic, 1, [b"0", b"1"])
    async with consuming(kafka_broker, topic) as (source, _):
        assert await source.committed(1) is None
        await source.commit({1: 2}, "note")
        assert await source.committed(1) == 2
        assert await source.bounds(1) == (0, 2)
        assert source.generation > 0


async def test_an_offset_that_retention_has_passed_is_never_reset_silently(
    kafka_broker: Broker, kafka_topics: Topics
) -> None:
    topic = await kafka_topics("source", 2)
    await produce(kafka_broker, topic, 0, [b"%d" % i for i in range(6)])
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap)
    await admin.start()
    await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=4)})
    await admin.close()
    async with consuming(kafka_broker, topic) as (source, _):
        source.resume(0, 1)
        with pytest.raises(Unreadable, match="offset 1 is not in the topic") as caught:
            await read(source, 1)
        assert (caught.value.partition, caught.value.out_of_range) == (0, True)
        source.resume(0, 4)
        assert await read(source, 2) == {0: [b"4", b"5"]}


async def test_one_corrupt_batch_costs_the_other_partitions_nothing(kafka_broker: Broker, kafka_topics: Topics) -> None:
    topic = await kafka_topics("source", 4)
    for partition in range(4):
        await produce(kafka_broker, topic, partition, [b"%d/%d" % (partition, i) for i in range(10)])
    flip_a_byte(kafka_broker.folder / "data" / f"{topic}-2", b"2/4")
    async with consuming(kafka_broker, topic) as (source, _):
        for partition in range(4):
            source.resume(partition, 0)
        given_up: list[Unreadable] = []

        def give_up(error: Unreadable) -> None:
            given_up.append(error)
            source.pause(error.partition)

        found: dict[int, list[bytes]] = {}
        async with asyncio.timeout(30):
            while not given_up or sum(map(len, found.values())) < 34:
                try:
                    fetched = await source.poll(200)
                except Unreadable as error:
                    give_up(error)
                    continue
                for partition, records in fetched.items():
                    found.setdefault(partition, []).extend(record.value or b"" for record in records)
        assert found == {p: [b"%d/%d" % (p, i) for i in range(4 if p == 2 else 10)] for p in range(4)}
        assert [(error.partition, error.offset) for error in given_up] == [(2, 4)]


async def test_trouble_of_the_group_is_held_against_no_partition(
    kafka_broker: Broker, kafka_topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await kafka_topics("source", 2)
    await produce(kafka_broker, topic, 0, [b"0", b"1"])
    async with consuming(kafka_broker, topic) as (source, notes):
        coordinator = source._consumer._coordinator
        join, refusals = coordinator.ensure_active_group, iter(range(5))

        async def refused(*arguments: object) -> object:
            if next(refusals, None) is not None:
                raise GroupAuthorizationFailedError("for a moment")
            return await join(*arguments)

        monkeypatch.setattr(coordinator, "ensure_active_group", refused)
        source.resume(1, 0)
        notes.told.clear()
        coordinator.request_rejoin()
        async with asyncio.timeout(20):
            while not notes.told.is_set():
                await source.poll(50)
        source.resume(0, 0)
        assert await read(source, 2) == {0: [b"0", b"1"]}


async def test_a_group_that_can_never_be_joined_again_ends_the_process(
    kafka_broker: Broker, kafka_topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's task has ended: no call will ever succeed, and only a new client helps."""
    topic = await kafka_topics("source", 2)
    async with consuming(kafka_broker, topic) as (source, _):

        async def broken(*_: object) -> None:
            raise ValueError("a bug")

        monkeypatch.setattr(source._consumer._coordinator, "ensure_active_group", broken)
        source._consumer._coordinator.request_rejoin()

        async def poll_on() -> None:
            while True:
                await source.poll(50)

        with pytest.raises(Unreachable, match=r"answers.*a bug") as told:
            await asyncio.wait_for(poll_on(), 10)
        assert not told.value.final, "the next attempt may do better"


async def test_a_poll_is_never_cancelled_by_its_timeout(kafka_broker: Broker, kafka_topics: Topics) -> None:
    """A cancelled `getmany` counts as under way for ever, and the group no longer notices a member that hangs."""
    topic = await kafka_topics("source", 2)
    async with consuming(kafka_broker, topic) as (source, _):
        source.resume(0, 0)
        await source.poll(20)
        assert source._consumer._subscription._fetch_count == 0


async def test_the_end_of_a_transaction_is_not_a_waiting_record(kafka_broker: Broker, kafka_topics: Topics) -> None:
    """Else a quiet topic with transactional producers looks stuck for ever."""
    topic = await kafka_topics("source", 2)
    producer = AIOKafkaProducer(bootstrap_servers=kafka_broker.bootstrap, transactional_id=topic)
    await producer.start()
    async with producer.transaction():
        await producer.send_and_wait(topic, b"0", partition=0)
    await producer.stop()
    async with consuming(kafka_broker, topic) as (source, _):
        source.resume(0, 0)
        assert await read(source, 1) == {0: [b"0"]}
        assert (await source.bounds(0)).end == 2
        async with asyncio.timeout(10):
            while source.lag(0) != 0:
                assert await source.poll(50) == {}


async def test_a_client_that_fetches_no_more_does_not_hide_what_waits(
    kafka_broker: Broker, kafka_topics: Topics
) -> None:
    topic = await kafka_topics("source", 2)
    async with consuming(kafka_broker, topic) as (source, _):
        source.resume(0, 0)
        await produce(kafka_broker, topic, 0, [b"0"])
        assert await read(source, 1) == {0: [b"0"]}
        source._consumer._fetcher._fetch_task.cancel()
        await produce(kafka_broker, topic, 0, [b"1", b"2", b"3"])
        await source.look()
        assert source.lag(0) == 3


async def test_what_a_dead_broker_does_not_answer_may_be_asked_again(tmp_path: Path) -> None:
    require(kafka.missing())
    broker = Broker(tmp_path / "kafka")
    await asyncio.to_thread(broker.start)
    try:
        topic = await create_topic(broker.bootstrap, "source", 2)
        async with consuming(broker, topic) as (source, _):
            source._consumer._request_timeout_ms = 500
            broker.kill()
            with pytest.raises(KafkaUnavailable):
                await source.bounds(0)
    finally:
        broker.child and broker.child.kill()


def flip_a_byte(folder: Path, marker: bytes) -> None:
    """Damage the record that holds `marker` where it lies on the broker's disk."""
    (segment,) = folder.glob("*.log")
    content = bytearray(segment.read_bytes())
    at = content.index(marker)
    content[at] ^= 0xFF
    with segment.open("r+b") as file:
        file.seek(at)
        file.write(content[at : at + 1])
