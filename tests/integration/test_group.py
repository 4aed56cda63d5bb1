"""Members that come, go, freeze and crash while events flow, and services that crash under them.

Whatever happens: a reader who drops repeats by `src-off` gets every score once and in order, every reject has its dead
letter, and the stored rows are, byte for byte, those of one uninterrupted pass over the input.
"""

import asyncio
from pathlib import Path

import pytest

from tests.conftest import Topics
from tests.integration.fleet import Load, caught_up, fleet, store, verify
from tests.integration.member import make_setup
from tests.services import kafka, redis
from tests.services.kafka import Broker
from tests.services.missing import require
from tests.services.redis import Redis
from tests.services.topics import create_topic

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.timeout(400)]


async def test_members_that_crash_and_leave(
    kafka_broker: Broker, kafka_topics: Topics, redis_url: str, tmp_path: Path
) -> None:
    setup = await make_setup(kafka_broker.bootstrap, redis_url, kafka_topics)
    async with fleet(setup, tmp_path) as members, Load(setup) as load:
        first, second = members.start(), members.start()
        await members.shared(first, second)
        first.child.kill()
        third = members.start()
        await members.shared(second, third)
        began = asyncio.get_running_loop().time()
        assert await second.terminate() == 0
        assert asyncio.get_running_loop().time() - began < 15  # 5 s to drain, and what a busy machine adds
        await members.shared(third)
        await load.finish()
        await caught_up(setup)
        await third.accounted()
        assert await third.terminate() == 0
    await verify(setup)


async def test_a_member_that_wakes_up_after_its_partitions_have_moved_on(
    kafka_broker: Broker, kafka_topics: Topics, redis_url: str, tmp_path: Path
) -> None:
    setup = await make_setup(kafka_broker.bootstrap, redis_url, kafka_topics)
    async with fleet(setup, tmp_path) as members, Load(setup) as load:
        first, zombie = members.start(), members.start()
        await members.shared(first, zombie)
        zombie.freeze()
        await members.shared(first)
        await asyncio.sleep(1)
        zombie.thaw()
        await members.shared(first, zombie)
        await load.finish()
        await caught_up(setup)
        for member in (first, zombie):
            await member.accounted()
    await verify(setup)


async def test_a_redis_that_loses_everything(
    kafka_broker: Broker, kafka_topics: Topics, redis_url: str, tmp_path: Path
) -> None:
    setup = await make_setup(kafka_broker.bootstrap, redis_url, kafka_topics)
    async with fleet(setup, tmp_path) as members, Load(setup) as load:
        first, second = members.start(), members.start()
        await members.shared(first, second)
        await asyncio.sleep(2)
        async with store(setup) as (_, client):
            await client.flushdb()
        await asyncio.sleep(2)
        await load.finish()
        await caught_up(setup)
        for member in (first, second):
            await member.accounted()
    await verify(setup)


async def test_a_redis_that_crashes(kafka_broker: Broker, kafka_topics: Topics, tmp_path: Path) -> None:
    require(redis.missing())
    server = Redis(tmp_path)
    server.start()
    try:
        setup = await make_setup(kafka_broker.bootstrap, server.url, kafka_topics)
        async with fleet(setup, tmp_path) as members, Load(setup) as load:
            first, second = members.start(), members.start()
            await members.shared(first, second)
            server.kill()
            await asyncio.sleep(2)
            await asyncio.to_thread(server.start)
            await asyncio.sleep(1)
            await load.finish()
            await caught_up(setup)
            for member in (first, second):
                await member.accounted()
        await verify(setup)
    finally:
        server.stop()


async def test_a_broker_that_crashes(redis_url: str, tmp_path: Path) -> None:
    require(kafka.missing())
    broker = Broker(tmp_path / "kafka")
    await asyncio.to_thread(broker.start)

    async def topics(name: str = "topic", partitions: int = 4, settings: object = None) -> str:
        return await create_topic(broker.bootstrap, name, partitions)

    try:
        setup = await make_setup(broker.bootstrap, redis_url, topics)
        async with fleet(setup, tmp_path) as members, Load(setup) as load:
            first, second = members.start(), members.start()
            await members.shared(first, second)
            broker.kill()
            await asyncio.sleep(2)
            await asyncio.to_thread(broker.start)
            await members.shared(first, second)
            await asyncio.sleep(1)
            await load.finish()
            await caught_up(setup)
            for member in (first, second):
                await member.accounted()
        await verify(setup)
    finally:
        broker.stop()
