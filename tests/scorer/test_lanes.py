"""Which model answers for whom."""

from __future__ import annotations

import asyncio
from collections import Counter
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from engines.comparison import Difference
from engines.ladder import Ladder, Rung
from engines.model import Scores
from engines.prior import PriorModel
from engines.shadow import Shadow
from engines.worker import InlineWorker, ModelWorker
from features.events import Event
from scorer.lanes import Challenge, Lane, Lanes, Part
from tests.engines import small_models

VIEWERS = 2_000
IN_HALF = ["v2", "v5", "v7", "v8"]


class Echo(PriorModel):
    """Answers with the first feature of each row, so that a test sees which row got which answer."""

    def __init__(self, name: str) -> None:
        super().__init__(small_models.artifact().manifest)
        self.engine = name
        self.rows: list[int] = []

    def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
        self.rows.append(len(features))
        p_tip = np.repeat(features[:, :1], 2, axis=1)
        return Scores(p_tip, history[:, 0, 0].copy())


def lane(name: str, arm: str = "default", shadow: Shadow | None = None) -> Lane:
    return Lane(
        arm, Ladder([Rung("full", InlineWorker(Echo(name)))], PriorModel(small_models.artifact().manifest)), shadow
    )


def events(n: int) -> list[Event]:
    regions = ["SG", "BR", None]
    return [
        Event(f"e{i}", "comment", 1, "r", "s", viewer_id=f"v{i}", region=regions[i % 3], platform="web")
        for i in range(n)
    ]


def rows(n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    features, history = np.zeros((n, 5), np.float32), np.zeros((n, 4, 3), np.float32)
    features[:, 0] = np.arange(n) / n
    history[:, 0, 0] = np.arange(n)
    return features, history


async def ask(lanes: Lanes, n: int) -> list[Part]:
    """Ask about n events, and see that each of them has its own answer, once."""
    features, history = rows(n)
    parts = await lanes.infer(events(n), features, history)
    found = np.concatenate([part.rows for part in parts])
    assert sorted(found.tolist()) == list(range(n))
    for part in parts:
        np.testing.assert_array_equal(part.answer.scores.p_tip[:, 0], features[part.rows, 0])
        np.testing.assert_array_equal(part.answer.scores.value, history[part.rows, 0, 0])
    return parts


async def test_one_lane_takes_the_batch_as_it_is() -> None:
    (part,) = await ask(Lanes(lane("main")), 7)
    assert (part.answer.model.engine, part.arm) == ("main", "default")


async def test_a_challenger_gets_its_share_of_the_viewers_and_always_the_same_ones() -> None:
    def made(salt: str) -> Lanes:
        return Lanes(lane("main"), challenge=Challenge(lane("new", "challenger"), 0.25, salt))

    first, again, other = [await ask(made(salt), VIEWERS) for salt in ("a", "a", "b")]
    for parts in (first, other):
        assert {part.arm: part.answer.model.engine for part in parts} == {"default": "main", "challenger": "new"}
    taken = [{part.arm: set(part.rows.tolist()) for part in parts}["challenger"] for parts in (first, again, other)]
    assert taken[0] == taken[1]
    assert len(taken[0]) / VIEWERS == np.clip(len(taken[0]) / VIEWERS, 0.22, 0.28)
    overlap = len(taken[0] & taken[2]) / VIEWERS
    assert overlap == np.clip(overlap, 0.04, 0.09), "another salt draws viewers anew"


def test_a_viewer_never_changes_arm_with_a_release() -> None:
    """The hash is part of what an experiment means: these are what it was when the first one began."""
    challenge = Challenge(Lane("b", Ladder([], PriorModel(small_models.artifact().manifest))), 0.5, "salt")
    assert [viewer for viewer in map("v{}".format, range(12)) if challenge.has(viewer)] == IN_HALF


async def test_routes_go_by_what_the_event_says_and_before_the_challenger() -> None:
    lanes = Lanes(
        lane("main"),
        routes={"SG": lane("asia"), "BR": lane("america")},
        of=attrgetter("region"),
        challenge=Challenge(lane("new", "challenger"), 1.0, ""),
    )
    parts = await ask(lanes, 30)
    found = Counter({(part.answer.model.engine, part.arm): len(part.rows) for part in parts})
    assert found == {("asia", "default"): 10, ("america", "default"): 10, ("new", "challenger"): 10}
    assert [each.ladder.best.engine for each in lanes] == ["main", "asia", "america", "new"]


async def test_a_shadow_sees_what_its_lane_answers() -> None:
    told: list[Difference] = []
    shadow = Shadow(ModelWorker(Echo("shadow")), told.append)
    lanes = Lanes(lane("main", shadow=shadow), challenge=Challenge(lane("new", "b"), 0.5, ""))
    parts = await ask(lanes, 100)
    async with asyncio.timeout(10):
        while not told:  # noqa: ASYNC110 -- its thread says when
            await asyncio.sleep(0)
    (main,) = [part for part in parts if part.arm == "default"]
    assert (told[0].rows, told[0].flips, float(told[0].dp.max())) == (len(main.rows), 0, 0.0)
    lanes.close()
