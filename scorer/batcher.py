"""Which records make up the next batch, and which of them are too late to be scored.

Work-conserving: whatever is there is taken at once; records gather only while earlier batches are under way. The
earliest deadline goes first across partitions, offset order holds within each. A record's deadline is its Kafka
timestamp plus the budget; one that cannot be scored and acknowledged by then is shed: its state counts, its score is
given up.
"""

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from scorer.lease import Lease
from scorer.record import Record

_WINDOW = 256  # measurements remembered of each kind
_REFRESH = 32  # measurements between two looks at the quantile
_QUANTILE = 0.9
_CROWD = 4  # a batch holds at most this many times `max_batch` records, those that are shed included


class Quantile:
    """A high quantile of the most recent durations, in milliseconds."""

    def __init__(self, first_guess_ms: float) -> None:
        self.value = first_guess_ms
        self._recent = np.full(_WINDOW, first_guess_ms)
        self._seen = 0

    def observe(self, duration_ms: float) -> None:
        """Take one measurement into account."""
        self._recent[self._seen % _WINDOW] = duration_ms
        self._seen += 1
        if self._seen % _REFRESH == 0:
            self.value = float(np.quantile(self._recent[: min(self._seen, _WINDOW)], _QUANTILE))


class ServiceTimes:
    """How long a batch takes from being taken to its scores being acknowledged, by bucket: measured, not modelled."""

    def __init__(self, buckets: Sequence[int]) -> None:
        self.buckets = sorted(buckets)
        self._times = {bucket: Quantile(first_guess_ms=5.0) for bucket in self.buckets}

    def bucket(self, n: int) -> int:
        """The smallest bucket that holds n rows; the largest one if none does."""
        return next((bucket for bucket in self.buckets if bucket >= n), self.buckets[-1])

    def expected_ms(self, n: int) -> float:
        """A high quantile for n rows."""
        return self._times[self.bucket(n)].value

    def observe(self, n: int, duration_ms: float) -> None:
        """Note that a batch of n scored rows took so long."""
        self._times[self.bucket(n)].observe(duration_ms)


class Portion(NamedTuple):
    """One partition's part of a batch."""

    lease: Lease
    records: list[Record]
    """In offset order."""
    shed: list[bool]
    """For each record: too late to be scored."""


class Batcher:
    """Takes batches from the queues of owned partitions."""

    def __init__(self, times: ServiceTimes, *, max_batch: int, deadline_ms: float, publish_late: bool) -> None:
        self.times = times
        self._max_batch = max_batch
        self._deadline_ms = deadline_ms
        self._publish_late = publish_late

    def take(self, leases: Iterable[Lease], now_ms: float) -> list[Portion]:
        """Remove the next batch from the queues; empty when they are."""
        heads = [(lease.queue[0].timestamp, lease.partition, Portion(lease, [], [])) for lease in leases if lease.queue]
        heapq.heapify(heads)
        portions = [portion for _, _, portion in heads]
        # Half the budget at most: what is younger is tried whatever was measured, or a bad spell that made every
        # estimate too long would never be measured away.
        hopeless_ms = now_ms + min(self.times.expected_ms(1), self._deadline_ms / 2)
        limit: int | None = None  # of rows to score; known once the most urgent of them is
        scored = taken = 0
        while heads and taken < _CROWD * self._max_batch:
            timestamp, partition, portion = heads[0]
            deadline_ms = timestamp + self._deadline_ms
            late = deadline_ms < hopeless_ms
            if self._publish_late or not late:
                if limit is None:
                    limit = self._largest(deadline_ms - now_ms)
                if scored == limit:
                    break
                scored += 1
            queue = portion.lease.queue
            portion.records.append(queue.popleft())
            portion.shed.append(late and not self._publish_late)
            taken += 1
            if queue:
                heapq.heapreplace(heads, (queue[0].timestamp, partition, portion))
            else:
                heapq.heappop(heads)
        return [portion for portion in portions if portion.records]

    def _largest(self, left_ms: float) -> int:
        """The largest batch that is done within `left_ms`; the largest of all when it is too late for any."""
        sizes = {min(bucket, self._max_batch) for bucket in self.times.buckets}
        return max((size for size in sizes if self.times.expected_ms(size) <= left_ms), default=self._max_batch)
