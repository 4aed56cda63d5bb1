"""What the service adds to its parts; whole members are in tests/integration."""

from __future__ import annotations

from features.store import StoreUnavailable
from scorer.config import Batching, Config, Server
from scorer.lease import Lease
from scorer.service import Service
from tests.scorer.rig import T0, say


async def test_a_row_that_redis_does_not_give_is_told_and_forgotten() -> None:
    """No checkpoint may be there to fail: a restart for want of progress would help nobody."""
    service = Service(Config(server=Server(port=0)))
    service.health.enter("ready")
    told: list[list[str]] = []

    async def call() -> int:
        told.append(service.health.against_readiness())
        if len(told) == 1:
            raise StoreUnavailable("Redis is away.")
        return 7

    assert await service._patiently(call) == 7
    assert told == [[], ["A row is waited for: Redis is away."]]
    assert not service.health.waits
    await service.close()


async def test_a_largest_batch_between_two_buckets_is_used_to_the_full() -> None:
    service = Service(Config(server=Server(port=0), batching=Batching(max_batch=7)))
    lease = Lease(0, 1, 0, 0)
    lease.read([say(i) for i in range(20)])
    (portion,) = service._batcher.take([lease], T0)
    assert len(portion.records) == 7
    await service.close()
