"""The reckoning finds what is wrong: each kind of trouble, made on purpose after a case in which nothing was."""

from __future__ import annotations

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from features.events import Event
from tests.faults.conftest import Worlds
from tests.faults.topics import stream
from tests.faults.verify import Verdict, verify
from tests.faults.world import World
from tests.integration.member import produce, record

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.timeout(400)]


async def test_the_reckoning_finds_what_is_wrong(worlds: Worlds) -> None:
    async with worlds(partitions=1, rate=300) as world:
        await world.run(1)
        await world.flow(1)
        sound = await world.reckon()
        assert sound.rows > 20
        assert sound.probed > 20
        world.fleet.end()
        await _publish_again(world, p_tip={"60": 0.5, "600": 0.5})
        found = await _look(world)
        assert len(found.contradictory) == len(found.unequal) == 1
        await _publish_again(world, offset=10**6)
        assert len((await _look(world)).extra) == 1
        (viewer,) = [key async for key in world.stored.client.scan_iter("*:v:v1")]
        row = await world.stored.client.hget(viewer, "")
        await world.stored.client.hset(viewer, "", row[:-1] + bytes([row[-1] ^ 1]))
        (miscounted,) = (await _look(world)).miscounted
        assert "v1" in miscounted
        await world.stored.client.delete(viewer)
        found = await _look(world)
        assert len(found.miscounted) == 1
        assert found.misread, "the oracle knows a viewer that Redis does not"
        unread = Event("unread", "comment", 1_700_000_000_000, "r0", "s0", viewer_id="v0")
        await produce(world.setup, [record(unread, 1), (0, b"v0", b"no event")])
        found = await _look(world)
        assert len(found.lost) == 1
        assert len(found.undelivered) == 1


async def _look(world: World) -> Verdict:
    return await verify(world.setup, world.stored, exact_scores=True, seed=0)


async def _publish_again(world: World, *, offset: int | None = None, **fields: object) -> None:
    """Publish the last score once more, as of another offset or with other values."""
    kafka = world.setup.config.kafka
    async for records in stream(kafka.bootstrap, kafka.scores_topic, 0):
        last = records[-1]
    headers = last.headers if offset is None else [("src-off", offset.to_bytes(8, "big"))]
    value = msgspec.json.encode(msgspec.json.decode(last.value, type=dict[str, object]) | fields)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        await producer.send_and_wait(kafka.scores_topic, value, last.key, partition=0, headers=list(headers))
