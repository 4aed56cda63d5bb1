"""How good probabilities are: ranking, the head of the list, calibration.

Every function takes `y` (n,) of 0/1, `p` (n,) of scores and `weight` (n,), how many events of the full traffic a row
stands for (negatives are sampled; 1 where nothing was), and treats rows of equal score as one step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Column = NDArray[Any]


class Bin(NamedTuple):
    """One step of a reliability table."""

    weight: float
    """Share of all events."""
    predicted: float
    """Mean score."""
    observed: float
    """Share of events with a tip."""


def roc_auc(y: Column, p: Column, weight: Column) -> float:
    """Chance that an event with a tip scores above one without, ties counting half."""
    hits, misses = _steps(y, p, weight)
    if not hits.sum() or not misses.sum():
        return float("nan")
    above = np.cumsum(hits) - hits / 2
    return float((above * misses).sum() / (hits.sum() * misses.sum()))


def pr_auc(y: Column, p: Column, weight: Column) -> float:
    """Average precision: the mean precision over all events with a tip, best score first."""
    hits, misses = _steps(y, p, weight)
    if not hits.sum():
        return float("nan")
    precision = np.cumsum(hits) / np.cumsum(hits + misses)
    return float((precision * hits).sum() / hits.sum())


def recall_at(y: Column, p: Column, weight: Column, share: float = 0.01) -> float:
    """Share of the events with a tip that the best-scored `share` of all events holds."""
    hits, misses = _steps(y, p, weight)
    if not hits.sum():
        return float("nan")
    taken = np.concatenate([[0.0], np.cumsum(hits + misses)])
    return float(np.interp(share * taken[-1], taken, np.concatenate([[0.0], np.cumsum(hits)])) / hits.sum())


def base_rate(y: Column, weight: Column) -> float:
    """Share of events with a tip."""
    return float((y * weight).sum() / weight.sum())


def reliability(y: Column, p: Column, weight: Column, bins: int = 10) -> list[Bin]:
    """Mean score and share of tips in bins of rising score, each holding an equal part of the sum of scores.

    Bins of equal size would put nine of ten where nothing happens.
    """
    order = np.argsort(p, kind="stable")
    y, p, weight = y[order].astype(float), p[order].astype(float), weight[order].astype(float)
    mass = np.cumsum(p * weight)
    edges = np.searchsorted(mass, np.arange(1, bins) / bins * mass[-1])
    return [
        Bin(float(w.sum() / weight.sum()), float((p_ * w).sum() / w.sum()), float((y_ * w).sum() / w.sum()))
        for y_, p_, w in zip(np.split(y, edges), np.split(p, edges), np.split(weight, edges), strict=True)
        if w.sum()
    ]


def calibration_error(y: Column, p: Column, weight: Column) -> float:
    """Mean gap between mean score and share of tips over the bins of `reliability`, relative to the base rate."""
    bins = reliability(y, p, weight)
    return sum(b.weight * abs(b.predicted - b.observed) for b in bins) / sum(b.weight * b.observed for b in bins)


def _steps(y: Column, p: Column, weight: Column) -> tuple[Floats, Floats]:
    """Weights of the events with and without a tip at each distinct score, best first."""
    _, step = np.unique(-p, return_inverse=True)
    y, weight = y.astype(float), weight.astype(float)
    sums = [np.bincount(step, weights=part).astype(np.float64) for part in (y * weight, (1 - y) * weight)]
    return sums[0], sums[1]
