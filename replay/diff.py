"""What two score files of one recording say of the same events, and which of them is right more often."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from engines import page as html
from engines.svg import Axis, Plot
from replay.outcomes import Outcomes
from replay.recording import RecordingError
from replay.report import Judged, curve_plot, figures, interval, judge, pr_auc_resampled, reliability_plot
from replay.scores import Scores

_LOWEST: Final = 1e-5
_HEAD: Final = 0.01  # share of events at the top of the ranking that is looked at
_QUANTILES: Final = (50, 90, 99, 100)
_CELLS: Final = 48


class Flip(NamedTuple):
    """Events that a tier's threshold parts."""

    tier: str
    at_least: float
    rose: int
    """Below it in A, at or above it in B."""
    fell: int


class Compared(NamedTuple):
    """Two score files, over the n events that both scored."""

    a: Scores
    b: Scores
    events: int
    only_a: int
    only_b: int
    p_a: NDArray[np.float64]
    p_b: NDArray[np.float64]
    quantiles: tuple[float, ...]
    """50th, 90th, 99th percentile and maximum of |p_b - p_a|, for the longest horizon."""
    flips: list[Flip]
    """At the thresholds of A's tiers but the lowest."""
    moved: dict[tuple[str, str], int]
    """Events by the tier that A and that B names."""
    rank_correlation: float
    """Spearman's."""
    shared_head: float
    """Share of A's best-scored percent that is in B's, too."""
    rank_moves: tuple[float, ...]
    """Quantiles as above of how far ranks moved, as shares of all events."""
    latency_ms: tuple[tuple[float, ...] | None, tuple[float, ...] | None]
    """50th, 90th, 99th percentile and maximum of A and of B, where measured."""
    judged: tuple[Judged, Judged] | None
    """How good each is, if the recording was given."""
    gain: tuple[float, float, float] | None
    """B's PR-AUC over A's: as it is, and 5th and 95th percentile over rooms drawn anew, the same for both."""


def compare(a: Scores, b: Scores, known: Outcomes | None) -> Compared:
    """Pair the scores by event id; `known` is what followed the events of A. Raises RecordingError."""
    at_a, at_b = _paired(a, b)
    n = len(at_a)
    p_a, p_b = a.column("p")[at_a], b.column("p")[at_b]
    rank_a, rank_b = _ranks(p_a), _ranks(p_b)
    head = max(1, round(_HEAD * n))
    shared = np.intersect1d(np.argsort(rank_a, kind="stable")[:head], np.argsort(rank_b, kind="stable")[:head])
    tiers = (a.take(at_a).text("tier"), b.take(at_b).text("tier"))
    names, pairs = np.unique(np.array(tiers, str), axis=1, return_counts=True)
    judged = gain = None
    if known is not None:
        if not known.known[at_a].any():
            raise RecordingError(
                f"The recording covers what followed none of the events that are in both {a.path} and {b.path}: give "
                "one that was scored by both, or leave it out."
            )
        left, right = (judge(scores.take(at), known.take(at_a)) for scores, at in ((a, at_a), (b, at_b)))
        judged = (left, right)
        gain = _gain(a, at_a, known, p_a, p_b, judged)
    return Compared(
        a=a,
        b=b,
        events=n,
        only_a=a.table.num_rows - n,
        only_b=b.table.num_rows - n,
        p_a=p_a,
        p_b=p_b,
        quantiles=_quantiles(np.abs(p_b - p_a)),
        flips=[
            Flip(
                tier.name,
                tier.at_least,
                int(((p_a < tier.at_least) & (p_b >= tier.at_least)).sum()),
                int(((p_a >= tier.at_least) & (p_b < tier.at_least)).sum()),
            )
            for tier in a.about.tiers[1:]
        ],
        moved={(str(x), str(y)): int(count) for x, y, count in zip(*names, pairs, strict=True)},
        rank_correlation=_correlation(rank_a, rank_b),
        shared_head=len(shared) / head,
        rank_moves=_quantiles(np.abs(rank_b - rank_a) / n),
        latency_ms=(_latency(a, at_a), _latency(b, at_b)),
        judged=judged,
        gain=gain,
    )


