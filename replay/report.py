"""How well the scores of one file foresaw the tips that followed."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engines import metrics
from engines import page as html
from engines.svg import Axis, Plot, Point
from replay.outcomes import Outcomes
from replay.scores import Scores

_POINTS: Final = 200  # of a curve
_LOWEST: Final = 1e-5  # left end of probabilities on a logarithmic axis
_RESAMPLES: Final = 100
_EDGES: Final = (5, 95)  # percentiles of an interval


class Tier(NamedTuple):
    """What became of the events of one tier."""

    name: str
    events: int
    mean_p: float
    tipped: float
    """Share of events with a tip within the longest horizon."""


class Judged(NamedTuple):
    """Figures of one score file for the longest horizon, over the events whose horizon the recording covers."""

    events: int
    tips: int
    """Events with a tip."""
    base_rate: float
    auc: float
    pr_auc: float
    pr_interval: tuple[float, float]
    """5th and 95th percentile when whole rooms are drawn anew."""
    recall_at_1pct: float
    mean_over_base: tuple[float, ...]
    """Mean probability over the share of events with a tip, by horizon."""
    calibration_error: float
    value_over_amount: float
    reliability: list[metrics.Bin]
    tiers: list[Tier]
    curve: list[Point]
    """Recall and precision."""


def judge(scores: Scores, known: Outcomes) -> Judged:
    """Compare what was said with what followed."""
    covered, y = known.known, known.tips[known.known, -1]
    p = scores.column("p")[covered]
    weight = np.ones(len(y))
    over = []
    for at, horizon in enumerate(scores.about.horizons_s):
        rate = known.tips[covered, at].mean()
        over.append(float(scores.column(scores.about.p(horizon))[covered].mean() / rate) if rate else float("nan"))
    tier = np.array(scores.text("tier"), object)[covered]
    named = [(each.name, tier == each.name) for each in scores.about.tiers]
    amount = known.amount[covered].sum()
    rooms = np.array(scores.text("room_id"), object)[covered]
    drawn = pr_auc_resampled(y, p, rooms)
    return Judged(
        events=len(y),
        tips=int(y.sum()),
        base_rate=float(y.mean()),
        auc=metrics.roc_auc(y, p, weight),
        pr_auc=metrics.pr_auc(y, p, weight),
        pr_interval=interval(drawn),
        recall_at_1pct=metrics.recall_at(y, p, weight),
        mean_over_base=tuple(over),
        calibration_error=metrics.calibration_error(y, p, weight) if y.any() else float("nan"),
        value_over_amount=float(scores.column("value")[covered].sum() / amount) if amount else float("nan"),
        reliability=metrics.reliability(y, p, weight),
        tiers=[Tier(name, int(at.sum()), float(p[at].mean()), float(y[at].mean())) for name, at in named if at.any()],
        curve=_curve(y, p),
    )


def pr_auc_resampled(y: NDArray[Any], p: NDArray[Any], rooms: NDArray[Any]) -> NDArray[np.float64]:
    """PR-AUC of samples of the rooms, drawn with replacement; equal rooms give equal samples, for pairing.

    y (n,), p (n,), rooms (n,) -> (100,). Few tips decide it, and those of one room are alike.
    """
    names, room = np.unique(rooms.astype(str), return_inverse=True)
    order = np.argsort(-p, kind="stable")
    hit, room = y[order], room[order]
    rng = np.random.default_rng(0)
    out = np.full(_RESAMPLES, np.nan)
    for i in range(_RESAMPLES):
        weight = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))[room]
        hits = np.cumsum(weight * hit)
        if hits[-1]:
            out[i] = float((weight * hit * hits / np.maximum(np.cumsum(weight), 1)).sum() / hits[-1])
    return out


def interval(drawn: NDArray[np.float64]) -> tuple[float, float]:
    """5th and 95th percentile."""
    if np.isnan(drawn).all():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(drawn, _EDGES)
    return float(low), float(high)


def _curve(y: NDArray[Any], p: NDArray[Any]) -> list[Point]:
    order = np.argsort(-p, kind="stable")
    hits = np.cumsum(y[order])
    if not hits[-1]:
        return []
    last = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)  # equal scores are one step
    at = np.unique(np.geomspace(1, len(last), _POINTS).astype(int)) - 1
    taken = last[at][hits[last[at]] > 0]  # before the first tip, precision has no place on a logarithmic axis
    return list(zip((hits[taken] / hits[-1]).tolist(), (hits[taken] / (taken + 1)).tolist(), strict=True))


def figures(judged: Judged) -> list[tuple[str, str]]:
    """Name and value of each figure."""
    low, high = judged.pr_interval
    return [
        ("PR-AUC", f"{judged.pr_auc:.4f}"),
        ("  5-95 % over rooms", f"{low:.4f}-{high:.4f}"),
        ("AUC", f"{judged.auc:.4f}"),
        ("recall at 1 %", f"{judged.recall_at_1pct:.4f}"),
        ("mean p / base rate", f"{judged.mean_over_base[-1]:.3f}"),
        ("calibration error", f"{judged.calibration_error:.3f}"),
        ("expected / tipped amount", f"{judged.value_over_amount:.3f}"),
    ]


def text(scores: Scores, judged: Judged) -> str:
    """Tell it in a terminal."""
    about = scores.about
    return "\n".join(
        [
            f"{about.model} ({about.engine}) on {about.source}: {judged.events:,} events, {judged.tips:,} followed by "
            f"a tip within {about.horizons_s[-1]} s ({judged.base_rate:.3%}).",
            "",
            html.text_table(["", ""], figures(judged)).strip("\n "),
            "",
            html.text_table(_TIER_HEAD, _tier_rows(judged)),
        ]
    )


def page(scores: Scores, judged: Judged) -> str:
    """Tell it as a page with plots."""
    about, (low, high) = scores.about, judged.pr_interval
    horizon = about.horizons_s[-1]
    return html.document(
        f"{about.model} on {about.source}",
        f"{judged.events:,} events, of which {judged.tips:,} were followed by a tip of the same viewer in the same "
        f"room within {horizon} s ({judged.base_rate:.3%}).",
        [
            html.tiles(
                [
                    ("PR-AUC", f"{judged.pr_auc:.4f}", f"{low:.4f}-{high:.4f} over rooms drawn anew"),
                    ("AUC", f"{judged.auc:.4f}", "0.5 is chance"),
                    ("Recall at 1 %", f"{judged.recall_at_1pct:.1%}", "of tips in the best percent"),
                    ("Mean p / base rate", f"{judged.mean_over_base[-1]:.2f}", "1 is calibrated"),
                    ("Calibration error", f"{judged.calibration_error:.2f}", "mean gap over the base rate"),
                    ("Expected / tipped", f"{judged.value_over_amount:.2f}", "amounts, minor units"),
                ]
            ),
            html.section(
                "Calibration and ranking",
                "A calibrated model's dots lie on the dashed line: of events scored 1 %, one in a hundred was followed "
                "by a tip. Each dot holds a tenth of all tips that the model expects.",
                html.plots(
                    ("Calibration", "share of events with a tip against mean score", reliability_plot([judged])),
                    ("Precision and recall", f"tips within {horizon} s, best score first", curve_plot([judged])),
                ),
            ),
            html.section(
                "Tiers", "What the names in published scores stood for.", html.table(_TIER_HEAD, _tier_rows(judged))
            ),
        ],
    )


_TIER_HEAD: Final = ("tier", "events", "share", "mean p", "with a tip")


def _tier_rows(judged: Judged) -> list[tuple[str, ...]]:
    return [
        (
            each.name,
            f"{each.events:,}",
            f"{each.events / judged.events:.2%}",
            f"{each.mean_p:.3%}",
            f"{each.tipped:.3%}",
        )
        for each in judged.tiers
    ]


def reliability_plot(each: list[Judged], names: tuple[str, ...] = ("",)) -> Plot:
    """Mean score against share of tips, on logarithmic axes."""
    shown = [max(share, _LOWEST) for judged in each for b in judged.reliability for share in (b.predicted, b.observed)]
    low = 10 ** np.floor(np.log10(min(*shown, 1e-2)))
    high = min(1.0, 10 ** np.ceil(np.log10(max(*shown, 10 * low))))
    plot = Plot(Axis("mean score", low, high, log=True, percent=True), Axis("with a tip", low, high, True, True))
    plot.line([(low, low), (high, high)], "guide")
    for judged, name, series in zip(each, names, _series(len(each)), strict=True):
        points = [(b.predicted, b.observed) for b in judged.reliability]
        plot.line(points, series, name)
        plot.dots(points, series)
    return plot


def curve_plot(each: list[Judged], names: tuple[str, ...] = ("",)) -> Plot:
    """Precision over recall; precision on a logarithmic axis, for tips are rare."""
    rate = max(min(judged.base_rate for judged in each) / 2, 1e-6)
    plot = Plot(Axis("recall", 0, 1, percent=True), Axis("precision", rate, 1, log=True, percent=True))
    plot.line([(0, each[0].base_rate), (1, each[0].base_rate)], "guide")
    for judged, name, series in zip(each, names, _series(len(each)), strict=True):
        plot.line(judged.curve, series, name)
    return plot


def _series(count: int) -> Any:
    return ("b",) if count == 1 else ("a", "b")
