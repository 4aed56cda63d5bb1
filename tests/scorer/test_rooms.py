"""Room counts between two members that each own one of two partitions."""

import asyncio

import pytest

from features.store import StoreUnavailable
from features.watch import TURNS, turn_of
from scorer.rooms import RoomExchange
from tests.scorer.rig import FaultyStore, ListSink, Log, Member, say


async def two_members(store: FaultyStore) -> tuple[list[Member], list[RoomExchange]]:
    """Each has read three comments in one room."""
    log = Log(2)
    for partition in range(2):
        log.records[partition] = [say(i, f"v{partition}") for i in range(3)]
    members = [Member(log, store, ListSink(), name=name) for name in "ab"]
    for partition, member in enumerate(members):
        member.start(partition)
        await member.until(partition, 3)
    exchanges = [exchange_of(member, [partition]) for partition, member in enumerate(members)]
    return members, exchanges


def exchange_of(member: Member, owned: list[int]) -> RoomExchange:
    return RoomExchange(member.store, member.engine, lambda: owned, interval_s=0)


async def shares(store: FaultyStore) -> set[int]:
    """Partitions whose share of the room is published."""
    return set((await store.read_shares(["r0"]))[0])


def heard(member: Member, partition: int) -> int:
    """Events of others that a member's partition knows in the room."""
    room = member.engine._cache.partitions[partition].rooms["r0"]
    member.engine._shares.sum_up([room])
    return int(member.engine._cache.others.rows[room.others]["total"][0]) if room.others >= 0 else 0


async def test_each_publishes_its_own_share_and_reads_the_others() -> None:
    store = FaultyStore()
    members, (first, second) = await two_members(store)
    await first.exchange()
    assert await shares(store) == {0}
    assert heard(members[0], 0) == 0
    await second.exchange()
    assert await shares(store) == {0, 1}
    assert heard(members[1], 1) == 3
    for member in members:
        await member.end()


async def test_a_room_waits_for_its_turn() -> None:
    store = FaultyStore()
    members, (first, second) = await two_members(store)
    own = turn_of("r0")
    await second.exchange()
    assert not await first.exchange((own + 1) % TURNS)
    assert await shares(store) == {1}
    assert heard(members[0], 0) == 0
    assert await first.exchange(own)
    assert await shares(store) == {0, 1}
    assert heard(members[0], 0) == 3
    for member in members:
        await member.end()


async def test_an_outage_is_told_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    store, asked = FaultyStore(), 0
    members, (first, second) = await two_members(store)
    await second.exchange()

    async def fail() -> None:
        nonlocal asked
        asked += 1
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_serve", fail)
        running = asyncio.create_task(first.run())
        async with asyncio.timeout(60):
            while asked < 3:  # noqa: ASYNC110 -- the room has one turn of ten
                await asyncio.sleep(0)
        assert caplog.text.count("not fresh") == 1
    async with asyncio.timeout(60):
        while not heard(members[0], 0):  # noqa: ASYNC110 -- it goes on by itself
            await asyncio.sleep(0)
    running.cancel()
    for member in members:
        await member.end()


async def test_what_could_not_be_published_is_published_the_next_time() -> None:
    store = FaultyStore()
    members, (first, _) = await two_members(store)
    store.away = True
    with pytest.raises(StoreUnavailable):
        await first.exchange()
    store.away = False
    await first.exchange()
    assert await shares(store) == {0}
    for member in members:
        await member.end()


