"""The loop between a list and a list: order, what is durable when, and what a failure leaves behind."""

import asyncio

import pytest

from features.store import Written
from scorer import loop
from scorer.kafka.source import Unreadable
from scorer.lease import Lease
from tests.scorer.rig import FaultyStore, ListSink, Log, Member, expected_rows, say


def filled(n: int, partitions: int = 1) -> Log:
    log = Log(partitions)
    for partition in range(partitions):
        log.records[partition] = [say(i, f"v{i % 5}", f"r{i % 2}") for i in range(n)]
    return log


def renumbered(log: Log) -> Log:
    """The same records without a gap in their offsets."""
    other = Log(1)
    other.records[0] = [record._replace(offset=offset) for offset, record in enumerate(log.records[0])]
    return other


async def test_every_record_is_scored_in_order_and_made_durable() -> None:
    log, store, sink = filled(50, 3), FaultyStore(), ListSink()
    member = Member(log, store, sink)
    member.start(0, 1, 2)
    for partition in range(3):
        await member.until(partition, 50)
    await member.end()
    for partition in range(3):
        assert sink.offsets(partition) == list(range(50))
        assert store.rows(partition) == await expected_rows(log, partition)
    assert member.metrics.totals().consumed == 150
    assert member.metrics.totals().unaccounted == 0


async def test_nothing_is_durable_before_its_scores_are_acknowledged() -> None:
    member = Member(filled(20), FaultyStore(), ListSink())
    member.sink.held = True
    member.start(0)
    await handed_over(member, 2)
    for _ in range(50):
        await asyncio.sleep(0)
    assert member.store.offset(0) == 0
    member.sink.waiting[1].set_result(None)  # out of turn
    for _ in range(50):
        await asyncio.sleep(0)
    assert member.store.offset(0) == 0
    member.sink.held = False
    member.sink.waiting[0].set_result(None)
    await member.until(0, 20)
    await member.end()


@pytest.mark.parametrize("steps", range(12))
async def test_the_stored_offset_never_goes_back(steps: int) -> None:
    """Whatever the moment at which acknowledgements and the next cut meet."""
    log, more = filled(3), filled(6)
    member = Member(log, FaultyStore(), ListSink(), checkpoint_ms=1e12)
    member.sink.held = True
    member.start(0)
    await handed_over(member, 1)
    member.loop.cut()
    log.records[0] += more.records[0][3:]
    await handed_over(member, 2)
    for waiting in member.sink.waiting:
        waiting.set_result(None)
    for _ in range(steps):
        await asyncio.sleep(0)
    member.loop.cut()
    await member.until(0, 6)
    member.sink.held = False
    await member.end()
    offsets = [write.offset for write in member.store.writes]
    assert offsets == sorted(offsets)
    assert member.store.rows(0) == await expected_rows(log, 0)


async def handed_over(member: Member, batches: int) -> None:
    """Wait until the sink has so many; no longer."""
    async with asyncio.timeout(60):
        while len(member.sink.waiting) < batches:  # noqa: ASYNC110 -- the turns of the loop are what is tested
            await asyncio.sleep(0)


@pytest.mark.parametrize("steps", range(12))
async def test_after_a_failure_nothing_later_becomes_durable(steps: int) -> None:
    """Else the store would pass over the events of the batch that failed."""
    member = Member(filled(6), FaultyStore(), ListSink(), checkpoint_ms=1e12)
    member.sink.held = True
    member.start(0)
    await handed_over(member, 2)
    first, second = member.sink.waiting
    second.set_result(None)
    first.set_exception(RuntimeError("a bug"))
    for _ in range(steps):
        await asyncio.sleep(0)
    member.loop.cut()
    assert member.running is not None
    with pytest.raises(RuntimeError, match="a bug"):
        async with asyncio.timeout(60):
            await member.running
    await member.ownership.drain(list(member.ownership.leases.values()), 0.1)
    assert member.store.offset(0) == 0


async def test_a_cancellation_by_a_library_is_a_failure() -> None:
    """Else the member would go on, publish, and never store anything again."""
    member = Member(filled(20), FaultyStore(), ListSink())
    member.sink.held = True
    member.start(0)
    await handed_over(member, 2)
    member.sink.waiting[0].cancel()
    assert member.running is not None
    with pytest.raises(RuntimeError, match=r"batch-\d+ was cancelled"):
        async with asyncio.timeout(60):
            await member.running


async def test_a_failure_while_stopping_is_not_hushed_up() -> None:
    member = Member(filled(10), FaultyStore(), ListSink())
    member.sink.held = True
    member.start(0)
    await handed_over(member, 2)
    member.stop.set()
    member.sink.held = False
    for waiting in member.sink.waiting:
        waiting.set_exception(RuntimeError("a bug"))
    assert member.running is not None
    with pytest.raises(RuntimeError, match="a bug"):
        await member.running


async def test_a_backlog_is_not_read_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_READ_AHEAD", 200)
    log = filled(2_000)
    member = Member(log, FaultyStore(), ListSink())
    member.source.most = 100
    most = 0
    member.start(0)
    async with asyncio.timeout(60):
        while member.store.offset(0) != 2_000:
            most = max(most, sum(len(lease.queue) for lease in member.ownership.leases.values()))
            await asyncio.sleep(0)
    await member.end()
    assert 200 <= most < 300


