"""A model that scores what another one publishes, and is only compared."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from engines.comparison import Difference, difference
from engines.ladder import Answer
from engines.model import ModelError, Scores
from engines.worker import Worker

log = logging.getLogger(__name__)


class Shadow:
    """Compares a model, which runs away from the loop, with what is published. All methods belong to the loop's thread.

    It never makes anybody wait: batches that come while it is at one are skipped, and its failures are only counted.
    """

    def __init__(self, worker: Worker, told: Callable[[Difference], None]) -> None:
        """`told` hears of every batch that was compared."""
        self.worker = worker
        #: Rows by what became of them: compared, skipped, failed.
        self.rows: Counter[str] = Counter()
        self._told = told

    def take(self, features: NDArray[np.float32], history: NDArray[np.float32], answer: Answer) -> None:
        """Score a batch that was answered; the arrays must stay as they are."""
        n = len(features)
        if self.worker.busy:
            self.rows["skipped"] += n
            return
        try:
            future = self.worker.submit(features, history)
        except ModelError as error:
            self._failed(n, error)
            return
        future.add_done_callback(partial(self._compare, n, answer))

    def close(self) -> None:
        """Close the model."""
        self.worker.close()

    def _compare(self, n: int, answer: Answer, future: asyncio.Future[Scores]) -> None:
        if future.cancelled():
            return
        if (error := future.exception()) is not None:
            self._failed(n, error)
            return
        self.rows["compared"] += n
        ours, its = self.worker.model.manifest, answer.model.manifest
        self._told(difference(ours, future.result(), its, answer.scores))

    def _failed(self, n: int, error: BaseException) -> None:
        if not self.rows["failed"]:
            log.warning("The shadow model %s does not answer: %s", self.worker.model.engine, error)
        self.rows["failed"] += n
