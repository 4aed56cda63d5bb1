"""A Redis that dies, forgets, answers late, refuses, or whose answers get lost."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Worlds
from tests.faults.world import World
from tests.services import redis
from tests.services.missing import require
from tests.services.proxy import Proxy
from tests.services.redis import Redis

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.timeout(180)]

_BACK_S = 3.0  # after a restart of Redis, scores must flow again within this


@pytest.mark.faults
@pytest.mark.parametrize("members", [1, 2])
async def test_redis_killed(worlds: Worlds, own_redis: Redis, members: int) -> None:
    async with worlds(redis=own_redis.url) as world:
        await world.run(members)
        for _ in range(3):
            await world.flow(1)
            own_redis.kill()
            world.note("Redis killed")
            await world.flow(2)
            await asyncio.to_thread(own_redis.start)
            back = time.monotonic()
            assert await world.moves("scoring again after Redis is back", since=back) < _BACK_S
            await world.drained("backlog drained after Redis is back", since=back)
        await world.reckon()


@pytest.mark.faults
async def test_redis_stopped_in_order(worlds: Worlds, own_redis: Redis) -> None:
    async with worlds(redis=own_redis.url) as world:
        await world.run(2)
        await asyncio.to_thread(own_redis.stop)
        await world.flow(10)
        await asyncio.to_thread(own_redis.start)
        await world.drained("backlog drained after Redis was away for ten seconds")
        await world.reckon()


@pytest.mark.faults
async def test_power_lost(worlds: Worlds, own_redis: Redis, seed: int) -> None:
    """The end of the append-only file is gone, mid-command: rows and offsets go back together."""
    rng = random.Random(seed)
    async with worlds(redis=own_redis.url) as world:
        await world.run(2)
        for _ in range(3):
            await world.flow(2)
            own_redis.kill()
            gone = _cut_tail(own_redis.folder, rng.randrange(1, 60_000))
            world.note("power lost", bytes=gone)
            await asyncio.to_thread(own_redis.start)
            await world.drained("backlog drained after power was lost")
        verdict = await world.reckon()
        assert verdict.repeated > 0, "nothing was cut off that mattered: the case has lost its point"


@pytest.mark.faults
@pytest.mark.parametrize("members", [1, 3])
async def test_redis_emptied(worlds: Worlds, own_redis: Redis, members: int) -> None:
    """FLUSHDB under load: rows are rebuilt from the topic, and nothing is published twice for it."""
    async with worlds(redis=own_redis.url) as world:
        await world.run(members)
        await world.flow(3)
        await world.stored.client.flushdb()
        world.note("emptied")
        await world.drained("rows rebuilt after Redis was emptied")
        await world.reckon()


@pytest.mark.faults
async def test_meta_key_gone(worlds: Worlds) -> None:
    """Epoch and offset alone are gone, rows are not: as an eviction policy that is wrong would do it."""
    async with worlds() as world:
        await world.run(2)
        await world.flow(3)
        for partition in range(2):
            await world.stored.client.delete(world.stored.meta(partition))
        world.note("deleted the meta keys of partitions 0 and 1")
        await world.drained("rows rebuilt after meta keys were gone")
        await world.reckon()


async def test_lost_replies(worlds: Worlds, own_redis: Redis, seed: int) -> None:
    """Each command was carried out, and its answer never came: nothing is known, and nothing may be done twice."""
    rng = random.Random(seed)
    async with through_proxy(worlds, own_redis) as (world, proxy):
        await world.run(1)
        for _ in range(20):
            await world.flow(rng.uniform(0.05, 0.15))
            proxy.cut_answers = rng.choice((1, 1, 2))
        proxy.cut_answers = 0
        await world.drained("backlog drained after lost replies")
        await world.reckon()


@pytest.mark.faults
async def test_lost_requests_and_cuts(worlds: Worlds, own_redis: Redis, seed: int) -> None:
    rng = random.Random(seed)
    async with through_proxy(worlds, own_redis) as (world, proxy):
        await world.run(2)
        for _ in range(20):
            await world.flow(rng.uniform(0.05, 0.3))
            if rng.random() < 0.5:
                proxy.cut_requests = 1
            else:
                proxy.cut()
        await world.drained("backlog drained after cut connections")
        await world.reckon()


@pytest.mark.faults
@pytest.mark.parametrize("delay_s", [0.2, 1.0], ids=["below-the-timeout", "above-the-timeout"])
async def test_slow_redis(worlds: Worlds, own_redis: Redis, delay_s: float) -> None:
    async with through_proxy(worlds, own_redis, timeout_ms=500) as (world, proxy):
        await world.run(2)
        proxy.delay_s = delay_s
        world.note("slow", delay_s=delay_s)
        await world.flow(6)
        proxy.delay_s = 0
        await world.drained("backlog drained after a slow Redis")
        await world.reckon()


@pytest.mark.faults
async def test_silent_redis(worlds: Worlds, own_redis: Redis) -> None:
    """A black hole: connections stay, nothing comes back."""
    async with through_proxy(worlds, own_redis, timeout_ms=500) as (world, proxy):
        await world.run(2)
        proxy.silence()
        world.note("silent")
        await world.flow(8)
        proxy.talk()
        talked = time.monotonic()
        assert await world.moves("scoring again after a silent Redis", since=talked) < _BACK_S
        await world.drained("backlog drained after a silent Redis", since=talked)
        await world.reckon()


async def _out_of_memory(client: Any) -> None:
    used = (await client.info("memory"))["used_memory"]
    await client.config_set("maxmemory", used + 20_000)
    await asyncio.sleep(3)
    await client.config_set("maxmemory", 0)


async def _read_only(client: Any) -> None:
    await client.config_set("replica-serve-stale-data", "yes")
    await client.replicaof("127.0.0.1", 1)  # nobody there
    await asyncio.sleep(3)
    await client.replicaof("NO", "ONE")


async def _scripts_forgotten(client: Any) -> None:
    for _ in range(10):
        await client.script_flush()
        await asyncio.sleep(0.2)


async def _busy(client: Any) -> None:
    """A script of somebody else holds everything up, past the time after which Redis answers BUSY."""
    await client.config_set("lua-time-limit", 200)
    script = "local t = redis.call('TIME')[1] while redis.call('TIME')[1] - t < 3 do end"
    await client.execute_command("EVAL", script, 0)


async def _writes_paused(client: Any) -> None:
    await client.execute_command("CLIENT", "PAUSE", 3_000, "WRITE")
    await asyncio.sleep(3)


_REFUSALS: dict[str, Callable[[Any], Awaitable[None]]] = {
    "out-of-memory": _out_of_memory,
    "read-only": _read_only,
    "scripts-forgotten": _scripts_forgotten,
    "busy": _busy,
    "writes-paused": _writes_paused,
}


@pytest.mark.faults
@pytest.mark.parametrize("refusal", _REFUSALS)
async def test_redis_refuses(worlds: Worlds, own_redis: Redis, refusal: str) -> None:
    async with worlds(redis=own_redis.url) as world:
        await world.run(2)
        await world.flow(1)
        await _REFUSALS[refusal](world.stored.client)
        served = time.monotonic()
        assert await world.moves(f"scoring again after {refusal}", since=served) < _BACK_S
        await world.drained(f"backlog drained after {refusal}", since=served)
        await world.reckon()


@pytest.mark.faults
async def test_redis_loading(worlds: Worlds, tmp_path: Path) -> None:
    """It listens and says LOADING for seconds before it serves."""
    require(redis.missing())
    server = Redis(tmp_path / "redis", settings={"key-load-delay": "300"})
    server.folder.mkdir()
    server.start()
    try:
        async with worlds(redis=server.url) as world:
            await world.run(1)
            await world.flow(4)
            server.kill()
            began = time.monotonic()
            await asyncio.to_thread(server.start)
            world.history.measure("Redis loaded for", time.monotonic() - began)
            await world.drained("backlog drained after loading")
            await world.reckon()
    finally:
        server.stop()


@asynccontextmanager
async def through_proxy(worlds: Worlds, server: Redis, timeout_ms: int = 2_000) -> AsyncIterator[tuple[World, Proxy]]:
    """Let members reach Redis through a proxy only."""
    async with Proxy(server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        async with worlds(redis=server.url, via_redis=url, redis_timeout_ms=timeout_ms) as world:
            yield world, proxy


def _cut_tail(folder: Path, count: int) -> int:
    """Take bytes off the end of the append-only file; how many were taken."""
    files = [*folder.glob("appendonlydir/*.incr.aof"), *folder.glob("*.aof")]
    file = max(files, key=lambda file: file.stat().st_mtime)
    size = file.stat().st_size
    count = min(count, size // 4)
    os.truncate(file, size - count)
    return count
