"""More than a member can score, one viewer who sends nearly everything, and a crowd that nobody has seen before."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.faults.conftest import Worlds
from tests.faults.fleet import Member
from tests.faults.member import Trick
from tests.faults.traffic import Shape
from tests.faults.world import World

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.faults, pytest.mark.timeout(240)]

# A model that takes 20 ms for up to 16 events: 800 a second, whatever the machine.
_SLOW_MODEL = Trick("engines.cpu:OnnxModel.infer", "block", nth=5, times=10**9, seconds=0.02)
_CAPACITY = 800
_MORE_MB = 150  # that a member may take beyond what it had when it was idle


@pytest.mark.parametrize("times", [2, 5])
async def test_overload_is_shed(worlds: Worlds, times: int) -> None:
    """Scores that come too late are given up, state is not, and as soon as the load is gone all are scored again."""
    async with worlds(rate=200, partitions=2, max_batch=16, publish_late=False, deadline_ms=500) as world:
        (member,) = await world.run(1, _SLOW_MODEL)
        await world.drained("ready")
        idle_mb = member.memory_mb()
        world.load.rate = times * _CAPACITY
        world.note("overload", rate=world.load.rate)
        await world.flow(20)
        world.load.rate = 200
        await world.drained(f"backlog drained after {times}x overload", since=time.monotonic())
        assert (await _fates(member))["shed"] > 0, "nothing was shed: this was no overload"
        await _scores_again(world, member)
        _bounded(world.history.measures, member, idle_mb)
        await world.reckon(shed=True)


async def test_overload_waits(worlds: Worlds) -> None:
    """Where late scores are wanted the backlog stays in Kafka, not in memory, and every score comes in the end."""
    async with worlds(rate=200, partitions=2, max_batch=16) as world:
        (member,) = await world.run(1, _SLOW_MODEL)
        await world.drained("ready")
        idle_mb = member.memory_mb()
        world.load.rate = 5 * _CAPACITY
        await world.flow(8)
        world.load.rate = 100
        await world.drained("backlog of 8 s at 5x drained", since=time.monotonic(), seconds=120)
        _bounded(world.history.measures, member, idle_mb)
        await world.reckon()


async def test_hot_key(worlds: Worlds) -> None:
    async with worlds(shape=Shape(hot=0.9), rate=1_500) as world:
        await world.run(2)
        await world.flow(10)
        await world.drained("backlog drained with nine of ten events from one viewer")
        await world.reckon()


async def test_herd(worlds: Worlds) -> None:
    """Twenty thousand viewers in ten seconds, all of them new."""
    async with worlds(shape=Shape(newcomers=1.0), rate=200) as world:
        member, _ = await world.run(2)
        idle_mb = member.memory_mb()
        world.load.rate = 2_000
        await world.flow(10)
        world.load.rate = 200
        await world.drained("backlog drained after a herd of new viewers")
        _bounded(world.history.measures, member, idle_mb)
        await world.reckon()


async def test_wrong_clocks(worlds: Worlds) -> None:
    """A third of the events are stamped wrongly, by seconds to decades, either way."""
    async with worlds(shape=Shape(skewed=0.35)) as world:
        members = await world.run(2)
        await world.flow(6)
        members[0].kill()
        await world.fleet.share(members[1])
        seen = await members[1].metrics()
        assert seen["tipstream_clamped_events_total"] > 0
        assert seen["tipstream_late_events_total"] > 0
        await world.reckon()


async def test_poison(worlds: Worlds) -> None:
    """A fifth of the records are no events: each to the dead letters, the others as if they were not there."""
    async with worlds(shape=Shape(poison=0.2), rate=200) as world:
        members = await world.run(2)
        await world.flow(5)
        members[0].kill()
        await world.fleet.share(members[1])
        await world.reckon()


async def _scores_again(world: World, member: Member) -> None:
    """Wait for two seconds in which hardly a score was given up."""
    began = time.monotonic()
    async with asyncio.timeout(60):
        before = await _fates(member)
        while True:
            await world.flow(2)
            after = await _fates(member)
            if after["shed"] - before["shed"] < 0.1 * (after["scored"] - before["scored"]):
                break
            before = after
    world.history.measure("hardly a score given up, two seconds of looking included", time.monotonic() - began)


async def _fates(member: Member) -> dict[str, float]:
    seen = await member.metrics()
    return {name: seen[f'tipstream_events_total{{outcome="{name}"}}'] for name in ("scored", "shed")}


def _bounded(measures: dict[str, float], member: Member, idle_mb: float) -> None:
    more_mb = member.peak_mb() - idle_mb
    measures["memory beyond idle, MB"] = round(more_mb, 1)
    assert more_mb < _MORE_MB, f"{member.name} took {more_mb:.0f} MB more than it had idle"
