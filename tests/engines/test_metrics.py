"""Metrics against definitions spelt out row by row."""

import numpy as np
import pytest
from numpy.typing import NDArray

from engines import metrics

Columns = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@pytest.fixture(params=range(5))
def columns(request: pytest.FixtureRequest) -> Columns:
    rng = np.random.default_rng(request.param)
    y = (rng.random(120) < 0.2).astype(float)
    steps = (10, 100)[request.param % 2]  # ties, many or few
    p = np.floor((rng.random(120) * 0.6 + y * 0.2) * steps) / steps
    return y, p, rng.integers(1, 5, 120).astype(float)


def repeated(columns: Columns) -> tuple[list[float], list[float]]:
    y, p = (np.repeat(column, columns[2].astype(int)) for column in columns[:2])
    return list(y), list(p)


def test_auc_counts_pairs(columns: Columns) -> None:
    y, p = repeated(columns)
    pairs = [(a > b) + (a == b) / 2 for a, i in zip(p, y, strict=True) if i for b, j in zip(p, y, strict=True) if not j]
    assert metrics.roc_auc(*columns) == pytest.approx(sum(pairs) / len(pairs))


def test_pr_auc_averages_precision_over_tips(columns: Columns) -> None:
    y, p = repeated(columns)
    precisions = []
    for score, tip in zip(p, y, strict=True):
        if tip:
            above = [j for other, j in zip(p, y, strict=True) if other >= score]
            precisions.append(sum(above) / len(above))
    assert metrics.pr_auc(*columns) == pytest.approx(sum(precisions) / len(precisions))


def test_weight_is_repetition(columns: Columns) -> None:
    y, p = (np.array(column) for column in repeated(columns))
    ones = np.ones(len(y))
    for figure in (metrics.roc_auc, metrics.pr_auc, metrics.recall_at):
        assert figure(y, p, ones) == pytest.approx(figure(*columns))


def test_recall_at_takes_the_best_scored() -> None:
    y, p = np.array([1, 0, 1, 0, 0, 1, 0, 0, 0, 0]), np.arange(10, 0, -1) / 10
    assert metrics.recall_at(y, p, np.ones(10), 0.1) == pytest.approx(1 / 3)
    assert metrics.recall_at(y, p, np.ones(10), 0.3) == pytest.approx(2 / 3)
    assert metrics.recall_at(y, p, np.ones(10), 1.0) == 1
    assert metrics.recall_at(y, np.zeros(10), np.ones(10), 0.5) == pytest.approx(0.5)  # a tie is shared out


def test_reliability_of_true_probabilities() -> None:
    rng = np.random.default_rng(3)
    p = rng.random(200_000) ** 4
    y = rng.random(len(p)) < p
    bins = metrics.reliability(y, p, np.ones(len(p)))
    assert len(bins) == 10
    assert sum(step.weight for step in bins) == pytest.approx(1)
    assert all(step.predicted == pytest.approx(step.observed, rel=0.05) for step in bins)
    assert metrics.calibration_error(y, p, np.ones(len(p))) < 0.02
    assert metrics.calibration_error(y, p * 0.5, np.ones(len(p))) == pytest.approx(0.5, abs=0.02)


def test_without_tips_there_is_no_ranking() -> None:
    none, p = np.zeros(4), np.arange(4) / 4
    assert all(np.isnan(figure(none, p, p + 1)) for figure in (metrics.roc_auc, metrics.pr_auc, metrics.recall_at))
