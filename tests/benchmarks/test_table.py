"""The table says where every figure stands to its goal."""

from __future__ import annotations

import pytest
from rich.console import Console

from tests.benchmarks.run import typical
from tests.benchmarks.table import GOALS, Figures, render, verdict

FLOOR: Figures = {
    "steady": {
        "p50_ms": 4.0,
        "p99_ms": 10.0,
        "cpu_us_per_event": 50.0,
        "cores": {"process": 0.5, "others": 0.05},
        "own": {},
    },
    "drain": {"events_per_s": 40_000.0, "cpu_us_per_event": 20.0},
}
SCORER: Figures = {
    "steady": {
        "p50_ms": 5.0,
        "p99_ms": 12.0,
        "cpu_us_per_event": 90.0,
        "cores": {"process": 0.9, "others": 0.7},
        "own": {"redis_calls_per_batch": 1.0},
    },
    "drain": {"events_per_s": 10_000.0, "cpu_us_per_event": 30.0},
}


def printed(figures: dict[str, Figures]) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(render(figures))
    return capture.get()


def test_goals_are_judged() -> None:
    assert [verdict(goal, goal.value(SCORER, FLOOR)) for goal in GOALS] == [
        "aim met", "aim met", "reached", "[bold]missed[/bold]", "reached", "aim met",
    ]  # fmt: skip
    text = printed({"pass-through": FLOOR, "scorer": SCORER})
    assert "1.20 x" in text
    assert "missed" in text


def test_the_floor_alone_has_no_goals() -> None:
    assert "reach" not in printed({"pass-through": FLOOR})


def test_a_busy_machine_is_said_to_be_one() -> None:
    assert "not clean" not in printed({"pass-through": FLOOR})
    assert "Other work on this machine took 0.7 cores" in printed({"pass-through": FLOOR, "scorer": SCORER})


@pytest.mark.parametrize(("value", "said"), [(None, "not measured"), (31_000, "aim met"), (15_000, "reached")])
def test_more_may_be_better(value: float | None, said: str) -> None:
    assert verdict(GOALS[3], value) == said


def test_rounds_are_summed_up_by_their_medians() -> None:
    rounds: list[Figures] = [{"a": x, "b": {"c": x}, "d": None} for x in (1.0, 9.0, 2.0)]
    assert typical(rounds) == {"a": 2.0, "b": {"c": 2.0}, "d": None}
