"""Several brokers that pass leadership around and refuse requests: librdkafka's mock, for one real broker has no peers.

It takes one member of a group and forgets what is older than 5 MiB a partition: one member, and little traffic.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from scorer.embedded.kafka import MockError
from tests.faults.conftest import Worlds
from tests.faults.traffic import Shape
from tests.services.missing import require
from tests.services.mock import FETCH, HANG_UP, HEARTBEAT, OFFSET_COMMIT, PRODUCE, FaultyCluster

pytestmark = [pytest.mark.redis, pytest.mark.faults, pytest.mark.timeout(120)]

_CLEAN = Shape(poison=0.0)

_REFUSALS = {
    # Kafka's error codes
    "hang-up": (PRODUCE, (HANG_UP, HANG_UP)),
    "not-leader": (PRODUCE, (6, 6, 6)),
    "timed-out": (PRODUCE, (7, 7)),
    "too-few-replicas": (PRODUCE, (19, 20, 19)),
    "fetch-refused": (FETCH, (6, HANG_UP, 6, 9)),
    "commit-refused": (OFFSET_COMMIT, (16, 22, 25, 27)),
    "unknown-member": (HEARTBEAT, (25,)),
    "rebalance": (HEARTBEAT, (27, 22)),
}
_FATAL = {
    "out-of-sequence": (45,),
    "unknown-producer": (59,),
    "invalid-record": (87,),
    "again-and-again": (45, 87, 59, 45),
}


@pytest.fixture
def brokers() -> Iterator[FaultyCluster]:
    """Three of them."""
    try:
        cluster = FaultyCluster(3)
    except MockError as error:
        require(str(error))
        raise
    yield cluster
    cluster.close()


async def test_leaders_move(worlds: Worlds, brokers: FaultyCluster, seed: int) -> None:
    rng = random.Random(seed)
    async with worlds(mock=brokers, shape=_CLEAN, rate=200) as world:
        await world.run(1)
        kafka = world.setup.config.kafka
        for _ in range(15):
            await world.flow(0.3)
            topic = rng.choice((kafka.events_topic, kafka.scores_topic))
            brokers.lead(topic, rng.randrange(world.setup.partitions), rng.randint(1, 3))
        await world.drained("backlog drained after leaders moved")
        await world.reckon()


@pytest.mark.parametrize("refusal", _REFUSALS)
async def test_refused(worlds: Worlds, brokers: FaultyCluster, refusal: str) -> None:
    """While the load rests, so that it is the member that is refused."""
    api, errors = _REFUSALS[refusal]
    async with worlds(mock=brokers, shape=_CLEAN, rate=200) as world:
        (member,) = await world.run(1)
        for _ in range(2):
            member.freeze()
            await world.flow(0.5)
            world.load.rate = 0.0
            await world.flow(0.3)
            brokers.fail(api, *errors)
            member.thaw()
            world.note("refused", errors=errors)
            await world.drained("backlog drained after refusals")
            world.load.rate = 200
            await world.flow(1)
        await world.reckon()


@pytest.mark.parametrize("fatal", _FATAL)
async def test_producer_given_up(worlds: Worlds, brokers: FaultyCluster, fatal: str) -> None:
    """A member's first batches are refused for good: it needs a new producer, and nothing may get ahead of them.

    The first ones, because a broker takes any sequence number of a producer that it does not know; and this one, which
    checks none at all, would go on to. Real ones refuse what follows a batch that they refused.
    """
    async with worlds(mock=brokers, shape=_CLEAN, rate=200) as world:
        await world.flow(1)
        world.load.rate = 0.0
        await world.flow(0.3)
        brokers.fail(PRODUCE, *_FATAL[fatal])
        (member,) = await world.run(1)
        await world.drained("backlog drained after producers were given up")
        world.load.rate = 200
        await world.flow(1)
        assert (await member.metrics())["tipstream_producer_recreations_total"] >= 1
        await world.reckon()
