"""The gate's verdict for people: Markdown for a review, and a page with plots that stands alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from engines import page as html
from engines.gate.verdict import Energy, Ranking, Speed, Verdict
from engines.svg import Axis, Plot, Series

_LOWEST: Final = 1e-5
_TYPICAL: Final = 64  # rows a batch
_AT_RATE: Final = 40_000  # scores a second: what the figure of the energy at part load is told for
_CHECKS: Final = ("check", "found", "limit", "")
_RANKINGS: Final = ("", "PR-AUC", "AUC", "recall at 1 %", "mean p over base rate", "calibration error")
_FLIPS: Final = ("tier", "from p", "rose above", "fell below")
_SPEEDS: Final = ("rows", "version", "p50, us", "p99, us", "scores/s")

Rows = list[tuple[str, ...]]


def markdown(verdict: Verdict) -> str:
    """Tell it as Markdown."""
    found = verdict.accuracy
    return "\n".join(
        [
            f"# {'Passed' if verdict.passed else 'Not passed'}: {verdict.subject}",
            "",
            *(f"- {line}" for line in _facts(verdict)),
            "",
            "## Checks",
            "",
            _table(_CHECKS, _check_rows(verdict)),
            "",
            "## Against the FP32 reference and the tips that followed",
            "",
            f"{found.rows:,} rows that stand for {found.events:,.0f} events; {found.tips:,} with a tip.",
            "",
            _table(_RANKINGS, _ranking_rows(verdict)),
            "",
            _table(_FLIPS, _flip_rows(verdict)),
            "",
            f"|dp| {found.max_change:.2g} at most, 99 % below {found.p99_change:.2g}. The expected amount is off by "
            f"{found.value_change:.2%} at the 99th percentile.",
            "",
            "## Speed",
            "",
            _table(_SPEEDS, _speed_rows(verdict)),
            "",
            "## Energy",
            "",
            *(f"{line}" for line in energy_lines(verdict)),
            "",
        ]
    )


def page(verdict: Verdict) -> str:
    """Tell it as a page."""
    found = verdict.accuracy
    failed = len(verdict.failed)
    first = verdict.speeds[0].timings
    typical = min(first, key=lambda timing: abs(timing.size - _TYPICAL))
    tiles = [
        ("Verdict", "failed" if failed else "passed", f"{failed} of {len(verdict.checks)} checks failed"),
        ("PR-AUC", f"{found.candidate.pr_auc:.4f}", f"reference {found.reference.pr_auc:.4f}"),
        ("Other tier", f"{found.flipped:.3%}", "of all events"),
        ("Largest change", f"{found.max_change:.2g}", f"99 % below {found.p99_change:.2g}"),
        ("p99 of a call", f"{typical.p99_us:,.0f} us", f"{typical.size} rows in, scores out"),
        ("Scores a second", f"{max(each.per_second for each in first):,.0f}", "at the best size"),
    ]
    if verdict.energy is not None:
        tiles.append(("Energy", f"{verdict.energy.joules_per_1000:.3g} J", "for 1,000 scores under full load"))
    rankings = [found.reference, found.candidate]
    parts = [
        html.tiles(tiles),
        html.section(
            "Checks", "docs/engines.md has the reason of each limit.", html.table(_CHECKS, _check_rows(verdict))
        ),
        html.section(
            "Against the FP32 reference",
            f"{found.rows:,} recorded rows that stand for {found.events:,.0f} events, {found.tips:,} of them with a "
            "tip. A line that lies on the other is as it should be.",
            html.plots(
                ("Calibration", "share of events with a tip against mean score", _reliability(rankings)),
                (
                    "How far a probability moved",
                    "rows by |dp|; the leftmost bar did not move at all",
                    _changes(verdict),
                ),
            ),
            html.table(_RANKINGS, _ranking_rows(verdict)),
            html.table(_FLIPS, _flip_rows(verdict)),
        ),
        html.section(
            "Speed",
            "Rows in, scores out, taken in turns; dashed: the median.",
            html.plots(
                ("Latency", "99th percentile of a call, microseconds", _latency(verdict.speeds)),
                ("Throughput", "scores a second, in thousands", _throughput(verdict.speeds)),
            ),
            html.table(_SPEEDS, _speed_rows(verdict)),
        ),
        html.section("Energy", " ".join(energy_lines(verdict))),
    ]
    title = f"{'Passed' if verdict.passed else 'Not passed'}: {verdict.subject}"
    return html.document(title, " · ".join(_facts(verdict)), parts)


def _facts(verdict: Verdict) -> list[str]:
    return [
        f"judged {verdict.judged} on {verdict.machine}",
        f"traffic: {verdict.traffic}",
        f"serving: {verdict.against or 'nothing yet'}",
    ]


def _check_rows(verdict: Verdict) -> Rows:
    return [(check.name, check.found, check.limit, "passed" if check.passed else "FAILED") for check in verdict.checks]


def _ranking_rows(verdict: Verdict) -> Rows:
    found = verdict.accuracy
    return [
        (
            ranking.name,
            f"{ranking.pr_auc:.5f}",
            f"{ranking.auc:.5f}",
            f"{ranking.recall_at_1pct:.4f}",
            f"{ranking.mean_over_base:.4f}",
            f"{ranking.calibration_error:.4f}",
        )
        for ranking in (found.reference, found.candidate, found.serving)
        if ranking is not None
    ]


def _flip_rows(verdict: Verdict) -> Rows:
    return [
        (flip.tier, f"{flip.at_least:.4g}", f"{flip.rose:.4%}", f"{flip.fell:.4%}") for flip in verdict.accuracy.flips
    ]


def _speed_rows(verdict: Verdict) -> Rows:
    sizes = [timing.size for timing in verdict.speeds[0].timings]
    return [
        (f"{size:,}", speed.name, f"{timing.p50_us:,.1f}", f"{timing.p99_us:,.1f}", f"{timing.per_second:,.0f}")
        for size in sizes
        for speed in verdict.speeds
        for timing in speed.timings
        if timing.size == size
    ]


def energy_lines(verdict: Verdict) -> list[str]:
    """Tell what scoring cost, a sentence a line."""
    energy = verdict.energy
    if energy is None:
        return [f"Not measured: {verdict.energy_note.removesuffix('.')}."]
    return [
        f"{energy.joules_per_1000:.3g} J for 1,000 scores in batches of {energy.size} under full load "
        f"({energy.per_second:,.0f} scores/s at {energy.busy_w:.0f} W, idle {energy.idle_w:.0f} W), of which "
        f"{energy.marginal_joules_per_1000:.3g} J are above idling.",
        f"At {_AT_RATE:,} scores/s that is {energy.watts_at(_AT_RATE):.0f} W, nearly all of it the idle device.",
        f"{energy.grams_per_million:.3g} gCO2e for a million scores at full load, with {energy.grid_g_per_kwh:.0f} "
        f"g/kWh and a PUE of {energy.pue:.2f}.",
        _method(energy),
    ]


def _method(energy: Energy) -> str:
    return (
        f"{energy.counter}, {energy.windows} windows of {energy.seconds:.0f} s; they differ by {energy.spread:.1%}. "
        "The sensor itself is off by some 5 %, and the host's power is not in it."
    )


def _reliability(rankings: Sequence[Ranking]) -> Plot:
    top = max(max(each.predicted, each.observed) for ranking in rankings for each in ranking.reliability)
    high = min(1.0, 10 ** float(np.ceil(np.log10(max(top, 1e-4)))))
    plot = Plot(
        Axis("mean score", _LOWEST, high, log=True, percent=True), Axis("with a tip", _LOWEST, high, True, True)
    )
    plot.line([(_LOWEST, _LOWEST), (high, high)], "guide")
    marks: tuple[Series, ...] = ("a", "b")
    for ranking, series in zip(rankings, marks, strict=False):
        points = [(each.predicted, each.observed) for each in ranking.reliability]
        plot.line(points, series, ranking.name)
        plot.dots(points, series)
    return plot


def _changes(verdict: Verdict) -> Plot:
    low, high = 1e-8, 1.0
    edges = [low, *verdict.accuracy.change_edges[1:]]
    counts = verdict.accuracy.change_counts
    plot = Plot(Axis("|dp|", low, high, log=True), Axis("rows", 0, max(1, *counts)))
    plot.bars(edges, counts, "b")
    return plot


def _latency(speeds: Sequence[Speed]) -> Plot:
    values = [value for speed in speeds for each in speed.timings for value in (each.p50_us, each.p99_us)]
    plot = Plot(_sizes(speeds), Axis("microseconds", *_decades(values), log=True))
    for speed, series in zip(speeds, _series(speeds), strict=True):
        plot.line([(each.size, each.p50_us) for each in speed.timings], "guide")
        plot.line([(each.size, each.p99_us) for each in speed.timings], series, speed.name)
        plot.dots([(each.size, each.p99_us) for each in speed.timings], series)
    return plot


def _throughput(speeds: Sequence[Speed]) -> Plot:
    lines = [[(float(each.size), each.per_second / 1000) for each in speed.timings] for speed in speeds]
    plot = Plot(_sizes(speeds), Axis("thousand scores/s", *_decades([y for line in lines for _, y in line]), log=True))
    for speed, line, series in zip(speeds, lines, _series(speeds), strict=True):
        plot.line(line, series, speed.name)
        plot.dots(line, series)
    return plot


def _series(speeds: Sequence[Speed]) -> tuple[Series, ...]:
    marks: tuple[Series, ...] = ("b", "a", "guide")
    return marks[: len(speeds)]


def _sizes(speeds: Sequence[Speed]) -> Axis:
    sizes = [timing.size for speed in speeds for timing in speed.timings]
    return Axis("rows a batch", min(sizes), max(*sizes, 2 * min(sizes)), log=True)


def _decades(values: Sequence[float]) -> tuple[float, float]:
    low, high = max(min(values), 1e-3), max(values)
    return 10 ** float(np.floor(np.log10(low))), 10 ** float(np.ceil(np.log10(high * 1.001)))


def _table(head: Sequence[str], rows: Rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
