"""Coming and going: who enters which room, how long they stay, whom a raid takes along."""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.simulate import behaviour
from replay.simulate.population import ELSEWHERE
from replay.simulate.rows import SOURCES
from replay.simulate.world import World

Viewers = NDArray[np.int32]
Times = NDArray[np.int64]
_BROWSED: Final = np.array([SOURCES.index(name) for name in ("feed", "search", "share")])
_BROWSED_SHARE: Final = [0.80, 0.15, 0.05]


class _Party(NamedTuple):
    """Viewers who follow a raid, all at one time."""

    time_ms: int
    streamer: int
    viewers: Viewers


class Doors:
    """Lets viewers in and out."""

    def __init__(self, world: World) -> None:
        """Seat those who watch when the run starts."""
        traffic = world.traffic
        self._world = world
        self._visits = 0
        self._parties: list[_Party] = []
        run_ms = np.linspace(traffic.start_ms, traffic.start_ms + traffic.duration_s * 1000, 1_441)
        busy = behaviour.daily(run_ms, traffic.diurnal).mean()
        self._watching = traffic.watching / float(busy)  # times `daily`: viewers who watch
        self._seat_first()

    def arrive(self, start_ms: int, end_ms: int) -> None:
        """Let in who comes by habit or browsing, to broadcasts that open, and with raids."""
        world, rng, rooms = self._world, self._world.rng, self._world.rooms
        per_s = self._watching / (behaviour.MEAN_VIEW_S * behaviour.CUT_SHORT)
        usual = per_s * float(behaviour.daily(start_ms, world.traffic.diurnal)) * (end_ms - start_ms) / 1000
        if rooms.live.any():
            viewer = self._draw(rng.poisson(usual))
            self._enter(viewer, self._choose(viewer), start_ms, end_ms)
        rush = usual * rooms.rush(start_ms)
        crowd = self._draw(rng.poisson(rush.sum()))
        if len(crowd):
            opened = np.searchsorted(np.cumsum(rush), rng.random(len(crowd)) * rush.sum(), side="right")
            self._enter(crowd, opened, start_ms, end_ms)
        for party in [party for party in self._parties if party.time_ms < end_ms]:
            self._parties.remove(party)
            if rooms.live[party.streamer]:
                self._enter(self._absent(party.viewers), party.streamer, start_ms, end_ms, source="raid")

    def leave(self, end_ms: int) -> None:
        """Let out those whose time has come."""
        world, seats = self._world, self._world.audience
        at = np.flatnonzero(seats.leave_ms < end_ms)
        world.emit("leave", at, seats.leave_ms[at], span_ms=seats.leave_ms[at] - seats.enter_ms[at])
        world.people.present[seats.viewer[at]] = False
        np.subtract.at(world.rooms.online, seats.streamer[at], 1)
        seats.end(at)

    def raid(self, room: int, now_ms: int, end_ms: int) -> None:
        """Lead part of the audience of a broadcast that ends to another one, within a minute."""
        seats, rng, rooms = self._world.audience, self._world.rng, self._world.rooms
        crowd = seats.viewer[(seats.streamer == room) & (seats.leave_ms < end_ms)]
        crowd = crowd[rng.random(len(crowd)) < behaviour.RAID_FOLLOW]
        if rng.random() > behaviour.RAID_CHANCE or len(crowd) < 2 or not rooms.live.any():
            return
        target = rooms.raid(len(crowd), now_ms, rng)
        self._world.note(target.rows)
        wait_s = 2 + np.minimum(rng.exponential(12.0, len(crowd)), 58).astype(np.int64)
        self._parties += [
            _Party(now_ms + 1000 * wait, target.streamer, crowd[wait_s == wait]) for wait in np.unique(wait_s).tolist()
        ]

    def _seat_first(self) -> None:
        """Fill the rooms. Of the views under way at a moment, long ones are the most."""
        world, rng, start_ms = self._world, self._world.rng, self._world.traffic.start_ms
        n = rng.poisson(self._watching * float(behaviour.daily(start_ms, world.traffic.diurnal)))
        viewer = self._draw(n)
        n = len(viewer)
        lengths = behaviour.view_s((np.arange(20_000) + 0.5) / 20_000)
        length_ms = 1000 * rng.choice(lengths, n, p=lengths / lengths.sum())
        age_ms = length_ms * rng.random(n)
        streamer = self._choose(viewer)
        enter_ms = np.maximum(start_ms - age_ms, world.rooms.since_ms[streamer] + 1).astype(np.int64)
        at = self._seat(viewer, streamer, enter_ms, (start_ms + length_ms - age_ms).astype(np.int64))
        beat_ms = 1000 * world.traffic.heartbeat_s * rng.random(n)
        world.audience.beat_ms[at] = start_ms + beat_ms.astype(np.int64)

    def _enter(
        self, viewer: Viewers, room: NDArray[Any] | int, start_ms: int, end_ms: int, source: str | None = None
    ) -> None:
        world, rng, n = self._world, self._world.rng, len(viewer)
        streamer = np.full(n, room, np.int32)
        enter_ms = np.maximum(rng.integers(start_ms, end_ms, n), world.rooms.since_ms[streamer] + 1)
        leave_ms = enter_ms + (1000 * behaviour.view_s(rng.random(n))).astype(np.int64)
        at = self._seat(viewer, streamer, enter_ms, leave_ms)
        if source is None:
            follows = world.people.follows[viewer, world.audience.slot[at]] & (rng.random(n) < 0.6)
            came = np.where(follows, SOURCES.index("follow"), rng.choice(_BROWSED, n, p=_BROWSED_SHARE))
        else:
            came = np.full(n, SOURCES.index(source))
        world.emit("enter", at, enter_ms, source=came)

    def _seat(self, viewer: Viewers, streamer: NDArray[np.int32], enter_ms: Times, leave_ms: Times) -> NDArray[np.intp]:
        """Begin visits of viewers who are marked as present; returns their positions in the audience."""
        people, rooms, rng, n = self._world.people, self._world.rooms, self._world.rng, len(viewer)
        traffic = self._world.traffic
        slot = people.slot(viewer, streamer)
        past = np.where(slot < ELSEWHERE, np.minimum(people.tips[viewer, slot], behaviour.LOYALTY_CAP), 0)
        people.visits[viewer, slot] = np.minimum(people.visits[viewer, slot], 60_000) + 1
        mood = rng.lognormal(-(behaviour.MOOD**2) / 2, behaviour.MOOD, n)
        desire = behaviour.NOMINAL_TIPS * traffic.tips * mood * people.spender[viewer] * rooms.charm[streamer]
        desire *= behaviour.AFFINITY[slot] * (1 + behaviour.LOYALTY * past)
        desire *= np.where(people.subscribed[viewer, slot], behaviour.SUBSCRIBER, 1.0)
        talk = people.talk[viewer] * rng.lognormal(0.0, 0.3, n)
        visit = np.arange(self._visits, self._visits + n)
        self._visits += n
        np.add.at(rooms.online, streamer, 1)
        return self._world.audience.add(
            viewer=viewer,
            streamer=streamer,
            broadcast=rooms.broadcast[streamer],
            slot=slot,
            visit=visit,
            enter_ms=enter_ms,
            leave_ms=np.minimum(np.maximum(leave_ms, enter_ms + 200), rooms.until_ms[streamer] - 1),
            beat_ms=enter_ms + round(1000 * traffic.heartbeat_s),
            desire=desire,
            talk=talk,
            fond=people.fond[viewer],
        )

    def _draw(self, n: int) -> Viewers:
        """Draw about n viewers by activity and mark them present; for whoever already is, somebody drawn evenly."""
        people, rng = self._world.people, self._world.rng
        drawn = self._absent(people.draw(n, rng))
        return np.concatenate([drawn, self._absent(rng.integers(0, people.size, n - len(drawn)))])

    def _absent(self, viewer: NDArray[Any]) -> Viewers:
        """Return those of the viewers who were not present, once each, and mark them present."""
        _, first = np.unique(viewer, return_index=True)
        viewer = viewer[np.sort(first)].astype(np.int32)
        viewer = viewer[~self._world.people.present[viewer]]
        self._world.people.present[viewer] = True
        return viewer

    def _choose(self, viewer: Viewers) -> NDArray[np.int32]:
        """Pick a live streamer for each viewer: a favourite if one is live, else anybody by popularity."""
        rng, rooms = self._world.rng, self._world.rooms
        pick = np.searchsorted(np.cumsum(behaviour.FAVOURITE_SHARE), rng.random(len(viewer)), side="right")
        streamer = self._world.people.favourites[viewer, np.minimum(pick, behaviour.FAVOURITES - 1)]
        browse = (pick == behaviour.FAVOURITES) | ~rooms.live[streamer]
        streamer[browse] = rooms.draw(int(browse.sum()), rng)
        return streamer