def _paired(a: Scores, b: Scores) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of A and of B that score the same event; of an id that was scored twice, the first."""
    if a.about.horizons_s[-1] != b.about.horizons_s[-1]:
        raise RecordingError(
            f"{a.path} tells of tips within {a.about.horizons_s[-1]} s, {b.path} within {b.about.horizons_s[-1]} s: "
            "these cannot be compared."
        )
    found = pc.index_in(b.table["event_id"], a.table["event_id"]).fill_null(-1).to_numpy()
    at_a, at_b = np.unique(found, return_index=True)
    at_a, at_b = at_a[at_a >= 0], at_b[at_a >= 0]
    if not len(at_a):
        raise RecordingError(f"{a.path} and {b.path} have no event in common: score the same recording with both.")
    return at_a.astype(np.int64), at_b.astype(np.int64)


def _ranks(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) ranks, the best first; equal scores share their mean rank."""
    _, inverse, count = np.unique(-p, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(count) - (count + 1) / 2)[inverse]
    return ranks


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    if not x.std() or not y.std():
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _quantiles(values: NDArray[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.percentile(values, _QUANTILES))


def _latency(scores: Scores, at: NDArray[np.int64]) -> tuple[float, ...] | None:
    waited = scores.table["latency_us"].take(at).drop_null().to_numpy()
    return _quantiles(waited / 1000) if len(waited) else None


def _gain(
    a: Scores,
    at_a: NDArray[np.int64],
    known: Outcomes,
    p_a: NDArray[np.float64],
    p_b: NDArray[np.float64],
    judged: tuple[Judged, Judged],
) -> tuple[float, float, float]:
    covered = known.known[at_a]
    y = known.tips[at_a, -1][covered]
    rooms = np.array(a.take(at_a).text("room_id"), object)[covered]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = pr_auc_resampled(y, p_b[covered], rooms) / pr_auc_resampled(y, p_a[covered], rooms)
        whole = float(np.divide(judged[1].pr_auc, judged[0].pr_auc))
    return (whole, *interval(ratios))


def text(found: Compared) -> str:
    """Tell it in a terminal."""
    parts = [
        f"A  {_name(found.a)}\nB  {_name(found.b)}\n{_lead(found)}",
        html.text_table(_QUANTILE_HEAD, _quantile_rows(found)),
        html.text_table(_FLIP_HEAD, _flip_rows(found)),
        f"Ranks: correlation {found.rank_correlation:.4f}; {found.shared_head:.1%} of A's best percent is in B's.",
    ]
    if found.judged is not None:
        parts.append(html.text_table(("", "A", "B"), _figure_rows(found.judged)))
        parts.append(_gain_text(found))
    return "\n\n".join(parts)


def page(found: Compared) -> str:
    """Tell it as a page with plots."""
    flipped = sum(count for (x, y), count in found.moved.items() if x != y)
    facts = [
        ("Events compared", f"{found.events:,}", f"{found.only_a:,} only in A, {found.only_b:,} only in B"),
        ("Largest change", f"{found.quantiles[-1]:.2g}", f"99 % below {found.quantiles[2]:.2g}"),
        ("Other tier", f"{flipped / found.events:.3%}", f"{flipped:,} events"),
        ("Rank correlation", f"{found.rank_correlation:.4f}", "Spearman; 1 is the same order"),
        ("Same best percent", f"{found.shared_head:.1%}", "of A's is in B's"),
    ]
    parts = []
    if found.judged is not None and found.gain is not None:
        ratio, low, high = found.gain
        facts.insert(0, ("PR-AUC, B over A", f"{ratio:.3f}", f"{low:.3f}-{high:.3f} over rooms drawn anew"))
        names = ("A", "B")
        parts.append(
            html.section(
                "Which one is right",
                "Against the tips that followed in the recording. " + _gain_text(found),
                html.table(("", "A", "B"), _figure_rows(found.judged)),
                html.plots(
                    (
                        "Calibration",
                        "share of events with a tip against mean score",
                        reliability_plot([*found.judged], names),
                    ),
                    ("Precision and recall", "best score first", curve_plot([*found.judged], names)),
                ),
            )
        )
    parts.append(
        html.section(
            "What moved",
            "Each event once with A's and once with B's probability; where they agree, it lies on the dashed line.",
            html.plots(
                ("Probability, A and B", "darker: more events, on a logarithmic scale", _against(found)),
                ("How far it moved", "events by the size of the change", _changes(found)),
            ),
            html.table(_QUANTILE_HEAD, _quantile_rows(found)),
        )
    )
    tiers = [tier.name for tier in found.a.about.tiers]
    others = [tier.name for tier in found.b.about.tiers]
    parts.append(
        html.section(
            "Tiers",
            "Events by the tier that A names (rows) and that B names (columns); below, at A's thresholds.",
            html.table(("A \\ B", *others), ([x, *(f"{found.moved.get((x, y), 0):,}" for y in others)] for x in tiers)),
            html.table(_FLIP_HEAD, _flip_rows(found)),
        )
    )
    return html.document(
        "Two sets of scores", f"A: {_name(found.a)}. B: {_name(found.b)}.", [html.tiles(facts), *parts]
    )


_QUANTILE_HEAD: Final = ("", "median", "90 %", "99 %", "most")
_FLIP_HEAD: Final = ("threshold", "p", "rose above", "fell below", "share of events")


def _name(scores: Scores) -> str:
    return f"{scores.about.model} ({scores.about.engine}) on {scores.about.source}"


def _lead(found: Compared) -> str:
    return f"{found.events:,} events in both, {found.only_a:,} only in A, {found.only_b:,} only in B."


def _quantile_rows(found: Compared) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("change of p", *(f"{value:.2g}" for value in found.quantiles)),
        ("move in rank", *(f"{value:.3%}" for value in found.rank_moves)),
    ]
    for name, latency in zip("AB", found.latency_ms, strict=True):
        if latency is not None:
            rows.append((f"latency of {name}, ms", *(f"{value:.1f}" for value in latency)))
    return rows


