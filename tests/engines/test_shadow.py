"""A model that is only compared."""

import asyncio
import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.comparison import Difference
from engines.ladder import Answer
from engines.model import ModelError, Scores
from engines.prior import PriorModel
from engines.shadow import Shadow
from engines.worker import ModelWorker
from tests.engines import small_models

BATCH = np.zeros((3, 5), np.float32), np.zeros((3, 4, 3), np.float32)


class Other(PriorModel):
    """A model whose probabilities are told, and which waits for the test's word."""

    def __init__(self, p: float) -> None:
        super().__init__(small_models.artifact().manifest)
        self.gate = threading.Event()
        self.gate.set()
        self.p = p
        self.error: Exception | None = None

    def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        return Scores(np.full((len(features), 2), self.p, np.float32), np.zeros(len(features), np.float32))


def published(p: float) -> Answer:
    model = PriorModel(small_models.artifact().manifest)
    return Answer(Scores(np.full((3, 2), p, np.float32), np.zeros(3, np.float32)), "full", model)


async def idle(shadow: Shadow) -> None:
    async with asyncio.timeout(10):
        while shadow.worker.busy:  # noqa: ASYNC110 -- its thread says when
            await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_rows_are_compared_with_what_was_published() -> None:
    told: list[Difference] = []
    high = small_models.artifact().manifest.tiers[-1].at_least + 0.01
    shadow = Shadow(ModelWorker(Other(high)), told.append)
    shadow.take(*BATCH, published(high))
    await idle(shadow)
    shadow.take(*BATCH, published(0.0))
    await idle(shadow)
    assert [found.flips for found in told] == [0, 3]
    np.testing.assert_allclose(told[1].dp, [high] * 3)
    assert shadow.rows == {"compared": 6}
    shadow.close()


async def test_nobody_waits_for_it() -> None:
    told: list[Difference] = []
    model = Other(0.1)
    model.gate.clear()
    shadow = Shadow(ModelWorker(model), told.append)
    for _ in range(3):
        shadow.take(*BATCH, published(0.1))
    assert shadow.rows == {"skipped": 6}
    model.gate.set()
    await idle(shadow)
    assert shadow.rows == {"skipped": 6, "compared": 3}
    shadow.close()


async def test_its_failures_are_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    model = Other(0.1)
    model.error = ModelError("no answer")
    shadow = Shadow(ModelWorker(model), lambda _: None)
    for _ in range(2):
        shadow.take(*BATCH, published(0.1))
        await idle(shadow)
    shadow.close()
    shadow.take(*BATCH, published(0.1))
    assert shadow.rows == {"failed": 9}
    assert caplog.text.count("does not answer: no answer") == 1
