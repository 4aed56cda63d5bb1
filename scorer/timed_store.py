"""A store whose calls are timed: the one place where Redis's share of the time is measured."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from features.engine import RowKey
from features.store import Checkpoint, Claim, Held, Store, Written
from scorer.metrics import RedisCall

_T = TypeVar("_T")


class TimedStore:
    """A Store that passes everything on to another and reports, in seconds, what each call took; failed calls too.

    `clock` is monotonic, in seconds.
    """

    def __init__(self, store: Store, observe: Callable[[RedisCall, float], None], clock: Callable[[], float]) -> None:
        self._store = store
        self._observe = observe
        self._clock = clock

    async def claim(self, partition: int, generation: int, owner: str) -> Claim:
        return await self._timed("claim", self._store.claim(partition, generation, owner))

    async def clear(self, partition: int, epoch: int) -> None:
        await self._store.clear(partition, epoch)

    async def load(self, keys: Sequence[RowKey], held: Mapping[int, Held] | None = None) -> list[bytes | None]:
        return await self._timed("load", self._store.load(keys, held))

    async def checkpoint(self, write: Checkpoint) -> Written:
        return await self._timed("checkpoint", self._store.checkpoint(write))

    async def publish_shares(self, shares: Mapping[int, Mapping[str, bytes]]) -> None:
        await self._timed("rooms", self._store.publish_shares(shares))

    async def read_shares(self, rooms: Sequence[str]) -> list[dict[int, bytes]]:
        return await self._timed("rooms", self._store.read_shares(rooms))

    async def close(self) -> None:
        await self._store.close()

    async def _timed(self, call: RedisCall, running: Awaitable[_T]) -> _T:
        started = self._clock()
        try:
            return await running
        finally:
            self._observe(call, self._clock() - started)
