"""What the service adds to its parts; whole members are in tests/integration."""

from __future__ import annotations

import asyncio
import socket

import pytest

from features.store import StoreUnavailable
from scorer.config import Batching, Config, Server
from scorer.lease import Lease
from scorer.service import Service, _before
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


async def test_a_start_that_never_ends_is_given_up_when_told_to_stop() -> None:
    """The group may keep a member waiting for as long as its coordinator is away."""
    given_up: list[str] = []

    async def starting() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.append("yes")

    stop = asyncio.Event()
    asyncio.get_running_loop().call_soon(stop.set)
    assert await _before(starting(), stop) is False
    assert given_up == ["yes"]


async def test_what_a_start_fails_with_is_told() -> None:
    async def failing() -> None:
        raise StoreUnavailable("Redis is away.")

    with pytest.raises(StoreUnavailable):
        await _before(failing(), asyncio.Event())


def test_a_port_that_is_taken_is_told_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"listen on port {port} of '127\.0\.0\.1' .*set server\.port"):
            Service(Config(server=Server("127.0.0.1", port)))
