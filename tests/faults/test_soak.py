"""Half an hour under load with a fault every minute: nothing lost, nothing miscounted, no memory or descriptors leaked.

FAULTS_SOAK_MINUTES (30), FAULTS_SOAK_RATE (5000 events a second) and FAULTS_SOAK_EVERY (60 seconds from fault to fault)
make it shorter or lighter.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from tests.faults.conftest import Worlds, back
from tests.faults.fleet import Member
from tests.faults.traffic import Shape
from tests.faults.world import World
from tests.services.kafka import Broker
from tests.services.redis import Redis

MINUTES = float(os.environ.get("FAULTS_SOAK_MINUTES", "30"))
RATE = float(os.environ.get("FAULTS_SOAK_RATE", "5000"))
EVERY_S = float(os.environ.get("FAULTS_SOAK_EVERY", "60"))

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.soak, pytest.mark.timeout(MINUTES * 180 + 900)]

_SAMPLE_S = 5.0
_SLOPE_MB_PER_MIN = 1.0
_DESCRIPTORS = 24  # more than at first: connections that a reconnect leaves for a moment


class Soak:
    """Three members, one of which nothing is done to, and what may happen to the others and to the services."""

    def __init__(self, world: World, broker: Broker, redis: Redis) -> None:
        """Members are started by `begin`."""
        self.world, self.broker, self.redis = world, broker, redis
        self.others: list[Member] = []
        self.samples: list[tuple[float, float, int]] = []
        """Of the member left alone: seconds, resident MB, descriptors."""

    async def begin(self) -> Member:
        """Start the members; the one left alone."""
        steady, *self.others = await self.world.run(3)
        return steady

    async def watch(self, member: Member) -> None:
        """Sample it for ever."""
        began = time.monotonic()
        while True:
            self.samples.append((time.monotonic() - began, member.memory_mb(), member.descriptors()))
            await asyncio.sleep(_SAMPLE_S)

    async def member_killed(self) -> None:
        self.others.pop(0).kill()
        self.others.append(self.world.fleet.start())

    async def member_restarted(self) -> None:
        assert await self.others.pop(0).stop() == 0
        self.others.append(self.world.fleet.start())

    async def member_frozen(self) -> None:
        self.others[0].freeze()
        await asyncio.sleep(8)
        self.others[0].thaw()

    async def redis_killed(self) -> None:
        self.redis.kill()
        await asyncio.sleep(2)
        await asyncio.to_thread(self.redis.start)

    async def redis_frozen(self) -> None:
        self.redis.freeze()
        await asyncio.sleep(4)
        self.redis.thaw()

    async def scripts_forgotten(self) -> None:
        await self.world.stored.client.script_flush()

    async def broker_killed(self) -> None:
        self.broker.kill()
        await asyncio.sleep(1)
        await back(self.broker)

    async def broker_frozen(self) -> None:
        self.broker.freeze()
        await asyncio.sleep(4)
        self.broker.thaw()

    @property
    def faults(self) -> list[Callable[[], Awaitable[None]]]:
        """All of them."""
        return [
            self.member_killed,
            self.member_restarted,
            self.member_frozen,
            self.redis_killed,
            self.redis_frozen,
            self.scripts_forgotten,
            self.broker_killed,
            self.broker_frozen,
        ]


async def test_soak(worlds: Worlds, own_broker: Broker, own_redis: Redis, seed: int) -> None:
    rng = random.Random(seed)
    shape = Shape(viewers=20_000, rooms=64, newcomers=0.0, poison=0.0005)
    async with worlds(kafka=own_broker.bootstrap, redis=own_redis.url, shape=shape, rate=RATE) as world:
        soak = Soak(world, own_broker, own_redis)
        steady = await soak.begin()
        await world.drained("ready")
        watching = asyncio.create_task(soak.watch(steady))
        until = time.monotonic() + MINUTES * 60
        order: list[Callable[[], Awaitable[None]]] = []
        while time.monotonic() < until:
            order = order or rng.sample(soak.faults, len(soak.faults))
            fault = order.pop()
            began = time.monotonic()
            world.note(fault.__name__, written=world.load.written)
            await fault()
            assert steady.running, "the member that was left alone ended"
            await world.drained(f"backlog drained after {fault.__name__}", since=began, seconds=90)
            await asyncio.sleep(max(0.0, EVERY_S - (time.monotonic() - began)))
        watching.cancel()
        world.history.verdict = _leaks(soak.samples)
        await world.reckon(seconds=120)
        world.history.verdict |= _leaks(soak.samples)
        slope, more = world.history.verdict["mb_per_minute"], world.history.verdict["more_descriptors"]
        assert slope < _SLOPE_MB_PER_MIN or MINUTES < 10, f"memory grows by {slope:.2f} MB a minute"
        assert more <= _DESCRIPTORS, f"{more} descriptors more than at first"


def _leaks(samples: list[tuple[float, float, int]]) -> dict[str, float]:
    """Slope of memory over the last two thirds, when the caches are full, and how many descriptors came to stay."""
    seconds, megabytes, descriptors = np.array(samples).T
    late = slice(len(samples) // 3, None)
    slope = float(np.polyfit(seconds[late] / 60, megabytes[late], 1)[0]) if len(seconds[late]) > 2 else 0.0
    tenth = max(1, len(samples) // 10)
    return {
        "mb_per_minute": round(slope, 3),
        "resident_mb": round(float(megabytes[-1]), 1),
        "more_descriptors": int(np.median(descriptors[-tenth:]) - np.median(descriptors[:tenth])),
    }
