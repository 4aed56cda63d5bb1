"""What every model can do, whatever runs it: rows in, probabilities and an expected amount out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from engines.manifest import Manifest

_ONE = np.float32(1).view(np.uint32)
_INFINITY = np.float32(np.inf).view(np.uint32)

#: Batch sizes that are measured, and on a GPU built, one by one. A batch runs in the smallest that holds it.
BUCKETS = (1, 8, 32, 64, 128, 256, 512, 1024)


class ModelError(Exception):
    """A model cannot be loaded or cannot answer; the message is a sentence that says how to fix it."""


class Scores(NamedTuple):
    """The answer to one batch of n events."""

    p_tip: NDArray[np.float32]
    """(n, H) float32: probability of a tip within each horizon, calibrated, never falling along the horizons."""
    value: NDArray[np.float32]
    """(n,) float32: expected tips in minor units within the longest horizon."""


class BadScores(ModelError):
    """An answer with a row that is no probability or no amount; `scores` is the answer as the model gave it."""

    def __init__(self, message: str, scores: Scores) -> None:
        """Keep the answer: the rows beside the bad one may be sound."""
        super().__init__(message)
        self.scores = scores


class Model(Protocol):
    """A loaded model. One thread at a time may call it."""

    @property
    def manifest(self) -> Manifest:
        """What the model is and which features it was trained on."""

    @property
    def engine(self) -> str:
        """Short name of what runs it, for example `cpu:1a2b3c4d`; it goes into every score."""

    @property
    def buckets(self) -> tuple[int, ...]:
        """Batch sizes worth measuring, ascending."""

    @property
    def max_batch(self) -> int:
        """Largest n that `infer` takes."""

    def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
        """Score n events, 1 <= n <= max_batch: features (n, F), history (n, L, C), both float32; blocks.

        Raises ModelError for inputs of another shape or dtype, and for answers that are not finite probabilities.
        """

    def close(self) -> None:
        """Give back what the model holds; calling it again does nothing."""


def check_inputs(
    manifest: Manifest, max_batch: int, features: NDArray[np.float32], history: NDArray[np.float32]
) -> None:
    """Raise ModelError, in words, unless the two arrays are a batch for this model."""
    n = len(features) if features.ndim else 0
    if not 1 <= n <= max_batch:
        raise ModelError(f"A batch of {n} rows was given; this model takes 1 to {max_batch}. Split the batch.")
    wanted = ((n, manifest.n_features), (n, *manifest.history))
    for name, array, shape in zip(("features", "history"), (features, history), wanted, strict=True):
        if array.shape != shape or array.dtype != np.float32:
            raise ModelError(
                f"`{name}` is {array.dtype} {array.shape}, but the model takes float32 {shape}. "
                "Give the arrays as the feature engine returns them, one row an event."
            )


def check_scores(scores: Scores, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
    """Return the scores, or raise BadScores if one of them is no probability or no amount."""
    p, value = scores
    # As whole numbers, floats from 0 to 1 lie at or below that of 1, negative ones and NaN above: two looks say it all.
    if p.view(np.uint32).max() <= _ONE and value.view(np.uint32).max() < _INFINITY:
        return scores
    good = ((p >= 0) & (p <= 1)).all(axis=1) & (value >= 0) & np.isfinite(value)  # NaN compares false
    if good.all():
        return scores
    row = int(np.argmin(good))
    if np.isfinite(features[row]).all() and np.isfinite(history[row]).all():
        cause = "its inputs are finite, so the model is at fault: verify the engine or go back to the one before"
    else:
        cause = "its inputs hold NaN or infinity: look for the feature that produced it"
    raise BadScores(
        f"Row {row} of a batch of {len(p)} scored p_tip {p[row].tolist()}, value {float(value[row])}; {cause}.", scores
    )
