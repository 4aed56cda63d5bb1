"""Claims, and what stops a partition, against a store and a topic in memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from features.engine import Changes
from features.store import Checkpoint, StaleClaim, StoreUnavailable, TornState
from scorer.kafka.source import KafkaUnavailable
from tests.scorer.rig import FaultyStore, ListSink, Member, assigned, claimed, expected_rows, filled, member_of

NOTHING = Changes({}, {})


@contextlib.asynccontextmanager
async def claim_before_its_first_write(member: Member) -> AsyncIterator[None]:
    """Partition 0 is claimed within; a batch seems to hold the rows, so that the first write waits for the end."""
    async with member.ownership.steady:
        member.ownership.assigned([0])
        for _ in range(20):
            await asyncio.sleep(0)
        yield


def first_seen(offsets: list[int]) -> list[int]:
    """What a reader keeps that drops whatever is not above the highest offset it has seen."""
    return [offset for i, offset in enumerate(offsets) if offset > max(offsets[:i], default=-1)]


@pytest.mark.parametrize(("start_from", "offset"), [("earliest", 2), ("latest", 9)])
async def test_a_new_partition_begins_where_the_configuration_says(start_from: str, offset: int) -> None:
    log = filled(9)
    log.begin[0] = 2
    member = member_of(log, start_from=start_from)
    await assigned(member, 0)
    assert member.ownership.leases[0].stored == offset
    assert member.source.position == {0: offset}
    assert member.store.offset(0) == offset  # written down: a crash before the first batch changes nothing


async def test_a_partition_goes_on_at_the_stored_offset_not_at_kafkas() -> None:
    log = filled(9)
    log.committed[0] = 3
    member = member_of(log)
    await member.store.claim(0, 0, "before")
    await member.store.checkpoint(Checkpoint(0, 1, None, 5, NOTHING))
    await assigned(member, 0)
    assert member.source.position == {0: 5}


async def test_nothing_is_read_before_the_claim_is_done() -> None:
    member = member_of(filled(9))
    member.store.away = True
    member.ownership.assigned([0])
    for _ in range(100):
        await asyncio.sleep(0)
    assert (member.source.position, member.ownership.leases) == ({}, {})
    assert list(member.ownership.obstacles) == [0], "and the probe can say why"
    member.store.away = False
    await claimed(member.ownership)
    assert member.source.position == {0: 0}
    assert not member.ownership.obstacles


async def test_a_claim_survives_that_kafka_is_away_for_a_moment() -> None:
    """A broker may go down just after it has handed out partitions; that needs patience, not a person."""
    member = member_of(filled(9))
    member.source.faults = [KafkaUnavailable("no coordinator"), KafkaUnavailable("no leader")]
    await assigned(member, 0)
    assert member.source.position == {0: 0}
    assert not member.ownership.stopped


async def test_offsets_that_kafka_did_not_take_are_told_again() -> None:
    """Else the lag of a partition that has gone quiet would stay wrong."""
    member = member_of(filled(9))
    member.start(0)
    await member.until(0, 9)
    member.source.faults = [KafkaUnavailable("no coordinator")]
    await member.ownership.commit()
    assert member.log.committed == {}
    await member.ownership.commit()
    assert member.log.committed == {0: 9}
    await member.end()


async def test_a_store_emptied_between_claim_and_first_write_is_claimed_again() -> None:
    member = member_of(filled(9))
    async with claim_before_its_first_write(member):
        member.store.flush()
    await claimed(member.ownership)
    assert member.source.position == {0: 0}
    assert member.store.offset(0) == 0


async def test_a_claim_overtaken_by_another_owner_lets_go() -> None:
    member = member_of(filled(9))
    async with claim_before_its_first_write(member):
        await member.store.claim(0, 2, "newer")
    await claimed(member.ownership)
    assert (member.source.position, member.ownership.leases) == ({}, {})


async def test_a_claim_overtaken_by_one_who_should_have_been_gone_is_made_again() -> None:
    member = member_of(filled(9))
    async with claim_before_its_first_write(member):
        member.store.flush()
        await member.store.claim(0, 0, "a member of an older generation")
    await claimed(member.ownership)
    assert member.source.position == {0: 0}


async def test_a_claim_of_an_older_generation_shows_until_the_next_assignment() -> None:
    """Usually that is at once; but a group deleted and made anew counts from one, and then a person is needed."""
    member = member_of(filled(9))
    await member.store.claim(0, 7, "newer")
    await assigned(member, 0)
    assert member.ownership.leases == {}
    assert member.ownership.stopped[0].reason == "stale-claim"
    await member.ownership.revoked([0])
    assert not member.ownership.stopped
    member.source.generation = 8
    await assigned(member, 0)
    assert 0 in member.ownership.leases
    assert not member.ownership.stopped


@pytest.mark.parametrize("call", ["claim", "checkpoint"])
async def test_a_cancelled_claim_ends_even_if_the_store_swallows_the_cancellation(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py may. A claim that went on would take another owner's partition, or reset rows under a newer claim."""
    member = member_of(filled(9))
    real = getattr(member.store, call)
    reached = asyncio.Event()

    async def deaf(*arguments: object) -> object:
        reached.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await real(*arguments)

    monkeypatch.setattr(member.store, call, deaf)
    member.ownership.assigned([0])
    await reached.wait()
    (claim,) = member.ownership.claiming.values()
    await member.ownership.revoked([0])
    await asyncio.wait([claim])
    assert (member.ownership.leases, member.source.position) == ({}, {})


