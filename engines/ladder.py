"""Which model answers: the best one that can, and the next one down while it cannot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engines.model import Model, ModelError, Scores
from engines.worker import Worker

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """Scores, and who gave them."""

    scores: Scores
    mode: str
    """full, fallback or prior."""
    model: Model


class Rung(NamedTuple):
    """One model of the ladder, who runs it, and how long an answer may take; None for one that is run on the loop."""

    mode: str
    worker: Worker
    timeout_s: float | None


class Ladder:
    """Models from the best to one that cannot fail. All methods belong to the event loop's thread."""

    def __init__(self, rungs: Sequence[Rung], last: Model) -> None:
        """`last` answers at once, on the loop, when no rung does: the prior."""
        self._rungs = rungs
        self._last = last

    @property
    def best(self) -> Model:
        """The model on the first rung."""
        return self._rungs[0].worker.model if self._rungs else self._last

    async def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Answer:
        """Score one batch (shapes as in `Model.infer`), one at a time, on the highest rung that answers in time."""
        for rung in self._rungs:
            if rung.worker.busy:
                continue  # still at a batch that we have given up; another would wait behind it
            try:
                async with asyncio.timeout(rung.timeout_s):
                    return Answer(await rung.worker.submit(features, history), rung.mode, rung.worker.model)
            except (ModelError, TimeoutError) as error:
                log.warning(
                    "%s did not answer (%s); going down the ladder.", rung.worker.model.engine, error or "timeout"
                )
        return Answer(self._last.infer(features, history), "prior", self._last)

    def close(self) -> None:
        """Close every model."""
        for rung in self._rungs:
            rung.worker.close()
        self._last.close()
