"""The thread that owns a model."""

import asyncio
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.model import ModelError, Scores
from engines.prior import PriorModel
from engines.worker import InlineWorker, ModelWorker
from tests.engines import small_models


class GatedModel(PriorModel):
    """A model that waits for the test's word before it answers, and remembers who called it."""

    def __init__(self) -> None:
        super().__init__(small_models.artifact().manifest)
        self.gate = threading.Event()
        self.gate.set()
        self.threads: set[int] = set()
        self.closed = 0

    def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
        self.threads.add(threading.get_ident())
        self.gate.wait(10)
        return super().infer(features, history)

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed += 1


@pytest.fixture
def model() -> Iterator[GatedModel]:
    made = GatedModel()
    yield made
    made.gate.set()


def _note(done: list[int], n: int, _: object) -> None:
    done.append(n)


def rows(n: int, tips: float = 1.0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.full((n, 5), tips, np.float32), np.zeros((n, 4, 3), np.float32)


async def test_batches_come_back_in_order_from_one_thread(model: GatedModel) -> None:
    worker = ModelWorker(model)
    done: list[int] = []
    futures = [worker.submit(*rows(n, float(n))) for n in range(1, 21)]
    for n, future in enumerate(futures, 1):
        future.add_done_callback(partial(_note, done, n))
    results = await asyncio.gather(*futures)
    await asyncio.sleep(0)  # the last callback
    assert [len(scores.value) for scores in results] == list(range(1, 21))
    assert done == list(range(1, 21))
    worker.close()
    assert len(model.threads) == 1
    assert threading.get_ident() not in model.threads
    assert model.closed == 1


async def test_busy_until_the_result_is_delivered(model: GatedModel) -> None:
    worker = ModelWorker(model)
    assert not worker.busy
    model.gate.clear()
    future = worker.submit(*rows(1))
    assert worker.busy
    model.gate.set()
    await future
    assert not worker.busy
    worker.close()


async def test_one_wake_up_of_the_loop_a_batch(model: GatedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    wake_ups = 0
    original = loop.call_soon_threadsafe

    def counted(*args: Any, **kwargs: Any) -> asyncio.Handle:
        nonlocal wake_ups
        wake_ups += 1
        return original(*args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    worker = ModelWorker(model)
    await asyncio.gather(*(worker.submit(*rows(64)) for _ in range(5)))
    assert wake_ups == 5
    worker.close()


async def test_an_error_reaches_its_own_future_only(model: GatedModel) -> None:
    worker = ModelWorker(model)
    bad = worker.submit(np.zeros((1, 4), np.float32), np.zeros((1, 4, 3), np.float32))
    good = worker.submit(*rows(1))
    with pytest.raises(ModelError, match="`features` is float32"):
        await bad
    assert len((await good).value) == 1
    worker.close()


async def test_a_cancelled_batch_disturbs_no_other(model: GatedModel) -> None:
    worker = ModelWorker(model)
    model.gate.clear()
    cancelled, kept = worker.submit(*rows(1)), worker.submit(*rows(2))
    cancelled.cancel()
    model.gate.set()
    assert len((await kept).value) == 2
    assert not worker.busy
    worker.close()


async def test_close_lets_queued_batches_finish_and_takes_no_more(model: GatedModel) -> None:
    worker = ModelWorker(model)
    futures = [worker.submit(*rows(1)) for _ in range(3)]
    worker.close()
    worker.close()
    assert model.closed == 1
    with pytest.raises(ModelError, match="takes no more batches"):
        worker.submit(*rows(1))
    assert len(await asyncio.gather(*futures)) == 3


def test_a_loop_that_is_gone_ends_the_thread(model: GatedModel) -> None:
    async def leave() -> ModelWorker:
        worker = ModelWorker(model)
        model.gate.clear()
        worker.submit(*rows(1))
        return worker

    worker = asyncio.run(leave())
    model.gate.set()
    worker.close()
    assert model.closed == 1


async def test_a_model_that_hangs_does_not_keep_the_process(model: GatedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.worker._CLOSE_S", 0.05)
    worker = ModelWorker(model)
    model.gate.clear()
    future = worker.submit(*rows(1))
    worker.close()
    assert worker.busy
    model.gate.set()
    await future


async def test_inline_the_answer_is_there_at_once_from_the_same_thread(model: GatedModel) -> None:
    worker = InlineWorker(model)
    good = worker.submit(*rows(2))
    bad = worker.submit(np.zeros((1, 4), np.float32), np.zeros((1, 4, 3), np.float32))
    assert good.done()
    assert len(good.result().value) == 2
    with pytest.raises(ModelError, match="`features` is float32"):
        bad.result()
    assert not worker.busy
    worker.close()
    assert model.threads == {threading.get_ident()}
    assert model.closed == 1


class Overlapping(GatedModel):
    """A model that takes two batches at a time, and remembers what it was asked in which order."""

    depth = 2

    def __init__(self) -> None:
        super().__init__()
        self.did: list[str] = []
        self.launched = threading.Semaphore(0)
        self.broken: set[str] = set()

    def launch(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> int:
        n = len(features)
        self.did.append(f"launch {n}")
        self.launched.release()
        if f"launch {n}" in self.broken:
            raise ModelError("cannot launch")
        return n

    def collect(self, ticket: int) -> Scores:
        self.gate.wait(10)
        self.did.append(f"collect {ticket}")
        if f"collect {ticket}" in self.broken:
            raise ModelError("cannot collect")
        return GatedModel.infer(self, *rows(ticket))


async def test_a_model_that_can_gets_the_next_batch_before_it_has_answered_the_last() -> None:
    model = Overlapping()
    model.gate.clear()
    worker = ModelWorker(model)
    futures = [worker.submit(*rows(n)) for n in (1, 2, 3)]
    for _ in range(2):
        await asyncio.to_thread(model.launched.acquire, timeout=10)
    model.gate.set()
    assert [len((await future).value) for future in futures] == [1, 2, 3]
    assert model.did == ["launch 1", "launch 2", "collect 1", "launch 3", "collect 2", "collect 3"]
    assert len((await worker.submit(*rows(4))).value) == 4
    worker.close()
    assert model.closed == 1


@pytest.mark.parametrize("step", ["launch", "collect"])
async def test_of_overlapping_batches_only_the_bad_one_fails(step: str) -> None:
    model = Overlapping()
    model.broken = {f"{step} 2"}
    worker = ModelWorker(model)
    futures = [worker.submit(*rows(n)) for n in (1, 2, 3)]
    found = await asyncio.gather(*futures, return_exceptions=True)
    assert [isinstance(each, ModelError) for each in found] == [False, True, False]
    worker.close()
    assert not worker.busy


async def test_overlapping_batches_are_finished_before_a_close() -> None:
    worker = ModelWorker(Overlapping())
    futures = [worker.submit(*rows(n)) for n in (1, 2, 3)]
    worker.close()
    assert [len(scores.value) for scores in await asyncio.gather(*futures)] == [1, 2, 3]
