"""One input partition while this process owns it, from a claim to a revocation or a loss."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from features.engine import Changes
from scorer.record import Record


class Progress(NamedTuple):
    """Rows whose events are published, and that wait to be written."""

    offset: int
    """The next offset after the events in them."""
    sequence: int
    """Number of the batch that changed them."""
    changes: Changes


@dataclass(eq=False, slots=True)
class Lease:
    """What is known about an owned partition. Offsets are of the next record, as Kafka has it."""

    partition: int
    epoch: int
    """Fencing token of the claim."""
    stored: int | None
    """The offset in the store."""
    publish_from: int
    """Records below this offset were published in an earlier life: they only rebuild state."""
    queue: deque[Record] = field(default_factory=deque)
    """Records read and not yet in a batch."""
    progress: deque[Progress] = field(default_factory=deque)
    read_to: int | None = None
    """What the rows in memory are as of, where that is ahead of `progress`."""
    in_flight: int = 0
    """Batches of which some record is being scored or published."""
    lost: bool = False
    """No longer ours, or not where we believed: nothing more may be published or written."""
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while nothing is in flight and all that was read is in the store."""

    def __post_init__(self) -> None:
        self.settled.set()

    @property
    def unwritten(self) -> int:
        """Viewers and rooms of which rows wait to be written."""
        return sum(len(step.changes.viewers) + len(step.changes.rooms) for step in self.progress)

    def read(self, records: Sequence[Record]) -> None:
        """Queue records, in offset order."""
        self.queue.extend(records)

    def begin(self) -> None:
        """A batch with records of this partition is under way."""
        self.in_flight += 1
        self.settled.clear()

    def end(self) -> None:
        """It is done, published or given up."""
        self.in_flight -= 1
        self.note()

    def lose(self) -> None:
        """Give up what is queued; what is in flight finds `lost` set."""
        self.lost = True
        self.queue.clear()
        self.progress.clear()
        self.note()

    def note(self) -> None:
        """Set `settled` when it is so."""
        if self.lost or (self.in_flight == 0 and not self.progress and self.read_to is None):
            self.settled.set()
        else:
            self.settled.clear()
