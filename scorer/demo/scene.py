"""Everything that there is to show, kept up to date from the two topics and the scorer's metrics."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from http.client import HTTPException
from typing import Final

import msgspec

from features.events import decode
from scorer.contracts import Score
from scorer.demo.board import Board
from scorer.demo.gauges import Gauges
from scorer.demo.outcomes import Outcomes
from scorer.demo.stack import PARTITIONS, Stack
from scorer.kafka.tail import Tail

_READ_S: Final = 1.0  # between two looks at the metrics
_score = msgspec.json.Decoder(Score).decode


class Scene:
    """The demo as it stands."""

    def __init__(self, stack: Stack, seconds: int) -> None:
        """`seconds`: how long it is to last once traffic flows."""
        self.seconds = seconds
        self.gauges = Gauges()
        self.outcomes = Outcomes()
        self.board = Board()
        self.rates: deque[float] = deque(maxlen=40)
        """Events per second, one a second, for a little curve."""
        self._stack = stack
        self._kafka = stack.config.kafka
        self._tail = Tail(self._kafka, [self._kafka.events_topic, self._kafka.scores_topic])
        self._began: float | None = None
        self._looked = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the first event."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self.elapsed >= self.seconds

    async def open(self) -> None:
        """Start to look on."""
        await self._tail.start()

    async def look(self) -> None:
        """Take in what has come. Raises ChildError if a process has ended."""
        self._stack.check()
        topics = self._tail.take()
        events, scores = topics[self._kafka.events_topic], topics[self._kafka.scores_topic]
        if events and self._began is None:
            self._began = time.monotonic()
        self.outcomes.see_events(decode([seen.value for seen in events], [seen.key for seen in events]).events)
        answers = [_score(seen.value) for seen in scores if seen.value is not None]
        self.outcomes.see_scores(answers)
        self.outcomes.judge()
        self.board.see_scores(answers)
        if time.monotonic() - self._looked >= _READ_S:
            self._looked = time.monotonic()
            await self.measure()

    async def measure(self) -> None:
        """Read the scorer's metrics; without an answer, the figures stay as they were."""
        before = self.gauges.whole
        try:
            self.gauges.add(await asyncio.to_thread(self._stack.reading))
        except (OSError, HTTPException):  # it is busy, or has ended: the next look's `check` tells that
            return
        if before.partitions == PARTITIONS:
            second = self.gauges.whole.since(before)
            self.rates.append(second.events / max(second.at, 1e-3))

    async def close(self) -> None:
        """Stop looking on."""
        await self._tail.stop()
