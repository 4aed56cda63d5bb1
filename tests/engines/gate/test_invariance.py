"""Every kind of leak between rows is found, and nothing is found where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.gate.checks import check
from engines.gate.invariance import POISONS, moves
from engines.gate.limits import Limits
from engines.gate.verdict import Moves
from engines.model import ModelError, Scores
from tests.engines.gate import made
from tests.engines.gate.made import Batch
from tests.engines.gate.test_accuracy import FAST, judged


def look(model: made.Wrong) -> Moves:
    sample = made.sample(200)
    return moves(model, sample.features, sample.history)


def failed(found: Moves) -> set[str]:
    names = {each.name for each in check(Limits(), judged(), found, FAST, gpu=False) if not each.passed}
    return {name.removeprefix("|dp| ") for name in names}


def shift(scores: Scores, by: NDArray[Any] | float) -> Scores:
    return Scores(np.clip(scores.p_tip + np.asarray(by), 0, 1).astype(np.float32), scores.value)


def by_slot(batch: Batch, scores: Scores) -> Scores:
    return shift(scores, 0.01 * (np.arange(len(scores.value)) == 7)[:, None])


def by_neighbours(batch: Batch, scores: Scores) -> Scores:
    return shift(scores, 1e-4 * np.tanh(np.nan_to_num(batch[0][:, 0]).astype(np.float64).mean() / 10))


def nan_spreads(batch: Batch, scores: Scores) -> Scores:
    return shift(scores, np.where(np.isnan(batch[0]).any(), np.nan, 0.0))


def by_size(batch: Batch, scores: Scores) -> Scores:
    return shift(scores, 0.003 * (len(scores.value) == 8))


class Remembers:
    """Adds what an earlier batch left in the slots beyond this one's rows."""

    def __init__(self) -> None:
        self._left = np.zeros(32)

    def __call__(self, batch: Batch, scores: Scores) -> Scores:
        n = len(scores.value)
        stale = self._left[n : n + 1]
        self._left[:n] = batch[0][:, 0]
        return shift(scores, 0.1 * np.isnan(stale).any())


class RefusesNan:
    """Gives up on a whole batch for one row."""

    def __call__(self, batch: Batch, scores: Scores) -> Scores:
        if np.isnan(batch[0]).any():
            raise ModelError("a row is NaN")
        return scores


def test_a_sound_model_does_not_move() -> None:
    found = look(made.wrong(made.sound))
    assert found.slot <= 1e-6
    assert found.bucket <= 1e-6
    assert set(found.neighbours) == set(POISONS)
    assert failed(found) == set()


def test_the_cpu_model_itself_does_not_move() -> None:
    sample = made.sample(200)
    assert failed(moves(made.model(), sample.features, sample.history)) == set()


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (by_slot, {"in another slot"}),
        (by_neighbours, {"beside rows of the largest number", "beside rows of zero"}),
        (nan_spreads, {"beside rows of NaN"}),
        (by_size, {"in another bucket"}),
        (Remembers(), {"in a bucket with poison left behind"}),
        (RefusesNan(), {"beside rows of NaN"}),
    ],
    ids=["slot", "neighbours", "NaN spreads", "bucket", "stale padding", "refuses a batch for a row"],
)
def test_every_leak_is_found(spoil: object, names: set[str]) -> None:
    assert names <= failed(look(made.wrong(spoil)))  # type: ignore[arg-type]


def test_what_differs_by_bucket_alone_fails_nothing_else() -> None:
    assert failed(look(made.wrong(by_size))) <= {"in another bucket", "in a bucket with poison left behind"}


def test_a_row_that_is_poisoned_itself_may_answer_anything() -> None:
    def own(batch: Batch, scores: Scores) -> Scores:
        return shift(scores, np.where(np.isfinite(batch[0]).all(axis=1), 0, np.nan)[:, None])

    assert failed(look(made.wrong(own))) == set()


def test_fewer_rows_than_a_bucket_are_repeated() -> None:
    sample = made.sample(3)
    found = moves(made.wrong(made.sound), sample.features, sample.history)
    assert failed(found) == set()
