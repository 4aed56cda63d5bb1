"""What the pointer says, made to serve."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest

from engines.deployment import Deployment
from engines.ladder import Ladder, Rung
from engines.lineup import Lineup, Member, Place, make_rungs
from engines.model import ModelError
from engines.prior import PriorModel
from tests.engines import small_models

BATCH = np.zeros((3, 5), np.float32), np.zeros((3, 4, 3), np.float32)


class Named(PriorModel):
    """A model with a name."""

    def __init__(self, name: str) -> None:
        super().__init__(small_models.artifact().manifest)
        self.engine = name
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Points(NamedTuple):
    """Where the pointer points."""

    serving: str | None = None
    previous: str | None = None


class Shelf:
    """A repository of names, and how often each was loaded."""

    def __init__(self) -> None:
        self.points = Points()
        self.broken: set[str] = set()
        self.error: type[Exception] = ModelError
        self.loaded: list[str] = []
        self.models: dict[str, Named] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.ladder = Ladder([], PriorModel(small_models.artifact().manifest))
        self.now = 0.0
        self.deployment = Deployment(self.ladder, self, self.open, self.rungs, clock=lambda: self.now)

    def token(self) -> object:
        return self.points

    def pointer(self) -> Points:
        if "pointer" in self.broken:
            raise ModelError("the pointer cannot be read")
        return self.points

    def open(self, version: str) -> Lineup:
        self.loaded.append(version)
        self.gate.wait(10)
        if version in self.broken:
            raise self.error(f"{version} is broken")
        model = self.models[version] = Named(version)
        return Lineup(version, (Member(model, "full", on_gpu=True),), PriorModel(model.manifest))

    def rungs(self, lineup: Lineup) -> Sequence[Rung]:
        return make_rungs(lineup, Place(gpu=True))

    async def point(self, serving: str, previous: str | None = None) -> str:
        """Promote, have it noticed, and ask who answers."""
        self.points = Points(serving, previous)
        await self.deployment.refresh()
        return (await self.ladder.infer(*BATCH)).model.engine

    async def end(self) -> None:
        self.ladder.close()
        await self.deployment.close()


async def test_nothing_promoted_leaves_the_ladder_as_it_is() -> None:
    shelf = Shelf()
    await shelf.deployment.refresh()
    assert (await shelf.ladder.infer(*BATCH)).mode == "prior"
    assert (shelf.deployment.serving, shelf.loaded) == (None, [])


async def test_a_promotion_swaps_and_a_rollback_loads_nothing() -> None:
    shelf = Shelf()
    assert await shelf.point("a") == "a"
    assert await shelf.point("b", "a") == "b"
    assert await shelf.point("a", "b") == "a"
    assert await shelf.point("b", "a") == "b"
    assert (shelf.loaded, shelf.deployment.swaps) == (["a", "b"], 4)
    assert not any(model.closed for model in shelf.models.values())
    await shelf.end()
    assert all(model.closed for model in shelf.models.values())


async def test_what_is_neither_serving_nor_previous_is_closed() -> None:
    shelf = Shelf()
    for serving, previous in (("a", None), ("b", "a"), ("c", "b")):
        await shelf.point(serving, previous)
    assert {name: model.closed for name, model in shelf.models.items()} == {"a": True, "b": False, "c": False}
    await shelf.end()


async def test_after_a_restart_the_way_back_is_loaded_too() -> None:
    shelf = Shelf()
    assert await shelf.point("b", "a") == "b"
    assert shelf.loaded == ["b", "a"]
    await shelf.end()


async def test_a_version_that_cannot_be_loaded_changes_nothing_and_is_not_tried_every_time() -> None:
    shelf = Shelf()
    await shelf.point("a")
    shelf.broken.add("b")
    assert await shelf.point("b", "a") == "a"
    assert (shelf.deployment.refused, shelf.deployment.pointed) == ("b is broken", "b")
    await shelf.deployment.refresh()
    assert shelf.loaded == ["a", "b"]
    assert await shelf.point("c", "a") == "c"
    assert shelf.deployment.refused == ""
    await shelf.end()


@pytest.mark.parametrize("error", [ModelError, OSError, RuntimeError])
async def test_a_version_refused_for_a_reason_that_passes_serves_in_the_end(
    caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    shelf = Shelf()
    shelf.error = error
    shelf.broken.add("a")
    await shelf.point("a")
    for shelf.now in (59.0, 60.0, 61.0):
        await shelf.deployment.refresh()
    assert shelf.loaded == ["a", "a"]
    assert caplog.text.count("a is broken") == 1
    shelf.broken.clear()
    shelf.now = 120.0
    await shelf.deployment.refresh()
    assert (shelf.deployment.serving, shelf.deployment.refused) == ("a", "")
    await shelf.end()


@pytest.mark.parametrize("error", [ModelError, OSError, RuntimeError])
async def test_a_way_back_that_cannot_be_loaded_does_not_keep_the_version_from_serving(error: type[Exception]) -> None:
    shelf = Shelf()
    shelf.error = error
    shelf.broken.add("a")
    assert await shelf.point("b", "a") == "b"
    assert shelf.deployment.refused == ""
    await shelf.end()


async def test_a_pointer_that_cannot_be_read_is_read_again_once_it_changes() -> None:
    shelf = Shelf()
    shelf.broken.add("pointer")
    shelf.points = Points("a")
    await shelf.deployment.refresh()
    assert shelf.deployment.refused == "the pointer cannot be read"
    shelf.broken.clear()
    assert await shelf.point("b") == "b"
    await shelf.end()


async def test_batches_are_answered_while_another_version_loads() -> None:
    shelf = Shelf()
    await shelf.point("a")
    shelf.gate.clear()
    shelf.points = Points("b", "a")
    refreshing = asyncio.create_task(shelf.deployment.refresh())
    for _ in range(20):
        assert (await shelf.ladder.infer(*BATCH)).model.engine == "a"
    shelf.gate.set()
    await refreshing
    assert (await shelf.ladder.infer(*BATCH)).model.engine == "b"
    await shelf.end()


async def test_it_follows_by_itself() -> None:
    shelf = Shelf()
    following = asyncio.create_task(shelf.deployment.run(0.001))
    shelf.points = Points("a")
    async with asyncio.timeout(10):
        while shelf.deployment.serving != "a":  # noqa: ASYNC110 -- it looks by itself
            await asyncio.sleep(0.001)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await shelf.end()
