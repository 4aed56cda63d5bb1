"""A Redis Cluster that loses primaries and moves slots under running members."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import REDIS, Worlds
from tests.services import redis
from tests.services.missing import require
from tests.services.redis_cluster import PRIMARIES, RedisCluster, ask

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.faults, pytest.mark.timeout(240)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    """Three primaries, each with a replica."""
    if REDIS:
        pytest.skip("the case kills servers: not done to those that FAULTS_REDIS names")
    require(redis.missing())
    with RedisCluster(tmp_path / "cluster", settings={"cluster-node-timeout": "1000"}) as cluster:
        yield cluster


async def test_slots_move(worlds: Worlds, cluster: RedisCluster) -> None:
    """Each partition's keys are taken to another server, one by one, and back."""
    async with worlds(redis=cluster.url, cluster=True, rate=200) as world:
        await world.run(2)
        await world.flow(1)
        for number in range(2 * world.setup.partitions):
            key = world.stored.meta(number % world.setup.partitions)
            primaries = cluster.nodes[:PRIMARIES]
            owner = await asyncio.to_thread(cluster.owner, key)
            to = primaries[(primaries.index(owner) + 1) % PRIMARIES]
            await asyncio.to_thread(cluster.move, key, to)
            world.note("slot moved", partition=number % world.setup.partitions)
        await world.drained("backlog drained after slots moved")
        await world.reckon()


async def test_failover_in_order(worlds: Worlds, cluster: RedisCluster) -> None:
    async with worlds(redis=cluster.url, cluster=True, rate=200) as world:
        await world.run(2)
        for replica in cluster.nodes[PRIMARIES:]:
            await world.flow(1)
            await asyncio.to_thread(ask, replica, "CLUSTER", "FAILOVER")
            world.note("failed over in order", port=replica.port)
        await world.drained("backlog drained after failovers in order")
        await world.reckon()


async def test_primary_killed(worlds: Worlds, cluster: RedisCluster) -> None:
    """Its replica takes over, and may not have the last writes: then everything goes back together."""
    async with worlds(redis=cluster.url, cluster=True, rate=200) as world:
        await world.run(2)
        await world.stored.fresh()  # it learns of the other servers
        for number in range(2):
            await world.flow(1)
            owner = await asyncio.to_thread(cluster.owner, world.stored.meta(number))
            owner.kill()
            world.note("primary killed", port=owner.port)
            await world.drained("backlog drained after a primary was killed")
            await asyncio.to_thread(owner.start)
            await world.flow(3)
        await world.reckon()
