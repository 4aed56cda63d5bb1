"""What a network is to know of its inputs before it is trained: their spread, and the pieces of their ranges."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engines.model import ModelError
from engines.train.dataset import Facts, Rows
from engines.train.network import Pieces
from engines.train.recipe import HISTORY

_FLAT: Final = 1e-6  # a feature that moves less than this in training is a constant
_SAMPLE: Final = 100_000  # rows that spreads and quantiles are taken from
_NARROW: Final = 1e-4  # pieces narrower than this share of the feature's range are joined with the next


class Inputs(NamedTuple):
    """Constants of the graph, of F features and C channels."""

    mean: NDArray[np.float64]
    """(F,)"""
    inverse_std: NDArray[np.float64]
    """(F,) 0 for what the network is not to see."""
    channel_scale: NDArray[np.float64]
    """(C,)"""
    pieces: Pieces


def measure(facts: Facts, train: Rows, *, pieces: int, without: tuple[str, ...], rng: np.random.Generator) -> Inputs:
    """Measure the training period; raises ModelError if `without` names something that does not exist."""
    hidden = unseen(facts, without)
    tipped = train.tips[:, -1]
    sample = np.sort(rng.permutation(len(tipped))[:_SAMPLE])
    features = train.features[sample]
    inverse_std = _inverse(features.std(0, dtype=np.float64))
    inverse_std[hidden] = 0
    # Only the spread of the history's channels: its empty places are to stay zeros.
    channel_scale = _inverse(train.history[sample].std((0, 1), dtype=np.float64))
    with_tip = train.features[np.flatnonzero(tipped)[:_SAMPLE]]
    return Inputs(
        features.mean(0, dtype=np.float64), inverse_std, channel_scale, _cut(features, with_tip, pieces, hidden)
    )


def unseen(facts: Facts, without: tuple[str, ...]) -> NDArray[np.bool_]:
    """(F,) which features the patterns name; raises ModelError for a pattern that names none."""
    hidden = np.zeros(len(facts.columns), np.bool_)
    for pattern in without:
        named = np.array([fnmatchcase(name, pattern) for name in facts.columns])
        if pattern != HISTORY and not named.any():
            raise ModelError(
                f"No feature is called {pattern!r}: `without` and `network_without` take names, patterns, {HISTORY!r}."
            )
        hidden |= named
    return hidden


def _cut(
    features: NDArray[np.float32], with_tip: NDArray[np.float32], pieces: int, hidden: NDArray[np.bool_]
) -> Pieces:
    """Cut at quantiles, half of them of the rows with a tip: where those lie is where bends pay."""
    feature, low, width = [], [], []
    steps = np.linspace(0, 1, pieces // 2 + 1)
    for column in np.flatnonzero(~hidden) if pieces else []:
        known = np.concatenate([np.quantile(rows[:, column], steps) for rows in (features, with_tip)])
        edges = np.unique(known.astype(np.float64))
        edges = edges[np.append(True, np.diff(edges) > _NARROW * max(edges[-1] - edges[0], _FLAT))]
        feature += [column] * (len(edges) - 1)
        low += edges[:-1].tolist()
        width += np.diff(edges).tolist()
    inverse = 1 / np.array(width, np.float64)
    return Pieces(np.array(feature, np.int32), np.array(low, np.float32), inverse.astype(np.float32))


def _inverse(spread: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(1, spread, out=np.zeros_like(spread), where=spread > _FLAT)
