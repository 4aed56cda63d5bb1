"""A member killed at each boundary between two steps of its work, alone and among three, under load."""

from __future__ import annotations

import random
import time

import pytest

from tests.faults.conftest import Worlds
from tests.faults.fleet import Member
from tests.faults.member import resolve
from tests.faults.points import POINTS
from tests.faults.traffic import Shape

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.timeout(150)]


@pytest.mark.parametrize("point", POINTS)
def test_every_point_is_in_the_service(point: str) -> None:
    owner, name = resolve(POINTS[point].at)
    assert callable(getattr(owner, name))


@pytest.mark.faults
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("point", POINTS)
async def test_crash(worlds: Worlds, seed: int, point: str, members: int) -> None:
    await crash(worlds, seed, point, members)


async def test_a_crash_between_publishing_and_the_checkpoint(worlds: Worlds, seed: int) -> None:
    await crash(worlds, seed, "before-checkpoint", 1)


async def crash(worlds: Worlds, seed: int, point: str, members: int) -> None:
    """Start a member that will die at the point, cause what leads there, and start another in its place."""
    place = POINTS[point]
    nth = _nth(random.Random(f"{point} {members} {seed}"), point, members)
    async with worlds(shape=Shape(mixed_rooms=bool(seed % 2)), rate=300) as world:
        others = await world.run(members - 1) if members > 1 else []
        doomed = world.fleet.start(place.trick(nth))
        world.note("start the one that dies", point=point, nth=nth)
        helpers: list[Member] = []
        while place.later and len(helpers) < 3:
            try:
                await doomed.ended(8)
                break
            except TimeoutError:
                helpers.append(world.fleet.start())  # has the partitions handed out anew
                world.note("start another")
        assert await doomed.ended() == -9
        died = time.monotonic()
        world.note("it died")
        helpers.append(world.fleet.start())
        await world.fleet.share(*others, *helpers)
        await world.drained("backlog drained after the crash", since=died)
        await world.reckon()


def _nth(rng: random.Random, point: str, members: int) -> int:
    if POINTS[point].later:
        return 2  # to join for the first time revokes nothing
    if not POINTS[point].often:
        return 1 if members > 1 else rng.randint(1, 3)  # once for each partition
    return rng.randint(1, 3) if "commit" in point else rng.randint(2, 12 if "shares" in point else 40)
