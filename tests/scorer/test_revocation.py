"""Partitions that are revoked or lost: what is finished, kept and let go, against a store and a topic in memory."""

import asyncio

from features.store import Written
from tests.scorer.rig import FaultyStore, ListSink, Member, assigned, claimed, expected_rows, filled, member_of


async def test_a_revocation_finishes_what_is_in_flight() -> None:
    log = filled(40)
    member = member_of(log)
    member.start(0)
    await member.until(0, 6)
    await member.ownership.revoked([0])
    read = member.store.offset(0)
    assert read is not None
    assert member.sink.offsets(0) == list(range(read))
    assert log.committed[0] == read
    assert (member.ownership.leases, member.source.position) == ({}, {})


async def test_rows_are_kept_for_a_partition_that_comes_straight_back() -> None:
    member = member_of(filled(40))
    member.start(0)
    await member.until(0, 6)
    await member.ownership.revoked([0])
    loads = member.store.loads
    member.ownership.assigned([0])
    await member.until(0, 40)
    assert member.store.loads == loads
    await member.end()
    assert member.sink.offsets(0) == list(range(40))


async def test_rows_are_dropped_when_another_owner_was_there_in_between() -> None:
    log = filled(40)
    store, sink = FaultyStore(), ListSink()
    first, second = Member(log, store, sink), Member(log, store, sink, name="b")
    first.start(0)
    await first.until(0, 6)
    await first.ownership.revoked([0])
    second.start(0)
    await second.until(0, 40)
    await second.ownership.revoked([0])
    log.records[0] += filled(60).records[0][40:]
    first.ownership.assigned([0])
    await first.until(0, 60)
    await first.end()
    await second.end()
    assert sink.offsets(0) == list(range(60))
    assert store.rows(0) == await expected_rows(log, 0)


async def test_rows_of_partitions_that_went_elsewhere_are_freed() -> None:
    member = member_of(filled(20, 2))
    member.start(0, 1)
    await member.until(0, 20)
    await member.until(1, 20)
    await member.ownership.revoked([0, 1])
    member.ownership.assigned([1])
    await claimed(member.ownership)
    await member.end()
    assert member.engine.sizes()["viewer"] == 5


async def test_a_slow_store_does_not_hold_up_a_rebalance() -> None:
    member = member_of(filled(20), drain_s=0.05)
    member.start(0)
    await member.until(0, 6)
    member.store.away = True
    await asyncio.wait_for(member.ownership.revoked([0]), 2.0)
    assert member.ownership.leases == {}
    member.store.away = False
    member.ownership.assigned([0])
    await member.until(0, 20)
    await member.end()
    assert member.store.rows(0) == await expected_rows(member.log, 0)


async def test_a_loss_noticed_during_a_revocation_is_not_claimed_back() -> None:
    log = filled(20)
    member = member_of(log)
    member.start(0)
    await member.until(0, 6)
    member.store.flush()
    member.sink.held = False
    await member.ownership.revoked([0])
    await claimed(member.ownership)
    assert (member.ownership.leases, member.source.position) == ({}, {})
    member.ownership.assigned([0])
    await member.until(0, 20)
    await member.end()
    assert member.store.rows(0) == await expected_rows(log, 0)


async def test_a_partition_claimed_anew_during_its_revocation_is_let_go_too() -> None:
    """Else what it has left to write would be refused again and again, by the next owner."""
    member = member_of(filled(6, partitions=2))
    member.start(0, 1)
    for partition in (0, 1):
        await member.until(partition, 6)
    first, other = member.ownership.leases[0], member.ownership.leases[1]
    other.begin()  # a batch that takes its time
    leaving = asyncio.create_task(member.ownership.revoked([0, 1]))
    await asyncio.sleep(0)
    member.ownership.refused(first, Written.REWOUND)
    async with asyncio.timeout(60):
        while 0 not in member.ownership.leases:  # noqa: ASYNC110 -- it is claimed by itself
            await asyncio.sleep(0)
    anew = member.ownership.leases[0]
    other.end()
    await leaving
    assert (first.lost, anew.lost, other.lost) == (True, True, True)
    assert (member.ownership.leases, member.source.position) == ({}, {})
    await member.end()


async def test_an_old_lease_that_is_refused_does_not_take_the_new_one_with_it() -> None:
    member = member_of(filled(9))
    await assigned(member, 0)
    old = member.ownership.leases[0]
    await assigned(member, 0)
    new = member.ownership.leases[0]
    assert old.lost
    old.lost = False
    member.ownership.refused(old, Written.FENCED)
    assert old.lost
    assert member.ownership.leases == {0: new}
    assert member.source.position == {0: 0}


async def test_an_owner_fenced_by_one_who_should_have_been_gone_claims_it_back() -> None:
    """An older member may win the race for a store just emptied; nobody else would come and take the partition."""
    log = filled(20)
    member = member_of(log)
    member.start(0)
    await member.until(0, 6)
    member.store.flush()
    await member.store.claim(0, 0, "a member of an older generation")
    await member.until(0, 20)
    await member.end()
    assert member.store.rows(0) == await expected_rows(log, 0)