def _flip_rows(found: Compared) -> list[tuple[str, ...]]:
    return [
        (
            each.tier,
            f"{each.at_least:.4g}",
            f"{each.rose:,}",
            f"{each.fell:,}",
            f"{(each.rose + each.fell) / found.events:.3%}",
        )
        for each in found.flips
    ]


def _figure_rows(judged: tuple[Judged, Judged]) -> list[tuple[str, ...]]:
    return [(name, left, right) for (name, left), (_, right) in zip(*map(figures, judged), strict=True)]


def _gain_text(found: Compared) -> str:
    assert found.gain is not None
    ratio, low, high = found.gain
    verdict = "B ranks better" if low > 1 else "A ranks better" if high < 1 else "neither ranks surely better"
    return f"PR-AUC of B over that of A: {ratio:.3f} ({low:.3f}-{high:.3f} over rooms drawn anew): {verdict}."


def _against(found: Compared) -> Plot:
    edges = np.geomspace(_LOWEST, 1, _CELLS + 1)
    counts, _, _ = np.histogram2d(
        np.clip(found.p_a, _LOWEST, 1), np.clip(found.p_b, _LOWEST, 1), bins=[edges.tolist(), edges.tolist()]
    )
    plot = Plot(Axis("p of A", _LOWEST, 1, log=True, percent=True), Axis("p of B", _LOWEST, 1, log=True, percent=True))
    plot.cells(edges.tolist(), edges.tolist(), counts.tolist())
    plot.line([(_LOWEST, _LOWEST), (1, 1)], "guide")
    return plot


def _changes(found: Compared) -> Plot:
    low = 1e-7  # published scores have as many digits
    edges = np.geomspace(low, 1, 36)
    counts, _ = np.histogram(np.clip(np.abs(found.p_b - found.p_a), low, 1), edges)
    plot = Plot(
        Axis("|p of B - p of A|; 1e-07 stands for none", low, 1, log=True), Axis("events", 0, max(1, int(counts.max())))
    )
    plot.bars(edges.tolist(), counts.tolist(), "b")
    return plot
