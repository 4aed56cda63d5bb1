"""The simulation: one second of traffic time after the other, everybody at once in NumPy columns."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.events import Event
from replay.simulate.acts import Acts
from replay.simulate.delivery import Delivery
from replay.simulate.doors import Doors
from replay.simulate.rows import events
from replay.simulate.traffic import Traffic
from replay.simulate.world import World

STEP_MS: Final = 1000


class Moment(NamedTuple):
    """The events that arrive within one step of traffic time, in order of arrival."""

    arrive_ms: NDArray[np.int64]
    """(n,) when each reaches Kafka: its event time, or later for late and repeated events."""
    events: list[Event]
    chance: NDArray[np.float32]
    """(n, 2) true chance that its viewer gives a paid gift or paid message within 60 and 600 s after it; NaN for
    room-level events, and for all unless `Traffic.truth`."""


def simulate(traffic: Traffic) -> Iterator[Moment]:
    """Yield the traffic, one non-empty step after the other. Memory stays flat however long it runs."""
    world = World(traffic)
    doors, acts, delivery = Doors(world), Acts(world), Delivery(traffic)
    prefix = f"e{traffic.seed}-"
    last_ms = traffic.start_ms + round(traffic.duration_s * 1000)
    for start_ms in range(traffic.start_ms, last_ms, STEP_MS):
        end_ms = min(start_ms + STEP_MS, last_ms)
        change = world.rooms.step(start_ms, end_ms, world.rng)
        world.note(change.rows)
        for room in change.ended.tolist():
            doors.raid(room, start_ms, end_ms)
        doors.arrive(start_ms, end_ms)
        acts.act(start_ms, end_ms)
        acts.beat(end_ms)
        acts.close_panels(end_ms)
        doors.leave(end_ms)
        if traffic.truth:
            world.tell(end_ms)
        world.audience.sweep()
        batch = delivery.send(world.take(), end_ms, world.rng)
        if len(batch):
            yield Moment(batch["arrive_ms"].copy(), events(batch, prefix), batch["p"].copy())
