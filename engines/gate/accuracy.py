"""The candidate's answers beside the FP32 reference's, on recorded rows and against the tips that followed."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engines import metrics
from engines.gate.verdict import Accuracy, Flip, Ranking
from engines.manifest import Manifest
from engines.model import BadScores, Model, Scores

_BATCH: Final = 256
_EDGES: Final = np.concatenate([[0.0], np.geomspace(1e-7, 1, 36)])


class Sample(NamedTuple):
    """Rows of recorded traffic with what followed them."""

    features: NDArray[np.float32]
    """(n, F)."""
    history: NDArray[np.float32]
    """(n, L, C)."""
    tipped: NDArray[np.bool_]
    """(n,) whether a tip followed within the longest horizon."""
    weight: NDArray[np.float32]
    """(n,) events that the row stands for."""


def scores(model: Model, sample: Sample) -> Scores:
    """Score every row, in batches of a size as in service; rows without a probability stay as the model gave them."""
    size = min(_BATCH, model.max_batch)
    parts = []
    for at in range(0, len(sample.weight), size):
        try:
            parts.append(model.infer(sample.features[at : at + size], sample.history[at : at + size]))
        except BadScores as bad:
            parts.append(bad.scores)
    return Scores(np.concatenate([part.p_tip for part in parts]), np.concatenate([part.value for part in parts]))


def judge(
    manifest: Manifest, sample: Sample, reference: Scores, candidate: Scores, serving: Scores | None = None
) -> Accuracy:
    """Compare answers to the same rows; `serving` are those of another model, if one is to be replaced."""
    weight = sample.weight.astype(np.float64)
    changes = np.abs(candidate.p_tip.astype(np.float64) - reference.p_tip)
    changes = np.nan_to_num(changes, nan=1.0, posinf=1.0).clip(max=1.0)  # no answer is as far off as can be
    before, after = reference.p_tip[:, -1], _probability(candidate.p_tip[:, -1])
    thresholds = np.array([tier.at_least for tier in manifest.tiers[1:]], np.float32)
    tiers = np.searchsorted(thresholds, before, side="right"), np.searchsorted(thresholds, after, side="right")
    counts, _ = np.histogram(changes[:, -1], _EDGES)
    off = np.abs(candidate.value.astype(np.float64) - reference.value) / (1 + reference.value)
    return Accuracy(
        rows=len(weight),
        events=float(weight.sum()),
        tips=int(sample.tipped.sum()),
        reference=_ranking("reference", sample, before),
        candidate=_ranking("candidate", sample, after),
        serving=None if serving is None else _ranking("serving", sample, _probability(serving.p_tip[:, -1])),
        mean_shift=float(np.average(after, weights=weight) / np.average(before, weights=weight) - 1),
        flips=tuple(
            Flip(
                tier=tier.name,
                at_least=tier.at_least,
                rose=float(np.average((before < limit) & (after >= limit), weights=weight)),
                fell=float(np.average((before >= limit) & (after < limit), weights=weight)),
            )
            for tier, limit in zip(manifest.tiers[1:], thresholds, strict=True)
        ),
        flipped=float(np.average(tiers[0] != tiers[1], weights=weight)),
        max_change=float(changes.max()),
        p99_change=float(np.percentile(changes, 99)),
        falling=float((np.diff(candidate.p_tip, axis=1) < 0).any(axis=1).mean()),
        value_change=float(np.percentile(np.nan_to_num(off, nan=1.0, posinf=1.0).clip(max=1.0), 99)),
        change_edges=tuple(_EDGES.tolist()),
        change_counts=tuple(counts.tolist()),
    )


def _ranking(name: str, sample: Sample, p: NDArray[np.float32]) -> Ranking:
    y, weight = sample.tipped, sample.weight
    return Ranking(
        name=name,
        pr_auc=metrics.pr_auc(y, p, weight),
        auc=metrics.roc_auc(y, p, weight),
        recall_at_1pct=metrics.recall_at(y, p, weight),
        mean_over_base=float(np.average(p, weights=weight)) / metrics.base_rate(y, weight),
        calibration_error=metrics.calibration_error(y, p, weight),
        reliability=tuple(metrics.reliability(y, p, weight)),
    )


def _probability(p: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a reader would make of it: no answer is no tip."""
    return np.nan_to_num(p, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
