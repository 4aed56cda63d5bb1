"""Events for the load: encoded once, then stamped with a time and an id of their own each time they are sent."""

from __future__ import annotations

import argparse
import importlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, cast

from features.events import Event, encode
from replay.simulate import Traffic, simulate

VIEWERS: Final = 50_000
ROOMS: Final = 400
PROBE: Final = "probe-"  # ids of events that only ask whether the measured process is awake
SKEW: Final = 1.1  # Zipf exponent of rooms, and of viewers where they are Zipf
MIX: Final = {  # share of each type, per cent
    "heartbeat": 36,
    "comment": 30,
    "like": 20,
    "enter": 4,
    "leave": 4,
    "gift_panel_open": 2,
    "gift": 2,
    "follow": 1,
    "share": 1,
}


class Template(NamedTuple):
    """An event whose id and time are still to come."""

    key: bytes | None
    scored: bool  # whether a score will answer it
    rest: bytes  # what follows the time

    def stamped(self, intended_ns: int, prefix: str = "") -> bytes:
        """Give the event as it is sent at `intended_ns` (since 1970), which is its time and, in hex, its id."""
        head = prefix.encode(), intended_ns, intended_ns // 1_000_000
        return b'{"event_id":"%b%x","event_time_ms":%d%b' % (*head, self.rest)


def template(event: Event) -> Template:
    """Cut id and time out of an event."""
    text = encode(event)
    head = b'{"event_id":"%b",' % event.event_id.encode()
    time = b',"event_time_ms":%d' % event.event_time_ms
    assert text.startswith(head), "ids of benchmark events need no escapes"
    assert text.count(time) == 1
    rest = b"," + text[len(head) :].replace(time, b"")
    key = event.viewer_id.encode() if event.viewer_id else None
    return Template(key, key is not None and event.type != "erase", rest)


def sent_at(event_id: str) -> int:
    """Give the intended time (ns since 1970) that `stamped` wrote into the id."""
    return int(event_id, 16)


def zipf(seed: int) -> Iterator[Event]:
    """Plain traffic without end: Zipf viewers in Zipf rooms; enough for speed, too dull to learn from.

    One viewer in it causes 14 % of the events, and more than one member of a group can bear at high rates.
    """
    return _plain(seed, [1 / (i + 1) ** SKEW for i in range(VIEWERS)])


def crowd(seed: int) -> Iterator[Event]:
    """Plain traffic of viewers as active as those of recorded chat, of whom none does more than a person can.

    Of the tape's messages 1 % of the people wrote 48 %, and 10 % wrote 88 %; here they cause 49 and 88 % of the events.
    """
    return _plain(seed, [1 / (i + 300) ** 1.65 for i in range(VIEWERS)])


def _plain(seed: int, activity: Sequence[float]) -> Iterator[Event]:
    draw = random.Random(seed)
    types, shares = list(MIX), list(MIX.values())
    viewers = draw.choices(range(VIEWERS), weights=activity, k=1 << 16)
    rooms = draw.choices(range(ROOMS), weights=[1 / (i + 1) ** SKEW for i in range(ROOMS)], k=1 << 16)
    gifts = 0
    while True:
        viewer, room = draw.choice(viewers), draw.choice(rooms)
        event = Event(
            event_id="0",
            type=draw.choices(types, shares)[0],
            event_time_ms=1,
            room_id=f"room-{room}-20",
            streamer_id=f"streamer-{room}",
            viewer_id=f"viewer-{viewer:06d}",
            session_id=f"session-{viewer:06d}-{room}",
            platform="android",
            region="SG",
            fan_level=viewer % 20,
        )
        if event.type == "comment":
            event.text_len, event.count = draw.randint(1, 80), 1
        elif event.type == "like":
            event.count = draw.randint(1, 30)
        elif event.type == "heartbeat":
            event.watch_ms = draw.randint(1_000, 30_000)
        elif event.type == "gift":
            gifts += 1
            event.gift_tx_id, event.gift_id = f"tx-{seed}-{gifts}", "rose"
            event.unit_price, event.count, event.amount_minor, event.coin_type = 10, 1, 10, "paid"
        yield event


def simulated(seed: int) -> Iterator[Event]:
    """Simulated traffic, two hours of it: people who come, talk, tip and go."""
    for moment in simulate(Traffic(seed=seed, rate=1_000, duration_s=7_200)):
        yield from moment.events


def source(name: str) -> Callable[[int], Iterable[Event]]:
    """Find what `module:function` names: a function from a seed to events."""
    module, _, function = name.partition(":")
    return cast("Callable[[int], Iterable[Event]]", getattr(importlib.import_module(module), function))


def named(text: str) -> str:
    """Check that a source of this name gives events."""
    try:
        template(next(iter(source(text)(1))))
    except Exception as error:  # whatever its author may have got wrong
        raise argparse.ArgumentTypeError(f"{text!r} gives no events: {error or type(error).__name__}") from None
    return text
