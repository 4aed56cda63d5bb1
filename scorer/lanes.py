"""Which model answers for whom: arms of an experiment by viewer, models of their own by what an event says, shadows.

A lane is a ladder of its own. Without an experiment there is one, and nothing is looked at for an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from engines.ladder import Answer, Ladder
from engines.shadow import Shadow
from features.events import Event

DEFAULT_ARM: Final = "default"
_WHOLE: Final = 2**64


class Lane(NamedTuple):
    """One model's way to answer."""

    arm: str
    """Goes into every score."""
    ladder: Ladder
    shadow: Shadow | None = None


class Part(NamedTuple):
    """What one lane answered of a batch."""

    rows: NDArray[np.intp]
    """Positions among the batch's scored events, ascending; the answer has them in this order."""
    answer: Answer
    arm: str


class Challenge(NamedTuple):
    """An arm that gets a share of the viewers."""

    lane: Lane
    share: float
    salt: str

    def has(self, viewer_id: str) -> bool:
        """Whether a viewer is in this arm: the same answer everywhere and always, for one salt."""
        return xxhash.xxh3_64_intdigest(f"{self.salt}:{viewer_id}".encode()) < self.share * _WHOLE


class Lanes:
    """All lanes. `of` names the value of an event that chooses among `routes`; what is in none takes the main lane."""

    def __init__(
        self,
        main: Lane,
        *,
        routes: Mapping[str, Lane] | None = None,
        of: Callable[[Event], str | None] = lambda _: None,
        challenge: Challenge | None = None,
    ) -> None:
        """A challenge takes its viewers off the main lane only."""
        self.main = main
        self.routes = dict(routes or {})
        self.challenge = challenge
        self._of = of
        self._all = [main, *self.routes.values(), *([challenge.lane] if challenge else ())]
        self._number = {value: number for number, value in enumerate(self.routes, 1)}

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._all)

    async def infer(
        self, events: Sequence[Event], features: NDArray[np.float32], history: NDArray[np.float32]
    ) -> list[Part]:
        """Score n > 0 events: features (n, F), history (n, L, C). The parts are in no order and cover each row once."""
        if len(self._all) == 1:
            answer = await _ask(self.main, features, history)
            return [Part(np.arange(len(events)), answer, self.main.arm)]
        chosen = np.array([self._lane(event) for event in events], np.intp)
        split = [(self._all[number], np.flatnonzero(chosen == number)) for number in np.unique(chosen).tolist()]
        answers = await asyncio.gather(*(_ask(lane, features[rows], history[rows]) for lane, rows in split))
        return [Part(rows, answer, lane.arm) for (lane, rows), answer in zip(split, answers, strict=True)]

    def close(self) -> None:
        """Close every model."""
        for lane in self._all:
            lane.ladder.close()
            if lane.shadow is not None:
                lane.shadow.close()

    def _lane(self, event: Event) -> int:
        if self.routes and (number := self._number.get(self._of(event) or "")):
            return number
        if self.challenge is not None and event.viewer_id is not None and self.challenge.has(event.viewer_id):
            return len(self._all) - 1
        return 0


async def _ask(lane: Lane, features: NDArray[np.float32], history: NDArray[np.float32]) -> Answer:
    answer = await lane.ladder.infer(features, history)
    if lane.shadow is not None:
        lane.shadow.take(features, history, answer)
    return answer