@pytest.mark.parametrize("error", [StaleClaim("newer"), TornState("half"), StoreUnavailable("away")])
async def test_what_a_claim_that_was_cancelled_still_finds_is_not_held_against_the_partition(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is another member's by now: a member that named it as stopped would not be ready until it came back."""
    member = member_of(filled(9))
    reached = asyncio.Event()
    calls = 0

    async def deaf(*_: object) -> None:
        nonlocal calls
        calls += 1
        assert calls == 1, "it is not tried again"
        reached.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        raise error

    monkeypatch.setattr(member.store, "claim", deaf)
    member.ownership.assigned([0])
    await reached.wait()
    (claim,) = member.ownership.claiming.values()
    await member.ownership.revoked([0])
    await asyncio.wait([claim], timeout=5)
    assert claim.cancelled()
    assert not member.ownership.stopped


async def test_a_torn_state_stops_the_partition_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    member = member_of(filled(9))

    async def claim(partition: int, generation: int, owner: str) -> None:
        raise TornState("a write stopped halfway; delete the keys")

    monkeypatch.setattr(member.store, "claim", claim)
    await assigned(member, 0)
    assert "delete the keys" in member.ownership.stopped[0].advice
    assert member.source.position == {}


@pytest.mark.parametrize(
    ("stored", "committed", "begin", "reason"),
    [
        (20, None, 0, "topic-behind-state"),
        (None, 20, 0, "topic-behind-state"),
        (5, 20, 0, "topic-behind-state"),
        (2, None, 4, "offset-out-of-range"),
    ],
)
async def test_a_topic_that_does_not_fit_the_state_stops_the_partition(
    stored: int | None, committed: int | None, begin: int, reason: str
) -> None:
    log = filled(9)
    log.begin[0] = begin
    if committed is not None:
        log.committed[0] = committed
    member = member_of(log)
    if stored is not None:
        await member.store.claim(0, 0, "before")
        await member.store.checkpoint(Checkpoint(0, 1, None, stored, NOTHING))
    await assigned(member, 0)
    assert member.ownership.stopped[0].reason == reason
    assert (member.source.position, member.ownership.leases) == ({}, {})


async def test_a_gap_left_by_retention_may_be_accepted_and_is_counted_once_however_often_it_is_claimed() -> None:
    log = filled(9)
    member = member_of(log, on_out_of_range="earliest")
    member.start(0)
    await member.until(0, 9)
    log.records[0] += filled(15).records[0][9:]
    log.begin[0] = 15
    for _ in range(3):
        member.ownership.reclaim(0)
        await claimed(member.ownership)
    assert (member.store.offset(0), member.ownership.skipped) == (15, 6)
    log.records[0] += filled(20).records[0][15:]
    await member.until(0, 20)
    await member.end()
    assert member.sink.offsets(0)[-5:] == list(range(15, 20))
    assert member.ownership.skipped == 6


async def test_an_emptied_store_is_rebuilt_and_nothing_is_published_twice() -> None:
    log, store, sink = filled(30), FaultyStore(), ListSink()
    member = Member(log, store, sink)
    member.start(0)
    await member.until(0, 30)
    await member.ownership.commit()
    store.flush()
    log.records[0] += filled(40).records[0][30:]
    await member.until(0, 40)
    await member.end()
    assert first_seen(sink.offsets(0)) == list(range(40))
    assert sink.offsets(0).index(30) == 30  # of what Kafka had been told, nothing came twice
    assert store.rows(0) == await expected_rows(log, 0)


async def test_a_rebuild_that_was_interrupted_still_publishes_nothing_twice() -> None:
    log, store, sink = filled(30), FaultyStore(), ListSink()
    member = Member(log, store, sink)
    member.start(0)
    await member.until(0, 30)
    await member.ownership.commit()
    await member.end()
    store.flush()
    second = Member(log, store, sink, name="b")
    second.source.most = 1
    second.start(0)
    await second.until(0, 11)
    await second.ownership.commit()
    await second.end()
    assert log.committed[0] == 30  # the copy does not go back with the store
    third = Member(log, store, sink, name="c")
    third.start(0)
    await third.until(0, 30)
    await third.end()
    assert sink.offsets(0) == list(range(30))
    assert store.rows(0) == await expected_rows(log, 0)


async def test_a_store_that_went_back_takes_the_partition_with_it() -> None:
    log, store, sink = filled(30), FaultyStore(), ListSink()
    member = Member(log, store, sink)
    member.start(0)
    await member.until(0, 12)
    saved = store.snapshot()
    await member.until(0, 30)
    store.restore(saved)
    log.records[0] += filled(40).records[0][30:]
    await member.until(0, 40)
    await member.end()
    assert first_seen(sink.offsets(0)) == list(range(40))
    assert store.rows(0) == await expected_rows(log, 0)
