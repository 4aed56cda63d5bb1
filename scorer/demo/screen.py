"""The live view: one screen of a terminal, from 80 x 24 up."""

from __future__ import annotations

from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scorer.demo.gauges import STAGES
from scorer.demo.scene import Scene
from scorer.demo.stack import SPEED
from scorer.demo.words import UNKNOWN, curve, milliseconds, minutes, percent, span

BUDGET_S: Final = 0.050
_RECENT_S: Final = 600  # of event time, in which a room's tips are counted
_TOP_ROWS: Final = 16  # above the two lists
_MOST_ROWS: Final = 16
_BAR_WIDTH: Final = 6
_ACT_WIDTH: Final = 12
_NAMES: Final = {
    "wait": "wait in Kafka",
    "decode": "decode",
    "load": "load rows",
    "features": "features",
    "inference": "inference",
    "publish": "publish",
    "latency": "event to score",
}


class Screen:
    """A scene, drawn to the size of the terminal."""

    def __init__(self, scene: Scene) -> None:
        """Drawing does not change the scene."""
        self._scene = scene

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give the whole screen."""
        height = options.height or console.size.height
        rows = max(3, min(_MOST_ROWS, height - _TOP_ROWS - 2))
        yield Group(
            self._title(),
            ProgressBar(total=self._scene.seconds, completed=self._scene.elapsed, complete_style="cyan"),
            Text(),
            self._figures(options.max_width),
            Text(),
            _beside(self._stages(), predictions(self._scene)),
            Text(),
            _beside(self._rooms(rows), self._viewers(rows)),
        )

    def _title(self) -> RenderableType:
        line = Table.grid(expand=True)
        line.add_column()
        line.add_column(justify="right")
        left = Text.assemble(("tipstream", "bold cyan"), ("  simulated traffic, ", "dim"), (f"{SPEED} times", ""))
        left.append(" faster than life", "dim")
        line.add_row(left, Text(f"{minutes(self._scene.elapsed)} of {minutes(self._scene.seconds)}", "dim"))
        return line

    def _figures(self, width: int) -> RenderableType:
        gauges = self._scene.gauges
        recent, latency = gauges.recent, gauges.recent.histogram("latency")
        p50, p99 = latency.quantile(0.5), latency.quantile(0.99)
        scored = sum(recent.outcomes.get(mode, 0) for mode in ("scored", "fallback", "prior", "shed"))
        full = recent.outcomes.get("scored", 0) / scored if scored else None
        batch = recent.histogram("batch").mean()
        cells = [
            (f"{gauges.rate:,.0f}", "", f"events/s {curve(self._scene.rates, width // 6 - 10)}"),
            (f"{milliseconds(p50)} ms", _verdict(p50), "p50"),
            (f"{milliseconds(p99)} ms", _verdict(p99), "p99"),
            (percent(latency.share_within(BUDGET_S)), "", f"within {BUDGET_S * 1000:.0f} ms"),
            (UNKNOWN if batch is None else f"{batch:.1f}", "", "batch size"),
            (percent(full), "", "full model"),
        ]
        line = Table.grid(expand=True)
        for _ in cells:
            line.add_column(ratio=1, no_wrap=True)
        line.add_row(*(Text(number, f"bold {style}") for number, style, _ in cells))
        line.add_row(*(Text(name, "dim") for _, _, name in cells))
        return line

    def _stages(self) -> RenderableType:
        recent = self._scene.gauges.recent
        table = _table("TIME SPENT", "p50 ms", "p99 ms", "")
        table.columns[-1].justify = "left"
        table.columns[-1].min_width = _BAR_WIDTH
        longest = max((recent.histogram(name).quantile(0.99) or 0.0 for name in STAGES), default=0.0)
        for name in STAGES:
            p50, p99 = (recent.histogram(name).quantile(q) for q in (0.5, 0.99))
            table.add_row(_NAMES[name], milliseconds(p50), milliseconds(p99), _bar(p50, p99, longest))
        p50, p99 = (recent.histogram("latency").quantile(q) for q in (0.5, 0.99))
        table.add_row(*(Text(cell, "bold") for cell in (_NAMES["latency"], milliseconds(p50), milliseconds(p99))), "")
        return table

    def _rooms(self, rows: int) -> RenderableType:
        tips = self._scene.outcomes.tips_by_room(_RECENT_S)
        table = _table("HOT ROOMS", "watching", "expected", "tips")
        for room in self._scene.board.hottest(rows):
            came = tips[room.room_id]
            table.add_row(
                room.room_id, f"{room.watching:,}", f"{room.expected:.1f}", Text(str(came), "bold" if came else "dim")
            )
        return table

    def _viewers(self, rows: int) -> RenderableType:
        table = _table("LIKELIEST", "room", "1 min", "10 min", "")
        table.columns[-1].justify = "left"
        table.columns[-1].min_width = _ACT_WIDTH
        for viewer in self._scene.board.likeliest(rows):
            p_tip = sorted(viewer.score.p_tip.values())
            cells = (viewer.score.room_id, percent(p_tip[0]), Text(percent(p_tip[-1]), "bold"))
            table.add_row(viewer.score.viewer_id, *cells, Text(viewer.act, "dim"))
        return table


def predictions(scene: Scene) -> RenderableType:
    """Draw what scores promised beside what followed, by tier, the likeliest first."""
    outcomes = scene.outcomes
    table = _table("PREDICTED", "scores", "foretold", "followed", "lift")
    for name, judged in sorted(outcomes.tiers.items(), key=lambda item: -item[1].predicted_share):
        lift = outcomes.lift(name)
        shares = (percent(judged.predicted_share, 2), Text(percent(judged.followed_share, 2), "bold"))
        table.add_row(name, f"{judged.scores:,}", *shares, UNKNOWN if lift is None else f"{lift:.1f}x")
    horizon = span(outcomes.horizon_s or _RECENT_S)
    if outcomes.all.scores:
        note = f"a tip within {horizon}; tips so far: {outcomes.tips:,}"
    elif (due_s := outcomes.due_s()) is not None:
        note = f"Do tips follow within {horizon}?\nFirst answers in {due_s / SPEED:.0f} s."
    else:
        note = "Waiting for the first scores."
    return Group(table, Text(note, "dim"))


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), expand=True, header_style="dim", pad_edge=False)
    table.add_column(Text(title, "cyan"), no_wrap=True, ratio=1)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _beside(left: RenderableType, right: RenderableType) -> RenderableType:
    grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
    grid.add_column(ratio=37)
    grid.add_column(ratio=43)
    grid.add_row(left, right)
    return grid


def _bar(p50: float | None, p99: float | None, longest: float) -> Text:
    """Draw p50 bright and up to p99 dim, where `longest` fills the width."""
    bright, whole = (round(_BAR_WIDTH * (value or 0.0) / (longest or 1.0)) for value in (p50, p99))
    return Text.assemble(("━" * bright, "cyan"), ("━" * (whole - bright), "bright_black"))


def _verdict(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return "green" if seconds <= BUDGET_S / 2 else "yellow" if seconds <= BUDGET_S else "red"
