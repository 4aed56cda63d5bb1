"""Events and scores for the demo's tests."""

from __future__ import annotations

import itertools

from features.events import Event
from scorer.contracts import Score

START_MS = 1_735_758_000_000
_numbers = itertools.count()


def event(type_: str, at_s: float, viewer: str = "v1", room: str = "r1", **fields: object) -> Event:
    """Give an event `at_s` seconds after the start."""
    made = Event(f"e{next(_numbers)}", type_, START_MS + round(at_s * 1000), room, f"s-{room}", viewer)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def gift(at_s: float, tx: str, viewer: str = "v1", room: str = "r1", **fields: object) -> Event:
    """Give a paid gift."""
    return event("gift", at_s, viewer, room, **{"gift_tx_id": tx, "amount_minor": 5, "coin_type": "paid", **fields})


def score(
    at_s: float, p: float = 0.1, viewer: str = "v1", room: str = "r1", tier: str = "high", type_: str = "comment"
) -> Score:
    """Give the score of an event `at_s` seconds after the start: half of `p` within 60 s, `p` within 600 s."""
    at_ms = START_MS + round(at_s * 1000)
    return Score(
        event_id=f"e{next(_numbers)}",
        type=type_,
        viewer_id=viewer,
        room_id=room,
        streamer_id=f"s-{room}",
        event_time_ms=at_ms,
        scored_time_ms=at_ms,
        expires_at_ms=at_ms + 60_000,
        p_tip={"60": p / 2, "600": p},
        expected_value_minor=1,
        tier=tier,
        cold_start=False,
        mode="full",
        model="m:1",
        engine="cpu",
        features="feedfeedfeedfeed",
        arm="default",
        latency_us={},
    )
