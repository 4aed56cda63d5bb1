"""The schedule: recorded gaps, faster, capped, flat out; what is late is told and never stretches the load."""

import asyncio
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from replay.play import FLAT_OUT, Clock, Plan, play
from replay.recording import Record, RecordingError

UNIX_S = 1_700_000_000.0


class World:
    """A clock that only sleeping moves, and a Kafka that notes when it was given what."""

    def __init__(self, partitions: int = 4, busy_s: float = 0.0) -> None:
        self.partitions = partitions
        self.now = 100.0
        self.sent: list[tuple[float, int, int, Record]] = []
        self.flushed = False
        self._busy_s = busy_s

    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: UNIX_S, self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    def partition(self, key: bytes | None) -> int:
        return len(key or b"") % self.partitions

    def send(self, partition: int, timestamp_ms: int, record: Record) -> None:
        self.sent.append((self.now - 100, partition, timestamp_ms, record))

    async def room(self) -> None:
        self.now += self._busy_s

    async def flush(self) -> None:
        self.flushed = True

    def times(self) -> list[float]:
        return [round(at, 3) for at, *_ in self.sent]


def recorded(*timestamps_ms: int) -> list[Record]:
    return [Record(b"kk", b"%d" % i, None, i, None, 1_000 + ms, None) for i, ms in enumerate(timestamps_ms)]


def batches(records: list[Record], size: int = 2) -> Callable[[], Iterator[list[Record]]]:
    return lambda: (records[i : i + size] for i in range(0, len(records), size))


@pytest.mark.parametrize(
    ("plan", "times"),
    [
        (Plan(), [0.0, 0.1, 0.1, 1.0]),
        (Plan(speed=10), [0.0, 0.01, 0.01, 0.1]),
        (Plan(speed=0.5), [0.0, 0.2, 0.2, 2.0]),
        (Plan(speed=FLAT_OUT), [0.0, 0.0, 0.0, 0.0]),
        (Plan(speed=FLAT_OUT, rate_cap=10), [0.1, 0.2, 0.3, 0.4]),
        (Plan(rate_cap=4), [0.25, 0.5, 0.75, 1.0]),
    ],
)
async def test_records_are_sent_when_due(plan: Plan, times: list[float]) -> None:
    world = World()
    played = await play(batches(recorded(0, 100, 100, 1_000)), world, plan, clock=world.clock())
    assert world.times() == pytest.approx(times, abs=0.003)
    assert [record.value for *_, record in world.sent] == [b"0", b"1", b"2", b"3"]
    assert played.records == 4
    assert played.late_max_ms <= 3
    assert played.late_p99_ms <= 2
    assert world.flushed


async def test_timestamps_that_go_back_are_due_at_once() -> None:
    world = World()
    await play(batches(recorded(0, 500, 100, 600)), world, Plan(), clock=world.clock())
    assert world.times() == pytest.approx([0, 0.5, 0.5, 0.6], abs=0.003)


async def test_stamps() -> None:
    world = World()
    await play(batches(recorded(0, 100)), world, Plan(), clock=world.clock())
    assert [timestamp_ms for _, _, timestamp_ms, _ in world.sent] == [1_000, 1_100]
    world = World()
    await play(batches(recorded(0, 100)), world, Plan(speed=2, stamp="now"), clock=world.clock())
    assert [timestamp_ms - UNIX_S * 1000 for _, _, timestamp_ms, _ in world.sent] == [0, 50]


async def test_a_slow_kafka_makes_records_late_and_not_the_load_smaller() -> None:
    """Stamped with the time they were due, so that a reader's latency counts the wait."""
    world = World(busy_s=0.25)
    records = recorded(*range(0, 1_000, 100))
    played = await play(batches(records, 10), world, Plan(stamp="now"), clock=world.clock())
    stamps = [timestamp_ms - UNIX_S * 1000 for _, _, timestamp_ms, _ in world.sent]
    assert stamps == list(range(0, 1_000, 100))
    assert played.seconds < 1.6
    assert played.late_max_ms == pytest.approx(200, abs=60)
    assert played.late_p99_ms <= played.late_max_ms


async def test_partitions_are_kept_or_chosen_by_key() -> None:
    kept = [record._replace(partition=3) for record in recorded(0)]
    for plan, partition in ((Plan(), 3), (Plan(rekey=True), 2)):
        world = World()
        await play(batches(kept), world, plan, clock=world.clock())
        assert world.sent[0][1] == partition
    world = World()
    await play(batches(recorded(0)), world, Plan(), clock=world.clock())
    assert world.sent[0][1] == 2


async def test_a_partition_that_the_topic_lacks_is_refused_in_words() -> None:
    world = World(partitions=2)
    kept = [record._replace(partition=3) for record in recorded(0)]
    with pytest.raises(RecordingError, match="--rekey"):
        await play(batches(kept), world, Plan(), clock=world.clock())


async def test_turns_go_on_in_time_and_copies_share_it() -> None:
    world = World()
    told: list[int] = []
    records = recorded(0, 400)
    played = await play(batches(records), world, Plan(turns=3, copies=2), advance=told.append, clock=world.clock())
    assert played.records == sum(told) == 12
    assert world.times() == pytest.approx(np.repeat([0, 0.4, 1.4, 1.8, 2.8, 3.2], 2).tolist(), abs=0.003)


@pytest.mark.parametrize("first_ms", [-1_400, -1_000, -400, 0])
async def test_turns_go_on_whatever_time_it_was(first_ms: int) -> None:
    world = World()
    records = [record._replace(timestamp_ms=first_ms + ms) for record, ms in zip(recorded(0, 0), (0, 400), strict=True)]
    played = await play(batches(records), world, Plan(turns=2), clock=world.clock())
    assert played.records == 4
    assert world.times() == pytest.approx([0, 0.4, 1.4, 1.8], abs=0.003)


async def test_an_empty_recording_plays_at_once_however_often() -> None:
    world = World()
    assert (await play(batches([]), world, Plan(turns=0), clock=world.clock())).records == 0
    assert (await play(batches([]), world, Plan(), clock=world.clock())).late_p99_ms == 0
