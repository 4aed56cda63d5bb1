"""What Redis holds of the members' state: read as the store lays it out, for looking on only."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from redis.exceptions import RedisClusterException, RedisError

from features.catalogue import fingerprint
from features.redis_store import RedisStore, connect
from tests.features.harness import Rows
from tests.integration.member import Setup

_STEP_S = 0.02
_AWAY = (RedisError, RedisClusterException, OSError)


class Stored:
    """The state of one consumer group."""

    def __init__(self, setup: Setup) -> None:
        """Nothing is connected yet."""
        kafka, redis = setup.config.kafka, setup.config.redis
        self._partitions = setup.partitions
        self._offsets = dict.fromkeys(range(setup.partitions), 0)
        self.client: Any = connect(
            redis.url, username=None, password=None, cafile=None, cluster=redis.cluster, timeout_s=5.0
        )
        self._names = RedisStore(
            self.client, group=kafka.group, topic=kafka.events_topic, fingerprint=fingerprint(), ttl_s=1
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.client.aclose()

    async def offsets(self) -> dict[int, int]:
        """The next offset of each partition; as last seen where Redis does not answer."""
        for partition in self._offsets:
            try:
                held = await self.client.hget(self._names._meta(partition), "offset")
            except _AWAY:
                continue
            self._offsets[partition] = int(held) if held and held.isdigit() else 0
        return dict(self._offsets)

    async def fresh(self) -> int:
        """The sum of all offsets as of now, as soon as Redis answers."""
        while True:
            try:
                held = [await self.client.hget(self.meta(partition), "offset") for partition in self._offsets]
            except _AWAY:
                await asyncio.sleep(_STEP_S)
                continue
            return sum(int(offset) if offset and offset.isdigit() else 0 for offset in held)

    async def rows(self, partition: int) -> Rows:
        """All rows of a partition."""
        rows = Rows()
        for prefix, kind in ((self._names._viewer(partition, ""), "v"), (self._names._room(partition, ""), "r")):
            async for key in self.client.scan_iter(f"{_literally(prefix)}*", count=1_000):
                name = key.decode().removeprefix(prefix)
                if kind == "r":
                    rows.rooms[partition, name] = await self.client.get(key)
                else:
                    fields = await self.client.hgetall(key)
                    rows.viewers[partition, name] = {field.decode(): row for field, row in fields.items()}
        return rows

    def meta(self, partition: int) -> str:
        """Name of the key that holds epoch and offset."""
        return self._names._meta(partition)


def _literally(text: str) -> str:
    return text.replace("[", "\\[").replace("*", "\\*").replace("?", "\\?")
