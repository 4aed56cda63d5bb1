"""Batches may be scored side by side; what is published keeps the order in which it was read."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.ladder import Answer, Ladder
from scorer.lanes import Challenge, Lane, Lanes
from tests.scorer.rig import Constant, FaultyStore, ListSink, Log, Member, say


class Uneven(Ladder):
    """Answers the first batch once it has answered the second; or fails it then."""

    def __init__(self) -> None:
        super().__init__([], Constant())
        self.error: Exception | None = None
        self._asked = 0
        self._second = asyncio.Event()

    async def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Answer:
        self._asked += 1
        answer = await super().infer(features, history)
        if self._asked == 1:
            await self._second.wait()
            if self.error is not None:
                raise self.error
        elif self._asked == 2:
            self._second.set()
            for _ in range(3):
                await asyncio.sleep(0)
        return answer


@pytest.fixture
def log() -> Log:
    log = Log(1)
    log.records[0] = [say(offset) for offset in range(9)]
    return log


async def test_a_batch_that_is_answered_sooner_is_not_published_sooner(log: Log) -> None:
    member = Member(log, FaultyStore(), ListSink(), lanes=Lanes(Lane("default", Uneven())))
    member.start(0)
    await member.until(0, 9)
    await member.end()
    assert member.sink.offsets(0) == list(range(9))


async def test_nothing_is_published_after_a_batch_that_failed(log: Log) -> None:
    """It would be read first, and the failed batch's scores, sent after a restart, taken for repeats."""
    ladder = Uneven()
    ladder.error = TypeError("a bug")
    member = Member(log, FaultyStore(), ListSink(), lanes=Lanes(Lane("default", ladder)))
    member.start(0)
    with pytest.raises(TypeError, match="a bug"):
        await member.until(0, 9)
    assert member.sink.offsets(0) == []
    await member.die()


async def test_scores_of_two_arms_are_published_in_the_order_of_their_events(log: Log) -> None:
    log.records[0] = [say(offset, viewer=f"v{offset % 7}") for offset in range(60)]
    lanes = Lanes(
        Lane("default", Ladder([], Constant())), challenge=Challenge(Lane("b", Ladder([], Constant())), 0.5, "")
    )
    member = Member(log, FaultyStore(), ListSink(), lanes=lanes)
    member.source.most = 20
    member.start(0)
    await member.until(0, 60)
    await member.end()
    assert member.sink.offsets(0) == list(range(60))
    arms = [json.loads(message.value or b"")["arm"] for _, _, message in member.sink.published]
    assert arms == ["b" if challenged(offset) else "default" for offset in range(60)]


def challenged(offset: int) -> bool:
    return Challenge(Lane("b", Ladder([], Constant())), 0.5, "").has(f"v{offset % 7}")
