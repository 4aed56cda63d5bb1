"""How good a model is on rows that nothing else has seen, and its model card."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engines import metrics
from engines.manifest import Manifest
from engines.prior import tip_history_probability
from engines.train.dataset import Rows


class Judged(NamedTuple):
    """Ranking figures of one scorer, for the longest horizon."""

    name: str
    pr_auc: float
    auc: float
    recall_at_1pct: float


class Verdict(NamedTuple):
    """Everything the model card says about the held-out period."""

    rows: int
    events: float
    base_rates: tuple[float, ...]
    mean_over_base: tuple[float, ...]
    value_over_amount: float
    calibration_error: float
    reliability: list[metrics.Bin]
    ranking: list[Judged]
    """The model first, then tip history only, then the simulator's own probabilities if it gave them."""

    def figures(self) -> dict[str, float]:
        """Figures for the manifest."""
        model, prior, *ceiling = self.ranking
        return {
            "pr_auc": model.pr_auc,
            "auc": model.auc,
            "recall_at_1pct": model.recall_at_1pct,
            "base_rate": self.base_rates[-1],
            "mean_p_over_base_rate": self.mean_over_base[-1],
            "calibration_error": self.calibration_error,
            "pr_auc_tip_history_only": prior.pr_auc,
            **({"pr_auc_ceiling": ceiling[0].pr_auc} if ceiling else {}),
        }


def judge(manifest: Manifest, rows: Rows, p_tip: NDArray[np.float32], value: NDArray[np.float32]) -> Verdict:
    """Compare scores p_tip (n, H) and value (n,) with what followed, and with the baselines."""
    prior = manifest.prior
    indices = [manifest.columns.index(name) for name in prior.weights]
    weights = np.array(list(prior.weights.values()), np.float32)
    scorers = [
        ("this model", p_tip[:, -1]),
        ("tip history only", tip_history_probability(rows.features[:, indices], weights, prior.bias)),
    ]
    if np.isfinite(rows.latent).all():
        scorers.append(("the simulator's own probabilities", rows.latent))
    y, weight = rows.tips[:, -1], rows.weight
    rates = tuple(metrics.base_rate(tips, weight) for tips in rows.tips.T)
    means = tuple(float(np.average(p, weights=weight)) for p in p_tip.T)
    return Verdict(
        rows=len(y),
        events=float(weight.sum(dtype=np.float64)),
        base_rates=rates,
        mean_over_base=tuple(mean / rate for mean, rate in zip(means, rates, strict=True)),
        value_over_amount=float((value * weight).sum() / (rows.amount_minor * weight).sum()),
        calibration_error=metrics.calibration_error(y, p_tip[:, -1], weight),
        reliability=metrics.reliability(y, p_tip[:, -1], weight),
        ranking=[
            Judged(name, *(figure(y, p, weight) for figure in (metrics.pr_auc, metrics.roc_auc, metrics.recall_at)))
            for name, p in scorers
        ],
    )
