"""Progress made durable, off the path to the score: one fenced write at a time for each partition.

What is acknowledged while a write is under way gathers and goes out as the next one.
"""

import asyncio
import logging
from typing import Protocol

from features.engine import Changes, ViewerChange
from features.store import Checkpoint, Store, StoreUnavailable, Written
from scorer.lease import Lease, Progress

log = logging.getLogger(__name__)

_MAX_ENTITIES = 1_000  # of several cuts in one write: a script holds up everybody else for as long as it runs
_RETRY_S = (0.02, 0.05, 0.1, 0.2, 0.5)  # waits between attempts; the last one repeats


class Listener(Protocol):
    """Who hears about the outcome."""

    def written(self, lease: Lease, sequence: int) -> None:
        """Rows of batches up to `sequence` are durable."""
        ...

    def refused(self, lease: Lease, outcome: Written) -> None:
        """The partition is not ours, or not where we believed it to be."""
        ...

    def failed(self, error: StoreUnavailable) -> None:
        """The store cannot serve; the write will be tried again."""
        ...


class Checkpointer:
    """Writes what leases have gathered."""

    def __init__(self, store: Store, listener: Listener) -> None:
        self._store = store
        self._listener = listener
        self._writers: dict[Lease, asyncio.Task[None]] = {}
        self._failure: Exception | None = None

    def add(self, lease: Lease, progress: Progress) -> None:
        """Have it written, after what was added before. Raises what an earlier write failed with: a bug."""
        if self._failure is not None:
            raise self._failure
        if lease.lost:
            return
        lease.progress.append(progress)
        lease.note()
        if lease not in self._writers:
            self._writers[lease] = asyncio.create_task(self._write_all(lease), name=f"checkpoint-{lease.partition}")

    async def _write_all(self, lease: Lease) -> None:
        try:
            while lease.progress:
                await self._write(lease)
        except Exception as error:
            self._failure = error
        finally:
            del self._writers[lease]

    async def _write(self, lease: Lease) -> None:
        """One write of as much as may go into one."""
        count, offset, sequence, changes = _gather(lease)
        write = Checkpoint(lease.partition, lease.epoch, lease.stored, offset, changes)
        attempt = 0
        while not lease.lost:
            try:
                outcome = await self._store.checkpoint(write)
            except StoreUnavailable as error:
                self._listener.failed(error)
                await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
                attempt += 1
                continue
            if lease.lost:
                return
            if outcome is not Written.APPLIED:
                self._listener.refused(lease, outcome)
                return
            lease.stored = offset
            for _ in range(count):
                lease.progress.popleft()
            lease.note()
            self._listener.written(lease, sequence)
            return


def _gather(lease: Lease) -> tuple[int, int, int, Changes]:
    """How many steps of progress go into the next write, up to which offset and batch, and their rows as one."""
    first = lease.progress[0]
    merged = Changes(dict(first.changes.viewers), dict(first.changes.rooms))
    count, offset, sequence = 1, first.offset, first.sequence
    for progress in list(lease.progress)[1:]:
        size = len(merged.viewers) + len(merged.rooms) + len(progress.changes.viewers) + len(progress.changes.rooms)
        if size > _MAX_ENTITIES:
            break
        _merge(merged, progress.changes)
        count, offset, sequence = count + 1, progress.offset, progress.sequence
    return count, offset, sequence, merged


def _merge(into: Changes, later: Changes) -> None:
    """Let later rows replace earlier ones; an erasure discards what came before it."""
    for viewer_id, change in later.viewers.items():
        earlier = into.viewers.get(viewer_id)
        if earlier is None or change.erased:
            into.viewers[viewer_id] = change
        else:
            row = earlier.row if change.row is None else change.row
            into.viewers[viewer_id] = ViewerChange(earlier.erased, row, {**earlier.pairs, **change.pairs})
    into.rooms.update(later.rooms)
