"""A broker that dies, freezes, loses answers, forgets records, or refuses commits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from scorer.ports import free_port
from tests.faults.conftest import KAFKA, Worlds, back
from tests.faults.member import Trick
from tests.faults.world import World
from tests.services import kafka
from tests.services.kafka import Broker
from tests.services.missing import require
from tests.services.proxy import Proxy

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.faults, pytest.mark.timeout(240)]


@pytest.mark.parametrize("members", [1, 2])
async def test_broker_killed(worlds: Worlds, own_broker: Broker, members: int) -> None:
    async with worlds(kafka=own_broker.bootstrap) as world:
        await world.run(members)
        for _ in range(2):
            await world.flow(1)
            own_broker.kill()
            world.note("broker killed")
            await world.flow(2)
            await back(own_broker)
            await world.drained("backlog drained after the broker is back")
        await world.reckon()


async def test_broker_stopped_in_order(worlds: Worlds, own_broker: Broker) -> None:
    async with worlds(kafka=own_broker.bootstrap) as world:
        await world.run(2)
        await asyncio.to_thread(own_broker.stop)
        await world.flow(5)
        await back(own_broker)
        await world.drained("backlog drained after the broker was stopped")
        await world.reckon()


@pytest.mark.parametrize("seconds", [5, 20])
async def test_broker_frozen(worlds: Worlds, own_broker: Broker, seconds: int) -> None:
    """Connections stay open and nothing answers, for less and for more than a request may take."""
    async with worlds(kafka=own_broker.bootstrap) as world:
        await world.run(2)
        own_broker.freeze()
        world.note("broker frozen", seconds=seconds)
        await world.flow(seconds)
        own_broker.thaw()
        await world.drained(f"backlog drained after the broker was frozen for {seconds} s")
        await world.reckon()


async def test_lost_acknowledgements(worlds: Worlds, tmp_path: Path) -> None:
    """The broker has it and its answer is lost; so are answers to fetches, heartbeats and joins."""
    async with through_proxy(worlds, tmp_path) as (world, proxy):
        await world.run(1)
        for _ in range(12):
            await world.flow(0.4)
            proxy.cut_answers = 1
        await world.flow(0.2)
        proxy.cut_answers = 0
        await world.drained("backlog drained after lost acknowledgements")
        await world.reckon()


async def test_silent_and_slow_network(worlds: Worlds, tmp_path: Path) -> None:
    async with through_proxy(worlds, tmp_path) as (world, proxy):
        await world.run(1)
        proxy.delay_s = 0.1
        world.note("100 ms more for each answer")
        await world.flow(3)
        proxy.delay_s = 0.0
        proxy.silence()
        world.note("a black hole")
        await world.flow(12)
        proxy.talk()
        await world.drained("backlog drained after a network that was silent for 12 s")
        for _ in range(3):
            proxy.cut()
            await world.flow(1)
        await world.drained("backlog drained after cut connections")
        await world.reckon()


async def test_commits_always_fail(worlds: Worlds) -> None:
    """Kafka's copy of the offsets is for tools: without it everything goes on, restarts included."""
    refused = Trick("scorer.kafka.source:Source.commit", "wait", seconds=1e6, times=10**9)
    async with worlds() as world:
        (first,) = await world.run(1, refused)
        await world.flow(3)
        first.kill()
        second = world.fleet.start(refused)
        await world.fleet.share(second)
        await world.drained("backlog drained where commits always fail")
        await world.reckon()


async def test_retention_passed(worlds: Worlds) -> None:
    """Records went before they were read: that partition stops and says so, the others go on, and nothing is silent."""
    async with worlds() as world:
        (first,) = await world.run(1)
        await world.flow(1)
        await first.stop()
        await world.flow(1)
        topic = world.setup.config.kafka.events_topic
        admin = AdminClient({"bootstrap.servers": world.setup.config.kafka.bootstrap})
        until = world.load.ends[0] - 5
        for future in admin.delete_records([TopicPartition(topic, 0, until)]).values():
            await asyncio.to_thread(future.result)
        second = world.fleet.start()
        async with asyncio.timeout(60):
            while "Partition 0 stopped" not in await second.ready():  # noqa: ASYNC110 -- another process says when
                await asyncio.sleep(0.1)
        seen = await second.metrics()
        assert seen['tipstream_partition_stopped{partition="0",reason="offset-out-of-range"}'] == 1
        held = await world.stored.offsets()
        await world.load.finish()
        async with asyncio.timeout(60):
            while (now := await world.stored.offsets()) | {0: 0} != world.load.ends | {0: 0}:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert now[0] == held[0] < until, "the partition went on over a gap that nobody has allowed"


@asynccontextmanager
async def through_proxy(worlds: Worlds, folder: Path) -> AsyncIterator[tuple[World, Proxy]]:
    """Let members reach the broker through a proxy only; the load goes there directly."""
    if KAFKA:
        pytest.skip("the case needs a broker with a listener behind a proxy: not one that FAULTS_KAFKA names")
    require(kafka.missing())
    behind = free_port()
    async with Proxy(behind) as proxy:
        broker = Broker(folder / "kafka")
        for name, port in (("listeners", behind), ("advertised.listeners", proxy.port)):
            broker.settings[name] += f",PROXIED://127.0.0.1:{port}"
        broker.settings["listener.security.protocol.map"] += ",PROXIED:PLAINTEXT"
        broker.settings["inter.broker.listener.name"] = "PLAINTEXT"
        await asyncio.to_thread(broker.start)
        try:
            async with worlds(kafka=broker.bootstrap, via_kafka=f"127.0.0.1:{proxy.port}") as world:
                yield world, proxy
        finally:
            broker.stop()


async def test_stopped_for_good_and_back(worlds: Worlds, own_broker: Broker) -> None:
    """Kafka away for longer than a session; members must neither end nor stop trying."""
    async with worlds(kafka=own_broker.bootstrap) as world:
        members = await world.run(2)
        own_broker.kill()
        await world.flow(25)
        assert all(member.running for member in members)
        began = time.monotonic()
        await back(own_broker)
        await world.drained("backlog drained after Kafka was away for 25 s", since=began)
        await world.reckon()
