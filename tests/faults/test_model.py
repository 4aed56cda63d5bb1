"""A model that fails, answers nonsense, or hangs: the service goes down its ladder, and state never suffers."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from tests.faults.conftest import Worlds
from tests.faults.fleet import Member
from tests.faults.member import Trick

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.faults, pytest.mark.timeout(120)]


_HEALTHY = 100  # answers before the trouble: the warm-up's, and those of a good start


@pytest.mark.parametrize("then", ["raise", "spoil"])
async def test_model_fails(worlds: Worlds, then: Literal["raise", "spoil"]) -> None:
    """For seven answers: tip history alone speaks meanwhile, and the model is asked again from time to time."""
    async with worlds() as world:
        (member,) = await world.run(1, Trick("engines.cpu:check_scores", then, nth=_HEALTHY, times=7))
        async with asyncio.timeout(60):
            while not await _count(member, "prior"):
                await world.flow(0.2)
            priors, scored = await _count(member, "prior"), await _count(member, "scored")
            while await _count(member, "scored") <= scored:
                await world.flow(0.2)
        world.note("well again", priors=await _count(member, "prior"), before=priors)
        await world.drained("backlog drained after a model failed")
        await world.reckon()


async def test_model_hangs(worlds: Worlds) -> None:
    """On the event loop, as the CPU model is run: the group gives its partitions to the other, and it comes back."""
    async with worlds() as world:
        hangs = Trick("engines.cpu:check_scores", "block", nth=_HEALTHY + 200, seconds=10.0)
        _, other = await world.run(2, hangs)
        await world.fleet.share(other)
        await world.drained("backlog drained after a model hung")
        await world.fleet.share(*world.fleet.all)
        await world.reckon()


async def _count(member: Member, outcome: str) -> float:
    return (await member.metrics()).get(f'tipstream_events_total{{outcome="{outcome}"}}', 0.0)