async def test_what_was_given_up_half_way_is_published_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hand-over does not wait long for a slow store, and the shares of partitions that stay must not be forgotten."""
    store = FaultyStore()
    members, (first, _) = await two_members(store)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_serve", asyncio.Event().wait)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(first.publish(), 0.01)
    await first.publish()
    assert await shares(store) == {0}
    for member in members:
        await member.end()


async def test_a_share_that_did_not_change_is_not_published_again() -> None:
    store = FaultyStore()
    members, (first, _) = await two_members(store)
    await first.exchange()
    store.flush()
    await first.exchange()
    assert await shares(store) == set()
    for member in members:
        await member.end()


async def test_the_share_of_a_partition_that_is_not_ours_any_more_is_left_to_its_owner() -> None:
    store = FaultyStore()
    members, _ = await two_members(store)
    await exchange_of(members[0], []).exchange()
    assert await shares(store) == set()
    for member in members:
        await member.end()


async def test_a_share_that_was_not_ours_to_publish_is_published_once_it_is_again() -> None:
    store = FaultyStore()
    members, (first, _) = await two_members(store)
    await exchange_of(members[0], []).exchange()
    await first.exchange()
    assert await shares(store) == {0}
    for member in members:
        await member.end()


async def test_a_partition_handed_over_leaves_its_share_behind() -> None:
    """The room may have no event at the next owner for long, and other partitions would go on with an old share."""
    store = FaultyStore()
    members, (first, _) = await two_members(store)
    members[0].ownership.attach_rooms(first.publish)
    await members[0].ownership.revoked([0])
    assert await shares(store) == {0}
    for member in members:
        await member.end()


async def test_a_store_that_is_away_does_not_hold_up_a_hand_over() -> None:
    store = FaultyStore()
    members, (first, _) = await two_members(store)
    members[0].ownership.attach_rooms(first.publish)
    store.away = True
    await members[0].ownership.revoked([0])
    assert 0 not in members[0].ownership.leases
    store.away = False
    for member in members:
        await member.end()


async def test_a_room_that_comes_after_a_pause_knows_at_once_what_the_others_saw() -> None:
    store = FaultyStore()
    members, (first, second) = await two_members(store)
    await second.exchange()
    assert heard(members[0], 0) == 0
    await first.hear(["r0"])
    assert heard(members[0], 0) == 3
    for member in members:
        await member.end()


async def test_nobody_waits_for_shares_of_a_store_that_is_away() -> None:
    store = FaultyStore()
    members, (first, second) = await two_members(store)
    await second.exchange()
    store.away = True
    await first.hear(["r0"])
    store.away = False
    await first.exchange((turn_of("r0") + 1) % TURNS)
    await first.hear(["r0"])
    assert heard(members[0], 0) == 0, "not asked again before a turn of some room has gone well"
    await first.exchange()
    assert heard(members[0], 0) == 3
    for member in members:
        await member.end()


async def test_a_batch_waits_only_so_long_for_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FaultyStore()
    members, (first, second) = await two_members(store)
    await second.exchange()
    proceed = asyncio.Event()
    with monkeypatch.context() as patch:
        patch.setattr(store, "_serve", proceed.wait)
        await first.hear(["r0"])
    assert heard(members[0], 0) == 0
    proceed.set()
    async with asyncio.timeout(60):
        while not heard(members[0], 0):  # noqa: ASYNC110 -- what was asked for comes all the same
            await asyncio.sleep(0)
    for member in members:
        await member.end()


async def test_publishing_ends_although_rooms_go_on_changing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FaultyStore()
    members, (first, _) = await two_members(store)
    publish = store.publish_shares

    async def publish_and_change(told: dict[int, dict[str, bytes]]) -> None:
        await publish(told)
        members[0].engine.return_dirty_shares(told)

    monkeypatch.setattr(store, "publish_shares", publish_and_change)
    async with asyncio.timeout(60):
        await first.exchange()
    assert len(members[0].engine.dirty_rooms()) == 1
    for member in members:
        await member.end()


async def test_no_more_is_read_for_batches_while_some_readings_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    store, begun, proceed = FaultyStore(), 0, asyncio.Event()
    members, (first, _) = await two_members(store)

    async def hang() -> None:
        nonlocal begun
        begun += 1
        await proceed.wait()

    monkeypatch.setattr(store, "_serve", hang)
    for _ in range(9):
        await first.hear(["r0"])
    assert begun == 4
    proceed.set()
    for member in members:
        await member.end()


async def test_a_bug_in_reading_for_a_batch_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FaultyStore()
    members, (first, _) = await two_members(store)

    async def broken() -> None:
        raise ValueError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_serve", broken)
        with pytest.raises(ValueError, match="a bug"):
            await first.hear(["r0"])
    for member in members:
        await member.end()


async def test_rooms_that_come_after_a_pause_are_heard_of_with_their_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    log, heard = Log(1), []
    log.records[0] = [say(i, "v0") for i in range(3)]
    member = Member(log, FaultyStore(), ListSink(), name="a")

    async def hear(rooms: set[str]) -> None:
        heard.append(rooms)

    monkeypatch.setattr(member.pipeline, "_hear", hear)
    member.start(0)
    await member.until(0, 3)
    assert heard == [{"r0"}]
    await member.end()
