"""How a training run went: `training.jsonl`, a line for each epoch, and `training.html` with plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engines import page
from engines.manifest import Manifest
from engines.svg import Axis, Plot, Point
from engines.train.dataset import Rows
from engines.train.fit import Epoch
from engines.train.judge import Verdict

LOG_FILE: Final = "training.jsonl"
PAGE_FILE: Final = "training.html"
_POINTS: Final = 200  # of a curve


def write_log(
    folder: Path, manifest: Manifest, epochs: Sequence[Epoch], test: Rows, p_tip: NDArray[np.float32], verdict: Verdict
) -> None:
    """Write both files; `p_tip` (n, H) is what the finished network says of the held-out rows."""
    lines = (msgspec.json.encode(epoch._asdict()) + b"\n" for epoch in epochs)
    (folder / LOG_FILE).write_bytes(b"".join(lines))
    model = verdict.ranking[0]
    facts = [
        ("PR-AUC", f"{model.pr_auc:.4f}", "held-out period"),
        ("AUC", f"{model.auc:.4f}", "held-out period"),
        ("recall at 1 %", f"{model.recall_at_1pct:.3f}", "held-out period"),
        ("mean p / base rate", f"{verdict.mean_over_base[-1]:.3f}", "held-out period"),
    ]
    plots = page.plots(
        ("Loss", "mean over all events; solid: the members in training, coloured: together, on the next period",
         _losses(epochs)),
        ("PR-AUC by epoch", "on the validation period", _pr_auc(epochs)),
        ("Precision and recall", "held-out period, longest horizon",
         _precision(test.tips[:, -1], p_tip[:, -1], test.weight)),
        ("Reliability", "held-out period; on the dashed line, scores are probabilities", _reliability(verdict)),
    )  # fmt: skip
    title = f"Training of {manifest.name} {manifest.version}"
    (folder / PAGE_FILE).write_text(page.document(title, manifest.trained_on, [page.tiles(facts), plots]), "utf-8")


def _losses(epochs: Sequence[Epoch]) -> Plot:
    training = [(float(epoch.epoch), epoch.training_loss) for epoch in epochs]
    validation = [(float(epoch.epoch), epoch.validation_loss) for epoch in epochs]
    plot = Plot(_epochs(epochs), _around("loss", [*training, *validation]))
    plot.line(training, "a", "training")
    plot.line(validation, "b", "validation")
    return plot


def _pr_auc(epochs: Sequence[Epoch]) -> Plot:
    points = [(float(epoch.epoch), epoch.pr_auc) for epoch in epochs]
    plot = Plot(_epochs(epochs), _around("PR-AUC", points))
    plot.line(points, "b")
    plot.dots(points, "b")
    return plot


def _precision(y: NDArray[np.bool_], p: NDArray[np.float32], weight: NDArray[np.float32]) -> Plot:
    order = np.argsort(-p, kind="stable")
    found = np.cumsum(weight[order] * y[order], dtype=np.float64)
    precision = found / np.cumsum(weight[order], dtype=np.float64)
    recall = found / found[-1]
    at = np.searchsorted(recall, np.linspace(0.01, 1, _POINTS)).clip(max=len(recall) - 1)
    plot = Plot(Axis("recall", 0, 1, percent=True), Axis("precision", 0, max(float(precision[at].max()), 1e-3)))
    plot.line(list(zip(recall[at].tolist(), precision[at].tolist(), strict=True)), "b")
    return plot


def _reliability(verdict: Verdict) -> Plot:
    points = [(step.predicted, max(step.observed, 1e-6)) for step in verdict.reliability]
    low, high = min(map(min, points)), max(map(max, points))
    axes: list[Any] = [Axis(label, low / 1.5, high * 1.5, log=True) for label in ("mean p", "share with a tip")]
    plot = Plot(*axes)
    plot.line([(low / 1.5, low / 1.5), (high * 1.5, high * 1.5)], "guide")
    plot.dots(points, "b")
    return plot


def _epochs(epochs: Sequence[Epoch]) -> Axis:
    return Axis("epoch", 0, float(len(epochs)))


def _around(label: str, points: Sequence[Point]) -> Axis:
    values = [y for _, y in points]
    room = 0.1 * (max(values) - min(values)) or 0.1 * abs(values[0]) or 1.0
    return Axis(label, min(values) - room, max(values) + room)
