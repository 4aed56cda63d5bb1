"""Everything that a simulation keeps, and the list of what just happened in it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.simulate import hazard
from replay.simulate.audience import Audience
from replay.simulate.population import ELSEWHERE, Population
from replay.simulate.rooms import Rooms
from replay.simulate.rows import Rows, rows
from replay.simulate.traffic import Traffic


class World:
    """The people, the rooms, who watches what; one generator of chance for all, so that order decides everything."""

    def __init__(self, traffic: Traffic) -> None:
        """Draw the world as the run finds it, with nobody watching yet."""
        self.traffic = traffic
        self.rng = np.random.default_rng(traffic.seed)
        self.people = Population(traffic, self.rng)
        self.rooms = Rooms(traffic, self.rng)
        self.audience = Audience()
        self._made: list[Rows] = []
        self._visits: list[NDArray[np.intp] | None] = []  # for each part of `_made`: positions in the audience

    def emit(self, kind: str, at: NDArray[np.intp], time_ms: NDArray[np.int64], **columns: Any) -> None:
        """Note one event of a type for each visit in `at`."""
        if len(at):
            self.note(rows(len(at), kind, time_ms=time_ms, **self.who(at), **columns), at)

    def note(self, made: Rows, at: NDArray[np.intp] | None = None) -> None:
        """Note rows, and the visit that each belongs to (None for room-level events)."""
        if len(made):
            self._made.append(made)
            self._visits.append(at)

    def who(self, at: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
        """Return the columns that say who and where, for visits."""
        seats, people = self.audience, self.people
        viewer, slot = seats.viewer[at], seats.slot[at].astype(np.intp)
        known = slot < ELSEWHERE
        fan = np.minimum(people.tips[viewer, slot] + people.visits[viewer, slot] // 4, 50)
        return {
            "viewer": viewer,
            "streamer": seats.streamer[at],
            "broadcast": seats.broadcast[at],
            "visit": seats.visit[at],
            "badges": people.badges(viewer, slot),
            "fan": np.where(known, fan, 0),
            "platform": people.platform[viewer],
            "region": people.region[viewer],
        }

    def state(self, at: NDArray[np.intp] | slice, now_ms: int) -> hazard.State:
        """Return what the visits' next tips hang on."""
        seats, streamer = self.audience, self.audience.streamer[at]
        return hazard.State(
            desire=seats.desire[at],
            occasion=self.rooms.occasion(now_ms).astype(np.float32)[streamer],
            excited=self.rooms.excited().astype(np.float32)[streamer],
            age_s=np.maximum((now_ms - seats.enter_ms[at]).astype(np.float32) / 1000, 0),
            heat=seats.heat[at],
            warm=seats.warm[at],
            talk=seats.talk[at],
            open=seats.panel_ms[at] > 0,
        )

    def tell(self, now_ms: int) -> None:
        """Write the true chance of a tip, as of now, into what was noted."""
        parts = [(made, at) for made, at in zip(self._made, self._visits, strict=True) if at is not None]
        if not parts:
            return
        chance = hazard.chance(self.state(np.concatenate([at for _, at in parts]), now_ms))
        ends = np.cumsum([len(made) for made, _ in parts])
        for (made, _), own in zip(parts, np.split(chance, ends[:-1]), strict=True):
            made["p"] = own

    def take(self) -> Rows:
        """Return what was noted since the last call."""
        made = np.concatenate(self._made or [rows(0, "enter")])
        self._made, self._visits = [], []
        return made
