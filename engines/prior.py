"""The last rung: what a viewer's tip history alone says, by a formula that cannot fail.

    p(longest horizon) = sigmoid(bias + sum over columns of weight * column)
    p(horizon)         = share(horizon) * p(longest horizon)
    value              = amount_minor * p(longest horizon)

The coefficients are in the model's manifest; training fits them by logistic regression on the columns of tip history,
which the catalogue already gives on a logarithmic scale. A value that is no number counts as 0, so that the prior
answers whatever is wrong elsewhere.
"""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
from numpy.typing import NDArray

from engines.manifest import Manifest
from engines.model import BUCKETS, ModelError, Scores, check_inputs, check_scores


class PriorModel:
    """The formula above, over the columns that the manifest's prior names."""

    def __init__(self, manifest: Manifest, *, max_batch: int = BUCKETS[-1]) -> None:
        """Find the prior's columns; raises ModelError if the manifest's own columns lack one."""
        prior = manifest.prior
        missing = sorted(set(prior.weights) - set(manifest.columns))
        if missing:
            raise ModelError(
                f"The prior of model {manifest.name} uses {', '.join(missing)}, which its feature catalogue does not "
                "have. Train the model again."
            )
        self.manifest = manifest
        self.engine = f"prior:{hashlib.sha256(msgspec.json.encode(prior)).hexdigest()[:8]}"
        self.max_batch = max_batch
        self.buckets = tuple(size for size in BUCKETS if size <= max_batch)
        self._columns = np.array([manifest.columns.index(name) for name in prior.weights], np.intp)
        self._weights = np.array(list(prior.weights.values()), np.float32)
        self._shares = np.array(prior.shares, np.float32)

    def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
        """Score one batch; `history` is checked but not used. See `Model.infer`."""
        check_inputs(self.manifest, self.max_batch, features, history)
        longest = tip_history_probability(features[:, self._columns], self._weights, self.manifest.prior.bias)
        scores = Scores(longest[:, None] * self._shares, longest * np.float32(self.manifest.prior.amount_minor))
        return check_scores(scores, features, history)

    def close(self) -> None:
        """Nothing is held."""


def tip_history_probability(
    columns: NDArray[np.float32], weights: NDArray[np.float32], bias: float
) -> NDArray[np.float32]:
    """Apply the formula for the longest horizon: columns (n, k), weights (k,) -> (n,) float32 in (0, 1)."""
    # Row by row (not a matrix product), so that a row's score does not depend on the rows beside it.
    logit = (np.nan_to_num(columns, posinf=0, neginf=0) * weights).sum(axis=1) + np.float32(bias)
    p: NDArray[np.float32] = (1 / (1 + np.exp(-np.clip(logit, -30, 30)))).astype(np.float32)
    return p
