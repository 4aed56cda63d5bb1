"""Models that do one thing wrong, and rows to find it with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.cpu import OnnxModel
from engines.gate.accuracy import Sample
from engines.manifest import Manifest
from engines.model import Model, Scores, check_scores
from tests.engines import small_models

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclasses.dataclass
class Wrong:
    """A sound model whose answer is passed through `spoil`, which sees the batch as well."""

    inner: Model
    spoil: Callable[[Batch, Scores], Scores]
    buckets: tuple[int, ...] = (1, 8, 32)
    max_batch: int = 32
    engine: str = "wrong:00000000"

    @property
    def manifest(self) -> Manifest:
        """The sound model's."""
        return self.inner.manifest

    def infer(self, features: NDArray[np.float32], history: NDArray[np.float32]) -> Scores:
        """Score, and spoil it."""
        clean = np.nan_to_num(features, posinf=0, neginf=0).clip(-1e3, 1e3)
        scores = self.inner.infer(clean, np.nan_to_num(history, posinf=0, neginf=0).clip(-1e3, 1e3))
        return check_scores(self.spoil((features, history), scores), features, history)

    def close(self) -> None:
        """Close the sound model."""
        self.inner.close()


def model() -> OnnxModel:
    """Return the small model."""
    return OnnxModel(small_models.artifact(), max_batch=32)


def wrong(spoil: Callable[[Batch, Scores], Scores]) -> Wrong:
    """Return the small model with a fault."""
    return Wrong(model(), spoil)


def sound(batch: Batch, scores: Scores) -> Scores:
    """No fault."""
    return scores


def sample(n: int = 3_000, seed: int = 1) -> Sample:
    """Draw rows; tips fall as the small model says."""
    rng = np.random.default_rng(seed)
    features = rng.normal(-2.0, 2.0, (n, len(small_models.COLUMNS))).astype(np.float32)
    history = rng.normal(0.0, 1.0, (n, *small_models.HISTORY)).astype(np.float32)
    p = OnnxModel(small_models.artifact(), max_batch=n).infer(features, history).p_tip[:, -1]
    return Sample(features, history, rng.random(n) < p, rng.integers(1, 4, n).astype(np.float32))


def shards(folder: Path, *, n: int = 3_000, features: str = small_models.FINGERPRINT, part: str = "0") -> Path:
    """Write the rows of `sample` as a labelled set."""
    from engines.train.dataset import Facts, Rows, ShardWriter, begin  # PyArrow: a GPU's host may do without

    rows = sample(n)
    facts = Facts(
        features=features,
        columns=small_models.COLUMNS,
        prior_columns=(),
        history=small_models.HISTORY,
        type_codes=5,
        horizons_s=(60, 600),
        source="drawn",
    )
    begin(folder, facts, [part])
    writer = ShardWriter(folder, part=part)
    writer.write(
        Rows(
            time_ms=np.arange(n),
            features=rows.features,
            history=rows.history,
            tips=np.stack([rows.tipped & False, rows.tipped], axis=1),
            amount_minor=np.where(rows.tipped, 100, 0),
            weight=rows.weight,
            latent=np.full(n, np.nan, np.float32),
        )
    )
    writer.end()
    return folder
