"""The broadcasts: when they are live, what happens in them, how excited they are."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.simulate import behaviour
from replay.simulate.population import zipf
from replay.simulate.rows import ROW, Rows, rows
from replay.simulate.traffic import Traffic


class Change(NamedTuple):
    """What a step of time did to the rooms."""

    rows: Rows
    ended: NDArray[np.intp]  # streamers whose broadcast ended


class Raid(NamedTuple):
    """Where a raid goes."""

    rows: Rows
    streamer: int


class Rooms:
    """Columns over all streamers, (R,): each is live in one broadcast at a time, or pauses."""

    def __init__(self, traffic: Traffic, rng: np.random.Generator) -> None:
        """Draw the streamers in the middle of their days."""
        n = traffic.streamers
        self.size = n
        rank = np.arange(1, n + 1)
        self.popularity = rank**-traffic.room_skew / (rank**-traffic.room_skew).sum()
        self.charm = rng.lognormal(0.0, behaviour.CHARM, n).astype(np.float32)
        self.live = rng.random(n) < behaviour.LIVE_SHARE
        self.live[0] = True  # the most popular: a run never starts with nobody to watch
        length_ms = _broadcast_ms(n, rng)
        self.since_ms = traffic.start_ms - (length_ms * rng.random(n)).astype(np.int64)
        self.until_ms = np.where(self.live, self.since_ms + length_ms, traffic.start_ms + _pause_ms(n, rng))
        self.broadcast = np.zeros(n, np.int64)
        self.excitement = np.zeros(n)
        self.pk_until_ms = np.zeros(n, np.int64)
        self.stats_ms = traffic.start_ms + (rng.random(n) * behaviour.STATS_S * 1000).astype(np.int64)
        self.online = np.zeros(n, np.int64)
        self._unexcited = np.zeros(n)  # tips to expect within the fade without excitement, a running mean

    def step(self, start_ms: int, end_ms: int, rng: np.random.Generator) -> Change:
        """Advance to `end_ms`: broadcasts end and start, battles and packets happen, audiences are told."""
        seconds = (end_ms - start_ms) / 1000
        self.excitement *= np.exp(-seconds / behaviour.EXCITE_FADE_S)
        due = self.until_ms < end_ms
        ended, started = np.flatnonzero(due & self.live), np.flatnonzero(due & ~self.live)
        made = [self._rows("room_end", ended, self.until_ms[ended], span_ms=(self.until_ms - self.since_ms)[ended])]
        self.live[ended] = False
        self.until_ms[ended] += _pause_ms(len(ended), rng)
        self.broadcast[started] += 1
        self.since_ms[started] = self.until_ms[started]
        self.until_ms[started] += _broadcast_ms(len(started), rng)
        self.live[started] = True
        self.excitement[started] = 0
        made.append(self._rows("room_start", started, self.since_ms[started]))
        over = np.flatnonzero((self.pk_until_ms > 0) & (self.pk_until_ms < end_ms))
        made.append(self._rows("pk_end", over[self.live[over]], self.pk_until_ms[over[self.live[over]]]))
        self.pk_until_ms[over] = 0
        luck = rng.random(self.size)
        fights = np.flatnonzero(self.live & (self.pk_until_ms == 0) & (luck < behaviour.PK * seconds))
        span_ms = (1000 * rng.uniform(behaviour.PK_LEAST_S, behaviour.PK_MOST_S, len(fights))).astype(np.int64)
        made.append(self._rows("pk_start", fights, start_ms, span_ms=span_ms))
        self.pk_until_ms[fights] = start_ms + span_ms
        packets = np.flatnonzero(self.live & (luck > 1 - behaviour.RED_PACKET * seconds))
        made.append(self._rows("red_packet", packets, start_ms, span_ms=180_000))
        told = np.flatnonzero(self.live & (self.stats_ms < end_ms))
        made.append(self._rows("room_stats", told, np.maximum(self.stats_ms, start_ms)[told]))
        self.stats_ms[self.stats_ms < end_ms] += int(behaviour.STATS_S * 1000)
        return Change(np.concatenate([part for part in made if len(part)] or [np.empty(0, ROW)]), ended)

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int32]:
        """Draw n live streamers by popularity; at least one must be live."""
        reach = np.cumsum(self.popularity * self.live)
        drawn: NDArray[np.int32] = np.searchsorted(reach, rng.random(n) * reach[-1], side="right").astype(np.int32)
        return drawn

    def rush(self, now_ms: int) -> NDArray[np.float64]:
        """(R,) arrivals that an opening adds, as a multiple of all usual arrivals."""
        age_s = (now_ms - self.since_ms) / 1000
        fresh = self.live & (age_s < 10 * behaviour.RUSH_FADE_S)
        fade = np.exp(-np.maximum(age_s, 0) / behaviour.RUSH_FADE_S)
        return np.where(fresh, self.popularity * behaviour.RUSH * fade, 0.0)

    def excited(self) -> NDArray[np.float64]:
        """(R,) how much likelier the room's recent tips make the next one: 1 is not at all.

        A tip adds the same expected tips to a small room as to a large one, hence the division by what is usual.
        """
        more = behaviour.BRANCHING * self.excitement / np.maximum(self._unexcited, 1e-9)
        return 1 + np.minimum(more, behaviour.EXCITED)

    def expect(self, tips: NDArray[Any], seconds: float) -> None:
        """Learn the (R,) tips per second that the audiences would give without excitement, over the last `seconds`."""
        kept = np.exp(-seconds / behaviour.EXCITE_FADE_S)
        usual = tips * behaviour.EXCITE_FADE_S
        self._unexcited = np.where(self._unexcited > 0, kept * self._unexcited + (1 - kept) * usual, usual)

    def occasion(self, now_ms: int) -> NDArray[np.float64]:
        """(R,) how much likelier than usual the broadcast's age and a battle make a tip."""
        opening = np.interp((now_ms - self.since_ms) / 1000, behaviour.OPENING_S, behaviour.OPENING)
        battle = np.where(self.pk_until_ms > now_ms, behaviour.PK_FACTOR, 1.0)
        factor: NDArray[np.float64] = opening * battle
        return factor

    def raid(self, crowd: int, time_ms: int, rng: np.random.Generator) -> Raid:
        """Choose which live broadcast a crowd of `crowd` viewers goes to; at least one must be live."""
        open_to = np.flatnonzero(self.live)
        target = open_to[zipf(rng.random(1), len(open_to), 0.5)]
        return Raid(self._rows("raid", target, time_ms, count=crowd), int(target[0]))

    def _rows(self, kind: str, who: NDArray[np.intp], time_ms: NDArray[np.int64] | int, **columns: object) -> Rows:
        columns.setdefault("count", self.online[who])
        return rows(len(who), kind, time_ms=time_ms, viewer=-1, streamer=who, broadcast=self.broadcast[who], **columns)


def _broadcast_ms(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    length_s = np.interp(rng.random(n), behaviour.BROADCAST_SHARE, behaviour.BROADCAST_S)
    return np.asarray(1000 * length_s, np.int64)


def _pause_ms(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return (1000 * behaviour.PAUSE_S * rng.exponential(1.0, n)).astype(np.int64) + 60_000
