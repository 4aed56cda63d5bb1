"""What viewers do while they watch."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from replay.simulate import behaviour, gifts, hazard
from replay.simulate.population import ELSEWHERE
from replay.simulate.rows import COIN, rows
from replay.simulate.world import World

At = NDArray[np.intp]
Times = NDArray[np.int64]
CALM: Final = behaviour.FOLLOW + behaviour.UNFOLLOW + behaviour.SHARE + behaviour.FREE_GIFT
_RECHARGES: Final = np.array([100, 500, 1_000, 2_000, 5_000, 10_000])
_RECHARGE_SHARE: Final = [0.30, 0.30, 0.20, 0.10, 0.07, 0.03]
_SUBSCRIPTION: Final = 499


class Acts:
    """Lets viewers act."""

    def __init__(self, world: World) -> None:
        """Nothing is done yet."""
        self._world = world
        self._gifts = 0  # transactions so far
        self._does = (
            (behaviour.FOLLOW, self._follow),
            (behaviour.UNFOLLOW, self._unfollow),
            (behaviour.SHARE, self._share),
            (behaviour.FREE_GIFT, self._free_gift),
        )

    def act(self, start_ms: int, end_ms: int) -> None:
        """Let each visit do at most one thing: a step is short against the time between a viewer's acts."""
        world, seats, rng = self._world, self._world.audience, self._world.rng
        passed_s = (end_ms - start_ms) / 1000
        seats.heat *= np.float32(np.exp(-passed_s / behaviour.HEAT_FADE_S))
        seats.warm *= np.float32(np.exp(-passed_s / behaviour.WARM_FADE_S))
        state = world.state(slice(None), start_ms)
        tempted = hazard.rates(state)
        unexcited = np.bincount(seats.streamer, tempted.tip / state.excited, world.rooms.size)
        world.rooms.expect(unexcited, passed_s)
        calm = np.where(seats.active, seats.talk + seats.fond + np.float32(CALM), 0)
        since_ms, till_ms = np.maximum(seats.enter_ms, start_ms), np.minimum(seats.leave_ms, end_ms)
        seconds = (till_ms - since_ms).astype(np.float32) / 1000
        total = calm + tempted.tip + tempted.panel + tempted.recharge + tempted.subscribe
        at = np.flatnonzero(rng.random(len(seats), np.float32) < -np.expm1(-total * seconds))
        if not len(at):
            return
        time_ms = since_ms[at] + (rng.random(len(at)) * (till_ms - since_ms)[at]).astype(np.int64)
        choices = (
            *((np.full(len(at), rate), do) for rate, do in self._does),
            (seats.talk[at], self._comment),
            (seats.fond[at], self._like),
            (tempted.panel[at], self._open_panel),
            (tempted.recharge[at], self._recharge),
            (tempted.subscribe[at], self._subscribe),
            (tempted.tip[at], self._tip),
        )
        bounds = np.cumsum([rate for rate, _ in choices], axis=0)
        choice = (rng.random(len(at)) * bounds[-1] >= bounds).sum(axis=0)
        for i, (_, do) in enumerate(choices):
            chosen = choice == i
            if chosen.any():
                do(at[chosen], time_ms[chosen])

    def beat(self, end_ms: int) -> None:
        """Send the heartbeats that are due."""
        seats = self._world.audience
        at = np.flatnonzero(seats.beat_ms < np.minimum(end_ms, seats.leave_ms))
        beat_ms = seats.beat_ms[at]
        self._world.emit("heartbeat", at, beat_ms, span_ms=beat_ms - seats.enter_ms[at])
        seats.beat_ms[at] += round(1000 * self._world.traffic.heartbeat_s)

    def close_panels(self, end_ms: int) -> None:
        """Close the panels that have been open long enough."""
        seats = self._world.audience
        at = np.flatnonzero((seats.panel_ms > 0) & (seats.panel_ms < np.minimum(end_ms, seats.leave_ms)))
        self._world.emit("gift_panel_close", at, seats.panel_ms[at])
        seats.panel_ms[at] = 0

    def _comment(self, at: At, time_ms: Times) -> None:
        self._world.audience.heat[at] += 1
        length = np.minimum(self._world.rng.lognormal(3.0, 0.9, len(at)).astype(np.int64) + 1, 500)
        self._world.emit("comment", at, time_ms, count=length)

    def _like(self, at: At, time_ms: Times) -> None:
        count = np.minimum(self._world.rng.geometric(0.15, len(at)), 100)
        self._world.emit("like", at, time_ms, count=count)

    def _share(self, at: At, time_ms: Times) -> None:
        self._world.emit("share", at, time_ms)

    def _follow(self, at: At, time_ms: Times) -> None:
        self._set_follow("follow", True, at, time_ms)

    def _unfollow(self, at: At, time_ms: Times) -> None:
        self._set_follow("unfollow", False, at, time_ms)

    def _set_follow(self, kind: str, follows: bool, at: At, time_ms: Times) -> None:
        pair = self._world.audience.viewer[at], self._world.audience.slot[at]
        change = self._world.people.follows[pair] != follows
        self._world.people.follows[pair] = follows
        self._world.emit(kind, at[change], time_ms[change])

    def _free_gift(self, at: At, time_ms: Times) -> None:
        coin = np.where(self._world.rng.random(len(at)) < 0.6, COIN["free"], COIN["bag"])
        count = self._world.rng.geometric(0.4, len(at))
        gift = np.arange(self._gifts, self._gifts + len(at))
        self._gifts += len(at)
        self._world.emit("gift", at, time_ms, count=count, amount=count, coin=coin, gift=gift)

    def _open_panel(self, at: At, time_ms: Times) -> None:
        shown_ms = 1 + (1000 * self._world.rng.exponential(behaviour.PANEL_S, len(at))).astype(np.int64)
        self._world.audience.panel_ms[at] = time_ms + shown_ms
        self._world.emit("gift_panel_open", at, time_ms)

    def _recharge(self, at: At, time_ms: Times) -> None:
        self._world.audience.warm[at] = 1
        amount = self._world.rng.choice(_RECHARGES, len(at), p=_RECHARGE_SHARE)
        self._world.emit("recharge", at, time_ms, amount=amount)

    def _subscribe(self, at: At, time_ms: Times) -> None:
        people, seats = self._world.people, self._world.audience
        pair = seats.viewer[at], seats.slot[at]
        months = 1 + np.where(people.subscribed[pair], self._world.rng.geometric(0.15, len(at)), 0)
        people.subscribed[pair] |= seats.slot[at] < ELSEWHERE
        self._world.emit("subscribe", at, time_ms, amount=_SUBSCRIPTION, months=months)

    def _tip(self, at: At, time_ms: Times) -> None:
        """Tips are rare, so they are made one by one."""
        world, seats, people, rng = self._world, self._world.audience, self._world.people, self._world.rng
        for seat, when_ms in zip(at, time_ms, strict=True):
            one = np.array([seat])
            head = rows(1, "gift", time_ms=when_ms, **world.who(one))
            tip = gifts.tip(head, self._gifts, float(people.wealth[seats.viewer[seat]]), rng)
            self._gifts += 1
            world.note(tip.rows, np.repeat(one, len(tip.rows)))
            close_ms = np.array([tip.last_ms + rng.integers(500, 3_000)])
            if seats.panel_ms[seat] and rng.random() < behaviour.PANEL_DONE:
                world.emit("gift_panel_close", one, close_ms)
                seats.panel_ms[seat] = 0
            seats.leave_ms[seat] = max(seats.leave_ms[seat], close_ms[0] + 1)
        seats.desire[at] *= np.where(seats.tipped[at], np.float32(1), np.float32(behaviour.REPEAT))
        seats.tipped[at] = True
        pair = seats.viewer[at], seats.slot[at]
        people.tips[pair] = np.minimum(people.tips[pair], 60_000) + 1
        np.add.at(world.rooms.excitement, seats.streamer[at], 1)