async def test_intake_waits_while_the_store_does_not_keep_up() -> None:
    log = filled(2_000)
    member = Member(log, FaultyStore(), ListSink())
    member.start(0)
    await member.until(0, 3)
    member.store.away = True
    read = -1
    async with asyncio.timeout(60):
        while read != (read := member.source.position[0]):  # noqa: ASYNC110 -- until it stands still
            await asyncio.sleep(0.1)
    assert read < 2_000
    member.store.away = False
    await member.until(0, 2_000)
    await member.end()
    assert member.sink.offsets(0) == list(range(2_000))
    assert member.store.rows(0) == await expected_rows(log, 0)


async def test_records_of_a_partition_lost_on_the_way_are_neither_published_nor_written() -> None:
    log = filled(12, 2)
    member = Member(log, FaultyStore(), ListSink())
    member.sink.held = True
    member.start(0, 1)
    await handed_over(member, 2)
    lease: Lease = member.ownership.leases[0]
    published = len(member.sink.offsets(0))
    await member.store.claim(0, 2, "b")
    member.ownership.refused(lease, Written.FENCED)
    member.sink.held = False
    for waiting in member.sink.waiting:
        waiting.set_result(None)
    await member.until(1, 12)
    await member.end()
    assert member.store.offset(0) == 0
    assert len(member.sink.offsets(0)) <= published + member.source.most  # what was handed over by then
    assert member.sink.offsets(1) == list(range(12))


async def test_what_a_lost_lease_left_uncut_takes_nothing_from_the_next_one() -> None:
    log = filled(6)
    member = Member(log, FaultyStore(), ListSink(), checkpoint_ms=1e12)
    member.start(0)
    await member.until(0, 0)
    await published(member, 6)
    member.ownership.reclaim(0)
    await published(member, 12)
    assert member.running is not None
    member.loop.cut()
    await member.until(0, 6)
    await member.end()
    assert member.store.rows(0) == await expected_rows(log, 0)


async def published(member: Member, scores: int) -> None:
    """Wait until the sink was given so many."""
    async with asyncio.timeout(60):
        while len(member.sink.published) < scores:  # noqa: ASYNC110 -- the turns of the loop are what is tested
            await asyncio.sleep(0)


async def test_a_clock_that_is_set_back_does_not_keep_rows_from_being_stored() -> None:
    log = filled(3)
    member = Member(log, FaultyStore(), ListSink(), checkpoint_ms=100)
    member.start(0)
    async with asyncio.timeout(60):
        while not member.loop._uncut:  # noqa: ASYNC110 -- the loop runs by itself
            await asyncio.sleep(0)
    member.now_ms -= 3_600_000
    await member.until(0, 3)
    await member.end()


async def test_what_was_read_before_a_gap_is_stored_before_going_on_after_it() -> None:
    log, sink = filled(10), ListSink()
    member = Member(log, FaultyStore(), sink, checkpoint_ms=100, on_out_of_range="earliest")
    whole, log.records[0] = log.records[0], log.records[0][:6]
    member.start(0)
    async with asyncio.timeout(60):
        while len(sink.offsets(0)) < 6:  # noqa: ASYNC110 -- the loop runs by itself
            await asyncio.sleep(0)
    log.records[0], log.begin[0] = whole, 8  # 6 and 7 are gone
    member.loop._unreadable(Unreadable(0, 6, "gone", out_of_range=True))
    async with asyncio.timeout(60):
        while member.store.offset(0) != 10:
            member.now_ms += 50
            await asyncio.sleep(0)
    await member.end()
    assert sink.offsets(0) == [0, 1, 2, 3, 4, 5, 8, 9]
    assert member.ownership.skipped == 2
    del log.records[0][6:8]
    assert member.store.rows(0) == await expected_rows(renumbered(log), 0)


async def test_rows_are_not_read_on_from_once_another_owner_was_there() -> None:
    """A member that was frozen would mix what the other has counted into its own rows, and score by the mixture."""
    log, store, sink = filled(4), FaultyStore(), ListSink()
    frozen = Member(log, store, sink, name="frozen")
    frozen.start(0)
    await frozen.until(0, 4)
    log.generation = 2
    await store.claim(0, 2, "other")
    log.records[0].append(say(4, "not in memory"))
    async with asyncio.timeout(60):
        while 0 not in frozen.ownership.stopped:  # noqa: ASYNC110 -- the turns of the loop are what is tested
            await asyncio.sleep(0)
    assert sink.offsets(0) == [0, 1, 2, 3]
    await frozen.end()


@pytest.mark.parametrize("bound", ["_UNWRITTEN", "_UNWRITTEN_ROWS"])
async def test_what_waits_for_the_store_is_bounded(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, bound, 6)
    log = filled(400)
    member = Member(log, FaultyStore(), ListSink())
    member.start(0)
    await member.until(0, 0)
    member.store.faults = ["refuse"] * 1_000_000
    for _ in range(3_000):
        await asyncio.sleep(0)
    assert 6 <= len(member.sink.offsets(0)) < 300
    member.store.faults.clear()
    await member.until(0, 400)
    await member.end()
    assert member.sink.offsets(0) == list(range(400))
