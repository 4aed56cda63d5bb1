"""Room counts over partitions: each partition keeps its own share exactly and learns the others' a moment later.

A viewer's events go to the viewer's partition, so a room's counts are spread over all of them. Four times a second (by
default) each partition publishes its shares that changed and reads those of the rooms it has just seen.
"""

import asyncio
import logging
from collections.abc import Callable, Collection

from features.engine import FeatureEngine
from features.store import Store, StoreUnavailable

log = logging.getLogger(__name__)

_SOME = 100  # rooms dealt with in one go: well below a millisecond


class RoomExchange:
    """Publishes and reads shares of rooms. `owned` gives the partitions whose rows may be touched now."""

    def __init__(
        self, store: Store, engine: FeatureEngine, owned: Callable[[], Collection[int]], *, interval_s: float
    ) -> None:
        self._store = store
        self._engine = engine
        self._owned = owned
        self._interval_s = interval_s

    async def run(self) -> None:
        """Exchange for ever; while the store is away, features go on with what is known."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.exchange()
            except StoreUnavailable as error:
                log.warning("Room counts of other partitions are not fresh: %s", error)

    async def exchange(self) -> None:
        """Publish the shares that changed, and read those of the rooms that were active, once.

        Some rooms at a time: the event loop has scores to see to in between.
        """
        active = self._engine.active_rooms()
        await self.publish()
        rooms = sorted({room for _, room in active})
        for start in range(0, len(rooms), _SOME):
            some = rooms[start : start + _SOME]
            shares = dict(zip(some, await self._store.read_shares(some), strict=True))
            refused = self._engine.set_other_shares(
                {
                    (partition, room): [share for at, share in shares[room].items() if at != partition]
                    for partition, room in active
                    if room in shares
                }
            )
            if refused:
                log.warning("%d shares of rooms are left out: %s", len(refused), refused[0])

    async def publish(self) -> None:
        """Publish the shares that changed. Raises StoreUnavailable; those that were not published stay to be."""
        kept: list[dict[int, dict[str, bytes]]] = []  # of partitions that are not ours now: they may come back
        try:
            while dirty := self._engine.take_dirty_shares(_SOME):
                owned = set(self._owned())
                kept.append(dirty)
                await self._store.publish_shares({p: rooms for p, rooms in dirty.items() if p in owned})
                kept[-1] = {p: rooms for p, rooms in dirty.items() if p not in owned}
        finally:  # after a cancellation, too: a hand-over waits only so long
            for shares in kept:
                self._engine.return_dirty_shares(shares)
