"""The table that a benchmark run prints: ratios to the pass-through loop, and what they should reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from rich.console import Group
from rich.table import Table

Figures = dict[str, Any]

QUIET_CORES: Final = 0.1  # use by others that leaves the figures worth keeping


class Goal(NamedTuple):
    """One line of the table of goals."""

    what: str
    value: Callable[[Figures, Figures], float | None]  # of the scorer's figures and the pass-through's
    unit: str
    reach: float
    aim: float
    higher: bool = False  # whether more is better


GOALS: Final = (
    Goal("event -> score, p99 / pass-through's", lambda s, p: p99(s) / p99(p), "x", 2, 1.25),
    Goal("event -> score, p99", lambda s, _: p99(s), "ms", 30, 15),
    Goal("CPU per event / pass-through's", lambda s, p: cpu(s) / cpu(p), "x", 2, 1.4),
    Goal("backlog drain", lambda s, _: s["drain"]["events_per_s"], "/s", 15_000, 30_000, higher=True),
    Goal("CPU per event while draining", lambda s, _: s["drain"]["cpu_us_per_event"], "µs", 40, 22),
    Goal("Redis calls a batch, partitions together", lambda s, _: redis_calls(s), "", 1, 1),
)  # fmt: skip


def p99(figures: Figures) -> float:
    """Event -> score at the reader under steady load, ms."""
    return float(figures["steady"]["p99_ms"])


def redis_calls(figures: Figures) -> float | None:
    """Redis calls under steady load for each batch, over all its partitions; None when the process does not say."""
    calls: float | None = figures["steady"]["own"].get("redis_calls_per_batch")
    return calls


def cpu(figures: Figures) -> float:
    """CPU per event under steady load, µs."""
    return float(figures["steady"]["cpu_us_per_event"])


def render(figures: dict[str, Figures]) -> Group:
    """Lay out what was measured and, when the scorer was, how it stands to the goals."""
    tables: list[Table | str] = [measured(figures)]
    if "scorer" in figures:
        tables.append(goals(figures["scorer"], figures["pass-through"]))
    foreign = max(subject["steady"]["cores"]["others"] for subject in figures.values())
    if foreign > QUIET_CORES:
        tables.append(f"[bold]Other work on this machine took {foreign:.1f} cores: these figures are not clean.[/bold]")
    return Group(*tables)


def measured(figures: dict[str, Figures]) -> Table:
    """One column a subject."""
    table = Table("measured", *figures)
    for label, phase, names, form in (
        ("event -> score at a reader, p50 / p99 / p99.9 ms", "steady", ("p50_ms", "p99_ms", "p999_ms"), "{:.1f}"),
        ("event -> ack as it says itself, ms", "own", ("p50_ms", "p99_ms", "p999_ms"), "{:.1f}"),
        ("records a batch", "own", ("batch_records",), "{:.1f}"),
        ("scores / events offered", "steady", ("scores_per_offered",), "{:.4f}"),
        ("CPU per event, µs", "steady", ("cpu_us_per_event",), "{:.1f}"),
        ("cores: process / kafka / redis / foreign", "cores", ("process", "kafka", "redis", "others"), "{:.2f}"),
        ("drain, events/s", "drain", ("events_per_s",), "{:,.0f}"),
        ("CPU per event while draining, µs", "drain", ("cpu_us_per_event",), "{:.1f}"),
    ):
        cells = []
        for subject in figures.values():
            values = subject[phase] if phase in subject else subject["steady"][phase]
            cells.append(" / ".join(shown(values.get(name), form) for name in names))
        table.add_row(label, *cells)
    return table


def goals(scorer: Figures, floor: Figures) -> Table:
    """One line a goal."""
    table = Table("goal", "seen", "reach", "aim", "")
    for goal in GOALS:
        value = goal.value(scorer, floor)
        table.add_row(
            goal.what, shown(value, "{:,.2f} " + goal.unit), f"{goal.reach:,g}", f"{goal.aim:,g}", verdict(goal, value)
        )
    return table


def verdict(goal: Goal, value: float | None) -> str:
    """Say where a value stands."""
    if value is None:
        return "not measured"
    sign = -1.0 if goal.higher else 1.0
    if sign * value <= sign * goal.aim:
        return "aim met"
    return "reached" if sign * value <= sign * goal.reach else "[bold]missed[/bold]"


def shown(value: float | None, form: str) -> str:
    """Format a figure, a dash when there is none."""
    return "-" if value is None else form.format(value).strip()
