"""The features' share of an event: from its bytes to its line of the feature matrix, and from its rows to bytes again.

CPU time of this process, not the clock on the wall, so that other work on the machine matters less.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from features.engine import Batch, FeatureEngine
from features.events import BADGES, Event, decode, encode

EVENTS = 40_000
ROUNDS = {8: 1_000, 256: 70}
BROKER_MS = 1_800_000_000_000


class Wire(NamedTuple):
    """A batch as it comes out of Kafka."""

    values: list[bytes]
    keys: list[bytes]


@cache
def stream(traffic: str) -> list[Event]:
    """Return simulated events, 5 ms apart: by Zipf viewers with a room that they mostly watch, or all by one viewer."""
    rng = np.random.default_rng(1)
    viewers = np.minimum(rng.zipf(1.2, EVENTS), 200_000) if traffic == "zipf" else np.ones(EVENTS, np.int64)
    away = np.where(rng.random(EVENTS) < 0.1, rng.integers(0, 2_000, EVENTS), 0)
    kinds = rng.choice(
        ["heartbeat", "comment", "like", "gift_panel_open", "gift"], EVENTS, p=[0.5, 0.35, 0.1, 0.02, 0.03]
    )
    events = []
    for i, (viewer, kind) in enumerate(zip(viewers.tolist(), kinds.tolist(), strict=True)):
        room = viewer * 7919 % 2_000 + int(away[i] if traffic == "zipf" else 0)
        at = 1_700_000_000_000 + 5 * i
        event = Event(f"{i:032x}", kind, at, f"room-{room}", f"streamer-{room}", f"viewer-{viewer}")
        event.session_id, event.platform, event.region = f"session-{viewer}", "android", "de"
        event.badges, event.fan_level = BADGES[: i % 3] or None, i % 20
        if kind == "heartbeat":
            event.watch_ms = 15_000
        elif kind == "comment":
            event.text_len = i % 60
        elif kind == "like":
            event.count = 1 + i % 9
        elif kind == "gift":
            event.gift_tx_id, event.gift_id, event.coin_type, event.amount_minor = f"tx-{i}", "rose", "paid", 100
        events.append(event)
    return events


def wires(traffic: str, size: int) -> Iterator[Wire]:
    events = stream(traffic)
    for start in range(0, len(events) - size + 1, size):
        batch = events[start : start + size]
        yield Wire([encode(event) for event in batch], [(event.viewer_id or "").encode() for event in batch])


def score(engine: FeatureEngine, wire: Wire) -> Batch:
    """Do what the service does with a batch on its way to the model, the store's answers excepted."""
    events = decode(wire.values, wire.keys).events
    batch = engine.prepare(events, [0] * len(events), [BROKER_MS] * len(events))
    engine.admit(batch.missing, [None] * len(batch.missing))
    engine.compute(batch)
    return batch


def warm_engine(traffic: str) -> FeatureEngine:
    """Return an engine that has seen the first half of the events."""
    engine = FeatureEngine()
    engine.open(0)
    for count, wire in enumerate(wires(traffic, 256), start=1):
        score(engine, wire)
        if count * 256 >= EVENTS // 2:
            break
    return engine


def second_half(traffic: str, size: int) -> Iterator[Wire]:
    return iter(list(wires(traffic, size))[EVENTS // 2 // size + 1 :])


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("size", [8, 256])
@pytest.mark.parametrize("traffic", ["zipf", "one hot key"])
def test_decode_to_features(benchmark: Any, traffic: str, size: int) -> None:
    engine = warm_engine(traffic)
    left = second_half(traffic, size)
    benchmark.pedantic(score, setup=lambda: ((engine, next(left)), {}), rounds=ROUNDS[size])
    report(benchmark, "us_per_event", size)


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("size", [8, 256])
def test_rows_to_bytes(benchmark: Any, size: int) -> None:
    engine = warm_engine("zipf")
    left = second_half("zipf", size)
    changed: list[int] = []

    def setup() -> tuple[tuple[Batch], dict[str, Any]]:
        batch = score(engine, next(left))
        changed.append(sum(len(slots) for slots in batch.changed))
        return (batch,), {}

    benchmark.pedantic(engine.changes, setup=setup, rounds=ROUNDS[size])
    report(benchmark, "us_per_row", float(np.median(changed)))


def report(benchmark: Any, name: str, units: float) -> None:
    benchmark.extra_info[name] = round(benchmark.stats.stats.median / units * 1e6, 2)
    print(f"  {name.replace('_', ' ')}: {benchmark.extra_info[name]}")
