"""What the demo has shown, on the way out."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.text import Text

from scorer.demo.scene import Scene
from scorer.demo.screen import BUDGET_S, predictions
from scorer.demo.words import milliseconds, percent

_FATES = {
    "scored": "scored",
    "fallback": "scored by a fallback",
    "prior": "scored from tip history alone",
    "shed": "shed",
    "state_only": "for the state only",
    "unknown": "of unknown types",
    "rejected": "rejected",
    "duplicate": "sent twice",
}
_TABLE_WIDTH = 60
_NEXT = """Next: README.md. `tipstream check` and `tipstream serve` do the same on a Kafka and a Redis of yours."""


def summary(scene: Scene) -> RenderableType:
    """Draw it."""
    whole = scene.gauges.whole
    latency = whole.histogram("latency")
    fates = ", ".join(f"{whole.outcomes[name]:,} {words}" for name, words in _FATES.items() if whole.outcomes.get(name))
    within = percent(latency.share_within(BUDGET_S), 2)
    lines = [
        Text.assemble((f"{whole.events:,} events", "bold"), f", each accounted for: {fates}." if fates else "."),
        Text.assemble(
            "From event to acknowledged score: ",
            (f"p50 {milliseconds(latency.quantile(0.5))} ms, p99 {milliseconds(latency.quantile(0.99))} ms", "bold"),
            f"; {within} within {BUDGET_S * 1000:.0f} ms.",
        ),
    ]
    told = Padding(Constrain(predictions(scene), _TABLE_WIDTH), (1, 0))
    return Group(Text(), *lines, told, Text(_NEXT, "dim"))
