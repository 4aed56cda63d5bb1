"""Seeded records for the events topic, ordinary ones and those that make trouble: one seed, one stream."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from features.events import Event, encode

_HOUR_MS = 3_600_000
_SKEWS_MS = (-1_500, -70_000, -_HOUR_MS, -2 * 24 * _HOUR_MS, -90 * 24 * _HOUR_MS, 1_500, 5_000, _HOUR_MS, 10**12)
_POISON = (
    None,
    b"",
    b"not an event",
    b"\xff\xfe",
    b"[" * 15_000,
    b'{"event_id":"e","type":"comment","event_time_ms":NaN,"room_id":"r","streamer_id":"s","viewer_id":"v"}',
    b'{"event_id":"e","type":"comment","event_time_ms":1e999,"room_id":"r","streamer_id":"s","viewer_id":"v"}',
    b'{"event_id":"e","type":"gift","event_time_ms":1,"room_id":"r","streamer_id":"s","viewer_id":"v","x":'
    + b"[" * 5_000,
    b'{"event_id":"e","type":"comment","event_time_ms":1,"room_id":"r","streamer_id":"s","viewer_id":"v","badges":['
    + b'"x",' * 5_000
    + b'"x"]}',
    b"x" * 900_000,
)


class Produced(NamedTuple):
    """One record to be written."""

    partition: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True)
class Shape:
    """What traffic is like; shares are of all events."""

    viewers: int = 8_000
    rooms: int = 12
    hot: float = 0.0
    """Share that comes from one viewer."""
    newcomers: float = 0.01
    """Share that comes from viewers never seen before."""
    skewed: float = 0.01
    """Share with a clock that is wrong, by a second and a half or by thirty years."""
    poison: float = 0.005
    """Share that is no event."""
    mixed_rooms: bool = False
    """Rooms are watched from every partition; else from one, which makes every score a function of its partition."""


class Traffic:
    """An endless stream. `start_ms` is when the first event happens (Unix time); then comes one every `step_ms`."""

    def __init__(self, shape: Shape, *, partitions: int, seed: int, start_ms: int, step_ms: float = 2.5) -> None:
        self._shape = shape
        self._partitions = partitions
        self._rng = random.Random(seed)
        self._start_ms = start_ms
        self._step_ms = step_ms
        self._count = 0

    def __iter__(self) -> Iterator[Produced]:
        return self

    def __next__(self) -> Produced:
        shape, rng = self._shape, self._rng
        self._count += 1
        number, time_ms = self._count, self._start_ms + int(self._count * self._step_ms)
        if rng.random() < shape.skewed:
            time_ms = max(1, time_ms + rng.choice(_SKEWS_MS))
        if rng.random() < 0.02:
            number -= 1  # the id of the one before: a repeat, if it is the same viewer's
        kinds = ("comment", "heartbeat", "like", "gift", "enter", "gift_reversal", "room_stats", "erase", "hologram")
        kind = rng.choices(kinds, (10, 8, 3, 3, 2, 0.5, 1, 0.2, 0.1))[0]
        viewer = self._viewer()
        partition = viewer % self._partitions
        room = rng.randrange(shape.rooms)
        if not shape.mixed_rooms:
            room -= (room - partition) % self._partitions
            room %= shape.rooms
        event = Event(f"e{number}", kind, time_ms, f"r{room}", f"s{room % 7}")
        if kind == "room_stats":
            event.online = rng.randrange(1_000)
            return Produced(room % self._partitions, None, encode(event))
        event.viewer_id = f"v{viewer}"
        if kind == "comment":
            event.text_len = rng.randrange(80)
        elif kind in ("gift", "gift_reversal"):
            event.gift_tx_id = f"tx{number - rng.randrange(3) * (kind == 'gift_reversal')}"
            event.amount_minor, event.coin_type = rng.choice((100, 500, 9_900)), rng.choice(("paid", "paid", "free"))
        key = event.viewer_id.encode()
        if rng.random() < shape.poison:
            return Produced(partition, key, rng.choice(_POISON))
        return Produced(partition, key, encode(event))

    def _viewer(self) -> int:
        rng, shape = self._rng, self._shape
        draw = rng.random()
        if draw < shape.hot:
            return 0
        if draw < shape.hot + shape.newcomers:
            return 1_000_000 + self._count
        if draw < 0.6:  # half of them are about at all times, the others come and go
            return rng.randrange(shape.viewers)
        return min(int(rng.paretovariate(0.6)), 300)
