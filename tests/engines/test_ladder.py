"""Who answers when the best model cannot, and how it comes back."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.breaker import Breaker
from engines.ladder import Answer, Guard, Ladder, Rung
from engines.model import ModelError, Scores, check_scores
from engines.prior import PriorModel
from engines.worker import InlineWorker, ModelWorker, Worker
from tests.engines import small_models

ROWS = 3
BATCH = np.zeros((ROWS, 5), np.float32), np.zeros((ROWS, 4, 3), np.float32)


class Moody(PriorModel):
    """A model that fails, hangs, or answers nonsense when told to."""

    def __init__(self, name: str = "moody") -> None:
        super().__init__(small_models.artifact().manifest)
        self.engine = name
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.p: float | None = None
        self.asked = 0
        self.closed = False

    def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
        self.asked += 1
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        if self.p is not None:
            n = len(features)
            return check_scores(Scores(np.full((n, 2), self.p, np.float32), np.zeros(n, np.float32)), features, history)
        return super().infer(features, history)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def models() -> Iterator[list[Moody]]:
    made = [Moody("engine"), Moody("lighter"), Moody("cpu")]
    yield made
    for model in made:
        model.gate.set()


class Time:
    """A clock that stands still until told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def rungs(models: list[Moody], *, patience_s: float = 10.0, guard: Guard | None = None) -> list[Rung]:
    """Two engines in threads of their own, and the CPU on the loop."""
    first, second, cpu = models
    return [
        Rung("full", ModelWorker(first), patience_s, guard=guard, breaker=Breaker(failures=2, wait_s=1.0)),
        Rung("fallback", ModelWorker(second), patience_s, breaker=Breaker(failures=2, wait_s=1.0)),
        Rung("fallback", InlineWorker(cpu), breaker=Breaker(failures=2, wait_s=1.0)),
    ]


@asynccontextmanager
async def standing(made: list[Rung], models: list[Moody], clock: Callable[[], float]) -> AsyncIterator[Ladder]:
    ladder = Ladder(made, PriorModel(models[0].manifest), clock=clock)
    try:
        yield ladder
    finally:
        for model in models:
            model.gate.set()
        ladder.close()


async def settled(*workers: Worker) -> None:
    """Wait until trials and comparisons have been delivered."""
    async with asyncio.timeout(10):
        while any(worker.busy for worker in workers):  # noqa: ASYNC110 -- their threads say when
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def state(rung: Rung) -> str:
    return rung.breaker.state


async def who(ladder: Ladder) -> str:
    return (await ladder.infer(*BATCH)).model.engine.partition(":")[0]


async def test_the_first_rung_answers_and_the_others_are_left_alone(models: list[Moody]) -> None:
    async with standing(rungs(models), models, Time()) as ladder:
        answer = await ladder.infer(*BATCH)
        assert (answer.mode, answer.model) == ("full", models[0])
        assert [model.asked for model in models] == [1, 0, 0]


@pytest.mark.parametrize(
    ("broken", "expected"),
    [(1, ("fallback", "lighter")), (2, ("fallback", "cpu")), (3, ("prior", "prior"))],
)
@pytest.mark.parametrize("fault", ["error", "nan"])
async def test_each_rung_stands_in_for_those_above(
    models: list[Moody], broken: int, expected: tuple[str, str], fault: str
) -> None:
    for model in models[:broken]:
        if fault == "error":
            model.error = ModelError("no answer")
        else:
            model.p = np.nan
    async with standing(rungs(models), models, Time()) as ladder:
        answer: Answer = await ladder.infer(*BATCH)
        assert (answer.mode, answer.model.engine.partition(":")[0]) == expected
        assert np.isfinite(answer.scores.p_tip).all()
        why = "error" if fault == "error" else "bad-scores"
        assert ladder.failures == {(model.engine, why): 1 for model in models[:broken]}


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_a_rung_that_goes_on_failing_is_not_asked_until_it_answers_a_trial(models: list[Moody], at: int) -> None:
    names = ["engine", "lighter", "cpu", "prior"]
    clock, made = Time(), rungs(models)
    for model in models[:at]:  # those above are out for good
        model.error = ModelError("out")
    models[at].error = ModelError("no answer")
    async with standing(made, models, clock) as ladder:
        assert [await who(ladder) for _ in range(5)] == [names[at + 1]] * 5
        assert models[at].asked == 2, "the breaker is open after two"
        clock.now = 1.0
        assert await who(ladder) == names[at + 1], "a trial is not published"
        await settled(*(rung.worker for rung in made))
        assert (models[at].asked, state(made[at])) == (3, "open")
        models[at].error = None
        clock.now = 2.9
        assert (await who(ladder), models[at].asked) == (names[at + 1], 3), "the wait has doubled"
        clock.now = 3.0
        assert await who(ladder) == names[at + 1]
        await settled(*(rung.worker for rung in made))
        assert state(made[at]) == "closed"
        assert await who(ladder) == names[at]


async def test_a_model_that_hangs_costs_one_batch_its_patience_and_no_other(models: list[Moody]) -> None:
    clock, made = Time(), rungs(models)
    made[0].timeout_s = 0.5
    async with standing(made, models, clock) as ladder:
        models[0].gate.clear()
        assert [await who(ladder) for _ in range(3)] == ["lighter"] * 3
        clock.now = 100.0
        assert await who(ladder) == "lighter"
        assert models[0].asked == 1, "nothing is queued behind a batch that hangs"
        assert [rung.passed_over for rung in made] == [True, False, False]
        models[0].gate.set()
        await settled(made[0].worker)
        assert await who(ladder) == "engine", "one pause is forgiven"
        assert not any(rung.passed_over for rung in made)
        assert ladder.failures == {("engine", "timeout"): 1}


