"""Room counts over partitions: each partition keeps its own share exactly and learns the others' a moment later.

A viewer's events go to the viewer's partition, so a room's counts are spread over all of them. Four times a second (by
default) each member publishes its shares that changed and reads those of the rooms it has just seen. Rooms take turns,
always the same ones at once, so that scores never wait for the work of a whole round. A room that comes after a pause
is asked for at once. So a share is as old as one wait to be published and one to be read, at most, and as long as the
store takes.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from itertools import cycle

from features.engine import FeatureEngine
from features.store import Store, StoreUnavailable
from features.watch import TURNS

log = logging.getLogger(__name__)

_SOME = 50  # rooms dealt with in one go: well below a millisecond
_PATIENCE_S = 0.01  # that a batch waits for rooms that come after a pause
_AT_ONCE = 4  # readings for batches that went on without


class RoomExchange:
    """Publishes and reads shares of rooms. `owned` gives the partitions whose rows may be touched now."""

    def __init__(
        self, store: Store, engine: FeatureEngine, owned: Callable[[], Collection[int]], *, interval_s: float
    ) -> None:
        self._store = store
        self._engine = engine
        self._owned = owned
        self._interval_s = interval_s
        self._away = False  # the store, when it was asked last
        self._reading: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Exchange for ever; while the store is away, features go on with what is known."""
        wait_s = self._interval_s / TURNS
        due = time.monotonic()
        told = False
        for turn in cycle(range(TURNS)):
            due = max(due + wait_s, time.monotonic() + wait_s / 2)
            await asyncio.sleep(due - time.monotonic())
            try:
                if await self.exchange(turn):
                    told = False
            except StoreUnavailable as error:
                if not told:
                    log.warning("Room counts of other partitions are not fresh: %s", error)
                told = True

    async def exchange(self, turn: int | None = None) -> bool:
        """Publish the shares that changed, and read those of the rooms that are watched, once, of all turns or one.

        Some rooms at a time: the event loop has scores to see to in between. Returns whether there were any.
        """
        watched = self._engine.next_round(turn)
        try:
            asked = await self.publish(turn) or bool(watched)
            for start in range(0, len(watched), _SOME):
                await self._read(watched[start : start + _SOME])
        except StoreUnavailable:
            self._away = True
            raise
        if asked:
            self._away = False
        return asked

    async def hear(self, rooms: Collection[str]) -> None:
        """Read the shares of rooms that come after a pause.

        Waits for 10 ms at most, and not at all after the store failed: a score in time is worth more than these.
        """
        if self._away or len(self._reading) >= _AT_ONCE:
            return
        reading = asyncio.create_task(self._read(rooms), name="hear")
        self._reading.add(reading)
        reading.add_done_callback(self._heard)
        await asyncio.wait([reading], timeout=_PATIENCE_S)  # and not cancelled: it costs a connection
        if reading.done() and not isinstance(reading.exception(), StoreUnavailable):
            reading.result()

    def _heard(self, reading: asyncio.Task[None]) -> None:
        self._reading.discard(reading)
        if not reading.cancelled() and reading.exception() is not None:
            self._away = True  # until the next round, which says so

    async def _read(self, rooms: Collection[str]) -> None:
        names, asked = list(rooms), self._engine.ask_shares()
        shares = await self._store.read_shares(names)
        refused = self._engine.set_other_shares(dict(zip(names, shares, strict=True)), asked)
        if refused:
            log.warning("%d shares of rooms are left out: %s", len(refused), refused[0])

    async def publish(self, turn: int | None = None) -> bool:
        """Publish the shares that changed. Raises StoreUnavailable; those that were not published stay to be.

        Returns whether there were any.
        """
        asked = False
        kept: list[dict[int, dict[str, bytes]]] = []  # of partitions that are not ours now: they may come back
        try:
            rooms = self._engine.dirty_rooms(turn)  # and none that change meanwhile, or it would never end
            for start in range(0, len(rooms), _SOME):
                dirty = self._engine.take_dirty_shares(rooms[start : start + _SOME])
                owned = set(self._owned())
                kept.append(dirty)
                if ours := {p: rooms for p, rooms in dirty.items() if p in owned}:
                    await self._store.publish_shares(ours)
                    asked = True
                kept[-1] = {p: rooms for p, rooms in dirty.items() if p not in owned}
        finally:  # after a cancellation, too: a hand-over waits only so long
            for shares in kept:
                self._engine.return_dirty_shares(shares)
        return asked
