"""Timings: in turns, at every size, with as many batches in flight as a model takes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.gate import speed
from engines.model import Scores
from engines.worker import Pipelined
from tests.engines.gate import made


class Waits(made.Wrong):
    """Takes so many seconds for a row."""

    per_row = 20e-6

    def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
        until = time.perf_counter() + self.per_row * len(features)
        while time.perf_counter() < until:
            pass
        return super().infer(features, history)


class InFlight(made.Wrong):
    """Takes three batches at once and minds their order."""

    depth = 3

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.waiting: list[int] = []
        self.most = self.batches = 0

    def launch(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> int:
        self.batches += 1
        self.waiting.append(self.batches)
        self.most = max(self.most, len(self.waiting))
        return self.batches

    def collect(self, ticket: int) -> None:
        assert self.waiting.pop(0) == ticket


def test_each_size_is_timed_and_the_slower_model_is_slower() -> None:
    sample = made.sample(50)
    fast, slow = made.wrong(made.sound), Waits(made.model(), made.sound)
    first, second = speed.measure([("slow", slow), ("fast", fast)], sample.features, sample.history, runs=20)
    assert [timing.size for timing in first.timings] == [1, 8, 32]
    for timing in first.timings:
        assert 0 < timing.p50_us <= timing.p99_us
        assert timing.p50_us >= slow.per_row * 1e6 * timing.size
        assert timing.per_second <= 1 / slow.per_row
    assert speed.ratio(first, second, lambda timing: timing.p50_us)[32] > 2


def test_a_size_that_a_model_does_not_take_is_left_out() -> None:
    sample = made.sample(50)
    small = made.Wrong(made.model(), made.sound, buckets=(1, 8), max_batch=8)
    first, second = speed.measure([("all", made.wrong(made.sound)), ("small", small)], *sample[:2], runs=2)
    assert [timing.size for timing in second.timings] == [1, 8]
    assert set(speed.ratio(first, second, lambda timing: timing.p50_us)) == {1, 8}


def test_as_many_batches_are_in_flight_as_the_model_takes() -> None:
    model = InFlight(made.model(), made.sound)
    assert isinstance(model, Pipelined)
    assert not isinstance(made.model(), Pipelined)
    speed.flow(model, [made.sample(4)[:2]], 10)
    assert (model.batches, model.most, model.waiting) == (10, 3, [])