async def test_one_pause_counts_once_however_many_batches_wait_for_it(models: list[Moody]) -> None:
    made = rungs(models, patience_s=0.1)
    async with standing(made, models, Time()) as ladder:
        models[0].gate.clear()
        assert await asyncio.gather(*(who(ladder) for _ in range(4))) == ["lighter"] * 4
        assert (state(made[0]), made[0].passed_over) == ("closed", True)
        models[0].gate.set()
        await settled(made[0].worker)
        assert await who(ladder) == "engine"
        assert ladder.failures == {("engine", "timeout"): 4}


async def test_a_model_that_is_always_too_slow_is_asked_no_more(models: list[Moody]) -> None:
    clock, made = Time(), rungs(models, patience_s=0.1)
    async with standing(made, models, clock) as ladder:
        for asked in (1, 2):
            models[0].gate.clear()
            assert (await who(ladder), models[0].asked) == ("lighter", asked)
            models[0].gate.set()
            await settled(made[0].worker)
        assert (await who(ladder), models[0].asked) == ("lighter", 2)
        assert state(made[0]) == "open"


async def test_a_trial_that_is_too_slow_closes_nothing(models: list[Moody]) -> None:
    clock, made = Time(), rungs(models, patience_s=0.1)
    async with standing(made, models, clock) as ladder:
        made[0].breaker.trip(0.0)
        clock.now = 1.0
        models[0].gate.clear()
        assert await who(ladder) == "lighter"
        async with asyncio.timeout(10):
            while state(made[0]) != "open":  # noqa: ASYNC110 -- a trial tells nobody
                await asyncio.sleep(0)
        models[0].gate.set()
        await settled(made[0].worker)
        assert state(made[0]) == "open"
        clock.now = 2.9
        assert (await who(ladder), models[0].asked) == ("lighter", 1), "the wait has doubled"


async def test_a_bug_is_no_reason_to_go_down(models: list[Moody]) -> None:
    async with standing(rungs(models), models, Time()) as ladder:
        models[0].error = TypeError("a bug")
        with pytest.raises(TypeError, match="a bug"):
            await ladder.infer(*BATCH)


async def test_a_closed_model_is_stood_in_for(models: list[Moody]) -> None:
    made = rungs(models)
    async with standing(made, models, Time()) as ladder:
        made[0].worker.close()
        assert await who(ladder) == "lighter"


async def test_what_is_above_its_quota_goes_down(models: list[Moody]) -> None:
    made = rungs(models, patience_s=5.0)
    made[0] = Rung("full", made[0].worker, 5.0, quota=2)
    async with standing(made, models, Time()) as ladder:
        models[0].gate.clear()
        waiting = [asyncio.create_task(who(ladder)) for _ in range(3)]
        assert await waiting[2] == "lighter"
        models[0].gate.set()
        assert await asyncio.gather(*waiting) == ["engine", "engine", "lighter"]
        assert await who(ladder) == "engine"
        assert ladder.failures == {}


async def test_an_engine_that_disagrees_with_the_next_is_replaced_by_it_until_it_agrees(models: list[Moody]) -> None:
    """INT8 beside FP16: both score every second batch here, and 6 rows are a block."""
    high = small_models.artifact().manifest.tiers[-1].at_least + 0.01
    clock, guard = Time(), Guard(0.9, every=2, rows=6)
    made = rungs(models, guard=guard)
    models[0].p, models[1].p = high, high
    async with standing(made, models, clock) as ladder:
        for _ in range(4):
            assert await who(ladder) == "engine"
            await settled(made[1].worker)
        assert (guard.agreement.latest, models[1].asked) == (1.0, 2)
        models[0].p = 0.0
        for _ in range(4):
            assert await who(ladder) == "engine"
            await settled(made[1].worker)
        assert (guard.agreement.latest, state(made[0])) == (0.0, "open")
        assert await who(ladder) == "lighter"
        clock.now = 1.0
        for _ in range(2):  # a block of trials, still of another opinion
            assert await who(ladder) == "lighter"
            await settled(made[0].worker)
        assert state(made[0]) == "open"
        models[0].p = high
        clock.now = 3.0
        assert await who(ladder) == "lighter"
        await settled(made[0].worker)
        assert state(made[0]) == "half-open", "half a block says nothing"
        assert await who(ladder) == "lighter"
        await settled(made[0].worker)
        assert await who(ladder) == "engine"
        assert ladder.failures == {("engine", "disagreement"): 2}


async def test_an_engine_that_hangs_while_another_is_held_to_it_is_noticed(models: list[Moody]) -> None:
    made = rungs(models, patience_s=0.1, guard=Guard(0.9, every=2, rows=6))
    async with standing(made, models, Time()) as ladder:
        models[1].gate.clear()
        assert [await who(ladder) for _ in range(2)] == ["engine"] * 2, "no score waits for the comparison"
        async with asyncio.timeout(10):
            while not made[1].passed_over:  # noqa: ASYNC110 -- a comparison tells nobody
                await asyncio.sleep(0)
        assert ladder.failures == {("lighter", "timeout"): 1}


async def test_a_batch_under_way_ends_on_the_model_it_began_on(models: list[Moody]) -> None:
    made = rungs(models, patience_s=5.0)
    other = Moody("other")
    async with standing(made, models, Time()) as ladder:
        models[0].gate.clear()
        waiting = asyncio.create_task(ladder.infer(*BATCH))
        await asyncio.sleep(0)
        ladder.install([Rung("full", InlineWorker(other))], PriorModel(other.manifest))
        assert await who(ladder) == "other"
        models[0].gate.set()
        assert (await waiting).model is models[0]
        assert not models[0].closed
        for rung in made:
            rung.worker.close()
