"""Members that are killed, freeze, block, come and go, or take too long to let go."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from tests.faults.conftest import Worlds
from tests.faults.member import Trick
from tests.faults.traffic import Shape
from tests.integration.member import Setup, read_topic

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.faults, pytest.mark.timeout(180)]

MIXED = Shape(mixed_rooms=True)
_SHORTEST_S = 6.0  # what the configuration allows for a session
_PLANNED_S = 5.0  # no partition may go longer without scores when members come and go in order


async def test_killed_members(worlds: Worlds) -> None:
    """With the shortest session that is allowed; 5 s more are promised."""
    async with worlds(session_timeout_ms=None) as world:
        first, second, third = await world.run(3)
        await world.flow(1)
        died = time.monotonic()
        first.kill()
        await world.fleet.share(second, third)
        took = await world.drained("backlog drained after a kill", since=died)
        assert took < _SHORTEST_S + 5
        second.kill()
        await world.fleet.share(third)
        await world.reckon()


@pytest.mark.parametrize("shape", [Shape(), MIXED], ids=["rooms-apart", "rooms-mixed"])
async def test_zombie(worlds: Worlds, shape: Shape) -> None:
    """Frozen for longer than a session: it wakes up, and goes on with partitions that are no longer its own."""
    async with worlds(shape=shape) as world:
        first, zombie = await world.run(2)
        for _ in range(2):
            froze = time.monotonic()
            zombie.freeze()
            world.note("frozen")
            await world.fleet.share(first)
            await world.drained("backlog drained after a member froze", since=froze)
            await world.flow(1)
            woken = time.monotonic()
            zombie.thaw()
            world.note("thawed")
            await world.fleet.share(first, zombie)
            await world.drained("backlog drained after a zombie woke up", since=woken)
        await world.reckon()


async def test_blocked_loop(worlds: Worlds) -> None:
    """As a call that never yields does: no heartbeat leaves for twelve seconds."""
    async with worlds() as world:
        other, blocked = await world.run(2)
        began = time.monotonic()
        blocked.block()
        await world.fleet.share(other)
        await world.drained("backlog drained after a loop blocked", since=began)
        await world.fleet.share(other, blocked)
        seen = await blocked.metrics()
        late = seen["tipstream_loop_lag_seconds_count"] - seen['tipstream_loop_lag_seconds_bucket{le="0.5"}']
        assert late >= 1, "the blocked loop is not to be seen in its metrics"
        await world.reckon()


async def test_rolling_restart(worlds: Worlds) -> None:
    """One to three members, each replaced in turn, and back to one."""
    async with worlds(shape=MIXED) as world:
        members = await world.run(1)
        members.append(world.fleet.start())
        members.append(world.fleet.start())
        await world.fleet.share(*members)
        for _ in range(3):
            began = time.monotonic()
            assert await members.pop(0).stop() == 0
            world.history.measure("a member stopped in order", time.monotonic() - began)
            members.append(world.fleet.start())
            await world.fleet.share(*members)
        for _ in range(2):
            began = time.monotonic()
            assert await members.pop(0).stop() == 0
            await world.drained("backlog drained after a member left in order", since=began)
        verdict = await world.reckon()
        assert verdict.repeated == 0, "nothing crashed, and yet scores were published twice"


async def test_flapping_member(worlds: Worlds) -> None:
    """One that joins and dies again and again must not keep the others from working."""
    async with worlds() as world:
        (steady,) = await world.run(1)
        for number in range(6):
            before = sum((await world.stored.offsets()).values())
            flapping = world.fleet.start()
            await world.flow(2.5)
            flapping.kill()
            done = sum((await world.stored.offsets()).values()) - before
            world.note("killed", number=number, done=done)
        await world.fleet.share(steady)
        await world.drained("backlog drained after a member flapped")
        await world.reckon()


async def test_slow_revoke(worlds: Worlds) -> None:
    """Letting go takes longer than a rebalance may: the group goes on without it, and it must notice."""
    async with worlds() as world:
        slow = Trick("scorer.ownership:Ownership.drain", "wait", seconds=9.0)
        (first,) = await world.run(1, slow)
        began = time.monotonic()
        second = world.fleet.start()
        await world.fleet.share(first, second)
        await world.drained("backlog drained after a slow revocation", since=began)
        await world.reckon()


async def test_stuck_member(worlds: Worlds) -> None:
    """A client library that never answers again: the watchdog ends the process, and another goes on."""
    async with worlds() as world:
        stuck, other = await world.run(2, Trick("scorer.kafka.source:Source.poll", "wait", nth=300, seconds=1e6))
        began = time.monotonic()
        assert await stuck.ended(120) == 1
        world.history.measure("a member that stood still ended by itself", time.monotonic() - began)
        assert "Ending the process" in stuck.log.read_text()
        await world.fleet.share(other)
        await world.drained("backlog drained after a member stood still")
        await world.reckon()


async def test_rebalance(worlds: Worlds) -> None:
    """How long a partition goes without scores when a member joins, leaves in order, and is killed."""
    async with worlds(session_timeout_ms=None) as world:
        (first,) = await world.run(1)
        await world.flow(2)
        joined = time.time()
        second = world.fleet.start()
        await world.fleet.share(first, second)
        await world.flow(1)
        left = time.time()
        await second.stop()
        await world.fleet.share(first)
        await world.flow(1)
        third = world.fleet.start()
        await world.fleet.share(first, third)
        await world.flow(1)
        killed = time.time()
        third.kill()
        await world.fleet.share(first)
        await world.drained("backlog drained after a kill")
        await world.reckon()
        pauses = {
            "longest pause of a partition: a member joins": await longest_pause(world.setup, joined, left),
            "longest pause of a partition: a member leaves": await longest_pause(world.setup, left, killed - 1),
            "longest pause of a partition: a member is killed": await longest_pause(world.setup, killed, time.time()),
        }
        for what, seconds in pauses.items():
            world.history.measure(what, seconds)
        in_order, killed_s = list(pauses.values())[:2], list(pauses.values())[2]
        assert max(in_order) < _PLANNED_S
        assert killed_s < _SHORTEST_S + 5


async def longest_pause(setup: Setup, begin_s: float, end_s: float) -> float:
    """The longest time, in seconds, between two scores of one partition, between two moments (Unix time)."""
    longest = 0.0
    for records in (await read_topic(setup, setup.config.kafka.scores_topic)).values():
        times = [record.timestamp / 1000 for record in records if begin_s <= record.timestamp / 1000 <= end_s]
        longest = max([longest, *(later - earlier for earlier, later in pairwise(times))])
    return longest
