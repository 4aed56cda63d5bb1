"""Who answers when the best model cannot."""

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.ladder import Ladder, Rung
from engines.model import ModelError, Scores
from engines.prior import PriorModel
from engines.worker import ModelWorker
from tests.engines import small_models


class Moody(PriorModel):
    """A model that fails or hangs when told to."""

    def __init__(self) -> None:
        super().__init__(small_models.artifact().manifest)
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.asked = 0

    def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
        self.asked += 1
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        return super().infer(features, history)


@pytest.fixture
def model() -> Iterator[Moody]:
    made = Moody()
    yield made
    made.gate.set()


def ladder(model: Moody) -> Ladder:
    return Ladder([Rung("full", ModelWorker(model), 0.2)], PriorModel(model.manifest))


BATCH = np.zeros((3, 5), np.float32), np.zeros((3, 4, 3), np.float32)


async def test_the_first_rung_answers() -> None:
    made = ladder(Moody())
    answer = await made.infer(*BATCH)
    assert (answer.mode, answer.model) == ("full", made.best)
    made.close()


async def test_a_model_that_fails_is_stood_in_for(model: Moody) -> None:
    made = ladder(model)
    model.error = ModelError("no answer")
    assert (await made.infer(*BATCH)).mode == "prior"
    model.error = None
    assert (await made.infer(*BATCH)).mode == "full"
    made.close()


async def test_a_model_that_hangs_costs_one_batch_its_patience_and_no_other(model: Moody) -> None:
    made = ladder(model)
    model.gate.clear()
    assert [(await made.infer(*BATCH)).mode for _ in range(3)] == ["prior"] * 3
    assert model.asked == 1
    model.gate.set()
    async with asyncio.timeout(10):
        while (await made.infer(*BATCH)).mode != "full":  # noqa: ASYNC110 -- its thread says when
            await asyncio.sleep(0)
    made.close()
