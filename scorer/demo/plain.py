"""The live view where no terminal shows it: a line every few seconds."""

from __future__ import annotations

import time
from typing import Final

from rich.console import Console

from scorer.demo.scene import Scene
from scorer.demo.words import milliseconds, minutes, percent

_LINE_S: Final = 5.0


class Plain:
    """A scene, told line by line."""

    def __init__(self, scene: Scene, console: Console) -> None:
        """Nothing is printed yet."""
        self._scene = scene
        self._console = console
        self._told = time.monotonic()

    def draw(self) -> None:
        """Print a line if it is time."""
        if time.monotonic() - self._told < _LINE_S:
            return
        self._told = time.monotonic()
        gauges, outcomes = self._scene.gauges, self._scene.outcomes
        latency = gauges.recent.histogram("latency")
        words = [
            minutes(self._scene.elapsed),
            f"{gauges.rate:,.0f} events/s",
            f"p50 {milliseconds(latency.quantile(0.5))} ms",
            f"p99 {milliseconds(latency.quantile(0.99))} ms",
            f"tips {outcomes.tips:,}",
        ]
        if (judged := outcomes.all).scores:
            shares = percent(judged.predicted_share, 2), percent(judged.followed_share, 2)
            words.append(f"{judged.scores:,} scores judged: foretold {shares[0]}, followed {shares[1]}")
        self._console.print("  ".join(words), soft_wrap=True)
