"""Which model answers: the best one that can, and the next one down while it cannot.

    rung 1    the serving engine                       breaker, patience, perhaps a guard
    rung 2    a lighter engine, or an exacter one      breaker, patience
    rung 3    the same model by ONNX Runtime, CPU      breaker
    last      tip history alone                        cannot fail

A rung that fails leaves its batch to the next one. Its breaker decides when it is not asked at all any more, and when
it is tried again: with copies of batches that a lower rung answers, so that no score waits for a doubtful model.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engines.breaker import Breaker
from engines.comparison import Agreement, difference
from engines.model import BadScores, Model, ModelError, Scores
from engines.worker import Worker

log = logging.getLogger(__name__)

Mode = Literal["full", "fallback", "prior"]
Failure = Literal["error", "bad-scores", "timeout", "disagreement"]
Batch = tuple[NDArray[np.float32], NDArray[np.float32]]

_GUARD_EVERY: Final = 16  # batches
_GUARD_ROWS: Final = 2_000


class Answer(NamedTuple):
    """Scores, and who gave them."""

    scores: Scores
    mode: Mode
    model: Model


class Guard:
    """Holds a rung to the one below it: the share of rows on which both name the same tier may not fall below a bound.

    One batch of `every` is scored by both. Judged are blocks of `rows` rows.
    """

    def __init__(self, least: float, *, every: int = _GUARD_EVERY, rows: int = _GUARD_ROWS) -> None:
        """`least` is the bound, 0 to 1."""
        self.least = least
        self.agreement = Agreement(rows)
        self._every = every
        self._batches = 0

    def due(self) -> bool:
        """Whether this batch is one to compare."""
        self._batches += 1
        return self._batches % self._every == 0


class Rung:
    """One model of the ladder, who runs it, and whether it may be asked."""

    def __init__(
        self,
        mode: Mode,
        worker: Worker,
        timeout_s: float | None = None,
        *,
        quota: int | None = None,
        guard: Guard | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        """An answer may take `timeout_s`; None for a model that is run on the loop, where nobody could give it up.

        At most `quota` batches are under way at a time: what is above goes down the ladder.
        """
        self.mode = mode
        self.worker = worker
        self.timeout_s = timeout_s
        self.guard = guard
        self.breaker = breaker or Breaker()
        self.given_up = 0  # batches that are still under way although nobody waits for them
        self._quota = quota
        self._under_way = 0

    @property
    def model(self) -> Model:
        """The model."""
        return self.worker.model

    @property
    def open(self) -> bool:
        """Whether a batch may be submitted: nothing hangs, and there is a place left."""
        return not self.given_up and (self._quota is None or self._under_way < self._quota)

    @property
    def passed_over(self) -> bool:
        """Whether batches do not come here: the breaker is not closed, or one that ran out of patience is under way."""
        return self.breaker.state != "closed" or self.given_up > 0

    def submit(self, batch: Batch) -> asyncio.Future[Scores]:
        """Have the model score a batch; raises ModelError if it takes none."""
        future = self.worker.submit(*batch)
        if not future.done():
            self._under_way += 1
            future.add_done_callback(self._ended)
        return future

    def _ended(self, _: asyncio.Future[Scores]) -> None:
        self._under_way -= 1


class Ladder:
    """Models from the best to one that cannot fail. All methods belong to the event loop's thread."""

    def __init__(self, rungs: Sequence[Rung], last: Model, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`last` answers at once, on the loop, when no rung does: the prior. `clock` counts seconds."""
        self.rungs = tuple(rungs)
        self.last = last
        #: Answers that did not come or were no good, by engine and why.
        self.failures: Counter[tuple[str, Failure]] = Counter()
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def best(self) -> Model:
        """The model on the first rung."""
        return self.rungs[0].model if self.rungs else self.last

    def install(self, rungs: Sequence[Rung], last: Model) -> None:
        """Have other models answer from the next batch on. Batches under way end on the models that they began on."""
        self.rungs = tuple(rungs)
        self.last = last

    async def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Answer:
        """Score one batch, shapes as in `Model.infer`, on the highest rung that answers in time."""
        batch, rungs, last = (features, history), self.rungs, self.last
        for at, rung in enumerate(rungs):
            if rung.breaker.state != "closed" or not rung.open:
                continue
            scores = await self._ask(rung, batch)
            if scores is not None:
                answer = Answer(scores, rung.mode, rung.model)
                if rung.guard is not None and rung.guard.due():
                    self._compare(rung, rung.guard, rungs[at + 1 :], batch, answer)
                break
        else:
            at, answer = len(rungs), Answer(last.infer(features, history), "prior", last)
        if at:
            for rung in rungs[:at]:
                self._try(rung, batch, answer)
        return answer

    def close(self) -> None:
        """Close every model."""
        for rung in self.rungs:
            rung.worker.close()
        self.last.close()

    async def _ask(self, rung: Rung, batch: Batch) -> Scores | None:
        """The rung's scores; None, with the failure noted, if there are none."""
        try:
            future = rung.submit(batch)
        except ModelError as refusal:
            self._failed(rung, refusal)
            return None
        if not await self._in_time(rung, future):
            return None
        error = future.exception()
        if error is None:
            rung.breaker.succeeded()
            return future.result()
        if not isinstance(error, ModelError):
            raise error  # a bug
        self._failed(rung, error)
        return None

    async def _in_time(self, rung: Rung, future: asyncio.Future[Scores]) -> bool:
        """Wait for an answer; False, with the failure noted, once the rung's patience is over.

        A loop that was held up hears that the time is over before it hears of answers that have long been there
        (uvloop looks at its timers before its sockets). Waiting in two halves, and then for one more turn, leaves it
        time to hear of them after a pause of its own, which would else pass for one of the model's.
        """
        for _ in range(2):
            if not future.done():
                await asyncio.wait([future], timeout=rung.timeout_s and rung.timeout_s / 2)
        if not future.done():
            await asyncio.sleep(0)
        if future.done():
            return True
        rung.given_up += 1
        future.add_done_callback(partial(_came_late, rung))
        if rung.given_up == 1:  # the batches behind it wait for the same pause
            rung.breaker.failed(self._clock())
        self._note(rung, "timeout", f"no answer within {rung.timeout_s} s")
        return False

    def _try(self, rung: Rung, batch: Batch, answer: Answer) -> None:
        """Give a rung that was passed over a copy of the batch, if it is time to, and judge it by what it says."""
        if not rung.open or not rung.breaker.tries(self._clock()):
            return
        try:
            future = rung.submit(batch)
        except ModelError as error:
            self._failed(rung, error)
            return
        self._aside(self._judge(rung, answer, future))

    async def _judge(self, rung: Rung, answer: Answer, future: asyncio.Future[Scores]) -> None:
        if not await self._in_time(rung, future) or future.cancelled() or rung.breaker.state != "half-open":
            return
        if (error := future.exception()) is not None:
            self._failed(rung, error)
        elif rung.guard is None or answer.mode == "prior":
            self._recovered(rung)
        elif (agreement := self._agreement(rung, rung.guard, future.result(), answer)) is not None:
            if agreement >= rung.guard.least:
                self._recovered(rung)
            else:
                self._disagrees(rung, rung.guard, agreement)

    def _compare(self, rung: Rung, guard: Guard, below: Sequence[Rung], batch: Batch, answer: Answer) -> None:
        """Have the next rung down score the batch as well, away from the path to the score."""
        other = next((each for each in below if each.breaker.state == "closed" and each.open), None)
        if other is None:
            return
        try:
            future = other.submit(batch)
        except ModelError as error:
            self._failed(other, error)
            return
        self._aside(self._compared(rung, guard, other, answer, future))

    async def _compared(
        self, rung: Rung, guard: Guard, other: Rung, answer: Answer, future: asyncio.Future[Scores]
    ) -> None:
        if not await self._in_time(other, future) or future.cancelled():
            return
        if (error := future.exception()) is not None:
            self._failed(other, error)
            return
        if rung.breaker.state != "closed":
            return
        against = Answer(future.result(), other.mode, other.model)
        agreement = self._agreement(rung, guard, answer.scores, against)
        if agreement is not None and agreement < guard.least:
            self._disagrees(rung, guard, agreement)

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something away from the path to the score."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _agreement(self, rung: Rung, guard: Guard, scores: Scores, other: Answer) -> float | None:
        return guard.agreement.add(difference(rung.model.manifest, scores, other.model.manifest, other.scores))

    def _disagrees(self, rung: Rung, guard: Guard, agreement: float) -> None:
        rung.breaker.trip(self._clock())
        told = f"it names another tier than the rung below on {1 - agreement:.2%} of rows; {1 - guard.least:.2%} may be"
        self._note(rung, "disagreement", told)

    def _failed(self, rung: Rung, error: BaseException) -> None:
        rung.breaker.failed(self._clock())
        self._note(rung, "bad-scores" if isinstance(error, BadScores) else "error", str(error))

    def _note(self, rung: Rung, why: Failure, told: str) -> None:
        self.failures[rung.model.engine, why] += 1
        state = "" if rung.breaker.state == "closed" else " It is tried again later."
        log.warning("%s did not answer as it should: %s. The next rung does.%s", rung.model.engine, told, state)

    def _recovered(self, rung: Rung) -> None:
        rung.breaker.succeeded()
        if rung.guard is not None:
            rung.guard.agreement.restart()
        log.info("%s answers again.", rung.model.engine)


def _came_late(rung: Rung, future: asyncio.Future[Scores]) -> None:
    rung.given_up -= 1
    if not future.cancelled():
        future.exception()  # seen: nobody waits for it
