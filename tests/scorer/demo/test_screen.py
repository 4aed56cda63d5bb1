"""The live view and the summary at the sizes of terminals that people have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from scorer.demo.gauges import read
from scorer.demo.scene import Scene
from scorer.demo.screen import Screen
from scorer.demo.stack import Stack
from scorer.demo.summary import summary
from scorer.metrics import BatchStats, Metrics
from tests.scorer.demo.made import event, gift, score


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Give one with a little of everything."""
    scene = Scene(Stack(tmp_path), 60)
    metrics = Metrics()
    scene.gauges.add(read(metrics.render().decode(), at=1.0))
    stages = {"decode": 0.0001, "load": 0.0002, "features": 0.0003, "inference": 0.002, "publish": 0.004}
    for _ in range(100):
        metrics.observe(
            BatchStats(
                consumed=20,
                scored=19,
                state_only=1,
                wait=np.full(19, 0.003),
                latency=np.full(19, 0.011),
                stages=stages,  # type: ignore[arg-type]
            )
        )
    scene.gauges.add(read(metrics.render().decode(), at=2.0))
    scene.rates.extend([1_900, 2_000])
    scores = [score(at, 0.9 / (1 + n), f"viewer-{n}", f"room-{n % 9}") for n in range(40) for at in (0, 1_000)]
    scene.outcomes.see_scores([*scores, *(score(0, 0.01, f"w{n}", tier="low") for n in range(1_000))])
    scene.outcomes.see_events([gift(5, "t", "viewer-0", "room-0"), event("comment", 700)])
    scene.outcomes.judge()
    scene.board.see_scores(scores)
    return scene


def drawn(scene: Scene, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, force_terminal=True, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(Screen(scene))
    return capture.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60)])
def test_it_fits(scene: Scene, width: int, height: int) -> None:
    lines = drawn(scene, width, height)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)


def test_a_small_terminal_shows_whole_figures(scene: Scene) -> None:
    text = "\n".join(drawn(scene, 80, 24))
    assert "…" not in text.replace("viewer-", "").replace("room-", "")
    for figure in ("2,000", "11.", "100.0 %", "TIME SPENT", "PREDICTED", "HOT ROOMS", "LIKELIEST", "x"):
        assert figure in text
    assert "high" in text
    assert "low" in text


def test_a_tall_terminal_shows_more_people(scene: Scene) -> None:
    assert sum("viewer-" in line for line in drawn(scene, 120, 40)) > sum(
        "viewer-" in line for line in drawn(scene, 120, 24)
    )


def test_nothing_yet(tmp_path: Path) -> None:
    empty = Scene(Stack(tmp_path), 60)
    assert "Waiting for the first scores." in "\n".join(drawn(empty, 80, 24))
    empty.outcomes.see_scores([score(0)])
    empty.outcomes.see_events([event("comment", 60)])
    assert "First answers in 10 s." in "\n".join(drawn(empty, 80, 24))


def test_the_summary_accounts_for_everything(scene: Scene) -> None:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(summary(scene))
    text = " ".join(capture.get().split())
    assert "2,000 events, each accounted for: 1,900 scored, 100 for the state only." in text
    assert "100.00 % within 50 ms" in text
    assert "10 minutes" in text
