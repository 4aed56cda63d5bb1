"""Playing records to Kafka on a schedule that does not wait for Kafka.

Each record is due at a time that follows from the first one's, the recorded gaps and the speed. What is due is handed
over, whatever became of the records before: a slow cluster makes records late, never the load smaller. With flat-out
speed, and no rate cap, only the producer's bound on unacknowledged records holds play back.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from replay.recording import Record, RecordingError
from replay.shift import shifted

Batches = Iterable[Sequence[Record]]
FLAT_OUT: Final = math.inf
_SLICE: Final = 2_000  # records handed over before deliveries get their turn
_TICK_S: Final = 0.002  # a request to Kafka costs as much as dozens of records: do not send them one by one
_BETWEEN_TURNS_MS: Final = 1_000


class Target(Protocol):
    """Where records go: `kafka.Producer`, as far as it is needed here."""

    partitions: int

    def partition(self, key: bytes | None) -> int:
        """Choose a partition by key."""
        ...

    def send(self, partition: int, timestamp_ms: int, record: Record) -> None:
        """Queue a record."""
        ...

    async def room(self) -> None:
        """Wait while too much is queued."""
        ...

    async def flush(self) -> None:
        """Wait until nothing is queued."""
        ...


class Plan(NamedTuple):
    """How to play."""

    speed: float = 1.0
    """Times faster than recorded; `FLAT_OUT` ignores the recorded gaps."""
    rate_cap: float = math.inf
    """Most records per second."""
    turns: int = 1
    """How often to play the whole; 0 for ever."""
    copies: int = 1
    """How many sets of people cause the traffic at once."""
    stamp: Literal["recorded", "now"] = "recorded"
    """Kafka timestamp: as recorded, or when each record is due (which is what latency must be measured from); played
    flat out, nothing is due, and "now" is when the record is handed over."""
    rekey: bool = False
    """Whether partitions are chosen by key although the recording has them."""


class Played(NamedTuple):
    """What was played."""

    records: int
    seconds: float
    late_p99_ms: float
    """How late records were handed over: above a few ms, this machine or Kafka did not keep up. 0 when nothing was
    due."""
    late_max_ms: float


class Clock(NamedTuple):
    """Where time comes from."""

    monotonic: Callable[[], float] = time.perf_counter
    unix: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


async def play(
    batches: Callable[[], Batches],
    target: Target,
    plan: Plan,
    *,
    advance: Callable[[int], None] = lambda _: None,
    clock: Clock = Clock(),  # noqa: B008 -- immutable
) -> Played:
    """Play what `batches` yields, anew each turn; returns once `target` has flushed. `advance` is told of progress.

    The next batch is made in a thread while the last one is played.
    """
    player = _Player(target, plan, clock)
    turn = 0
    later_ms = 0
    while not plan.turns or turn < plan.turns:
        source = iter(batches())
        following = asyncio.create_task(_next(source))
        first_ms: int | None = None
        last_ms = 0
        try:
            while (records := await following) is not None:
                following = asyncio.create_task(_next(source))
                if not records:
                    continue
                if first_ms is None:
                    first_ms = last_ms = records[0].timestamp_ms
                last_ms = max(last_ms, *(record.timestamp_ms for record in records))
                await player.play(_multiplied(records, plan.copies, turn, later_ms))
                advance(len(records) * plan.copies)
        finally:
            following.cancel()
        if first_ms is None:
            break
        later_ms += last_ms - first_ms + _BETWEEN_TURNS_MS
        turn += 1
    await target.flush()
    return player.result()


async def _next(source: Iterator[Sequence[Record]]) -> Sequence[Record] | None:
    return await asyncio.to_thread(next, source, None)


def _multiplied(records: Sequence[Record], copies: int, turn: int, later_ms: int) -> list[Record]:
    if copies == 1 and not turn:
        return list(records)
    return [shifted(record, copy, turn, later_ms) for record in records for copy in range(copies)]


class _Player:
    def __init__(self, target: Target, plan: Plan, clock: Clock) -> None:
        self._target = target
        self._plan = plan
        self._clock = clock
        self._start = clock.monotonic()
        self._start_ms = clock.unix() * 1000
        self._origin_ms: int | None = None  # timestamp of the very first record
        self._latest = 0.0  # when the last record was due, seconds after the start
        self._played = 0
        self._late = np.zeros(20_000, np.int64)  # records by ms of lateness; the last bin holds the rest
        self._late_max = 0.0

    async def play(self, records: Sequence[Record]) -> None:
        due = self._schedule(np.array([record.timestamp_ms for record in records], np.int64))
        scheduled = self._plan.speed != FLAT_OUT or self._plan.rate_cap != math.inf
        stamp: NDArray[np.float64] | None = self._start_ms + due * 1000 if self._plan.stamp == "now" else None
        done = 0
        while done < len(records):
            now = self._clock.monotonic() - self._start
            ready = min(int(np.searchsorted(due, now, side="right")), done + _SLICE)
            if ready <= done:
                await self._clock.sleep(max(due[done] - now, _TICK_S))
                continue
            for i in range(done, ready):
                record = records[i]
                if stamp is None:
                    at_ms = record.timestamp_ms
                else:
                    at_ms = int(stamp[i] if scheduled else self._start_ms + now * 1000)
                self._target.send(self._partition(record), at_ms, record)
            if scheduled:
                self._note(now - due[done:ready])
            done = ready
            await self._target.room()

    def result(self) -> Played:
        seconds = self._clock.monotonic() - self._start
        p99_ms = int(np.searchsorted(np.cumsum(self._late), 0.99 * self._late.sum()))
        return Played(self._played, seconds, float(p99_ms), self._late_max)

    def _schedule(self, timestamp_ms: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,) seconds after the start at which records are due: never before the one that precedes them."""
        if self._origin_ms is None:
            self._origin_ms = int(timestamp_ms[0])
        if self._plan.speed == FLAT_OUT:
            wanted = np.zeros(len(timestamp_ms))
        else:
            wanted = (timestamp_ms - self._origin_ms) / 1000 / self._plan.speed
        gap = 1 / self._plan.rate_cap
        turn = np.arange(1, len(wanted) + 1) * gap
        due: NDArray[Any] = np.maximum.accumulate(np.maximum(wanted - turn, self._latest)) + turn
        self._latest = float(due[-1])
        self._played += len(due)
        return due

    def _partition(self, record: Record) -> int:
        if record.partition is None or self._plan.rekey or self._plan.copies > 1:
            return self._target.partition(record.key)
        if record.partition >= self._target.partitions:
            raise RecordingError(
                f"The recording has a record of partition {record.partition}, and the topic has only "
                f"{self._target.partitions} partitions. Play with --rekey, which chooses partitions by key."
            )
        return record.partition

    def _note(self, late_s: NDArray[np.float64]) -> None:
        late_ms = late_s * 1000
        np.add.at(self._late, np.minimum(late_ms.astype(np.int64), len(self._late) - 1), 1)
        self._late_max = max(self._late_max, float(late_ms.max()))
