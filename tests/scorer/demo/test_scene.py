"""What the demo shows when there is nothing to be had."""

from __future__ import annotations

from pathlib import Path

from scorer.config import Config, Server
from scorer.demo.gauges import NOTHING
from scorer.demo.scene import Scene
from scorer.demo.stack import Stack
from scorer.ports import free_port


async def test_a_scorer_that_does_not_answer_leaves_the_figures_as_they_were(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    stack.config = Config(server=Server(port=free_port()))
    scene = Scene(stack, 60)
    await scene.measure()
    assert scene.gauges.whole is NOTHING
    assert not scene.rates
