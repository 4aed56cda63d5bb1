"""What an hour of simulated traffic shows, counted the way that one would count a recording."""

from collections import Counter, defaultdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.simulate import Traffic, simulate

# Few heartbeats and many small rooms: cheap to simulate, and like the rooms that the published figures are about.
HOUR = Traffic(seed=3, rate=100, heartbeat_s=600, duration_s=3_600, rooms=300, room_skew=0.3, truth=True)


class Seen(NamedTuple):
    """Each event once, duplicates aside."""

    records: int
    duplicates: int
    late: int
    types: Counter[str]
    views_s: NDArray[np.float64]  # lengths of views begun in the first ten minutes, inf if they outlast the hour
    comment_gaps_s: NDArray[np.float64]  # between a viewer's comments in a room
    prices: NDArray[np.int64]  # totals of paid gifts, combos whole
    spend: NDArray[np.int64]  # by viewer who gave
    tips: dict[str, NDArray[np.int64]]  # times by room
    chance: NDArray[np.float64]  # (n, 2) of viewers' events in the first 50 minutes
    came_true: NDArray[np.bool_]  # (n, 2)


def look(traffic: Traffic) -> Seen:
    """Simulate and count."""
    ids: set[str] = set()
    types: Counter[str] = Counter()
    spend: Counter[str] = Counter()
    entered: dict[str | None, float] = {}
    gaps: list[int] = []
    said: dict[tuple[str | None, str], int] = {}
    prices: list[int] = []
    given: dict[tuple[str | None, str], list[int]] = defaultdict(list)
    told: list[tuple[tuple[str | None, str], int, Any]] = []
    records = late = latest = 0
    for moment in simulate(traffic):
        for event, chance in zip(moment.events, moment.chance, strict=True):
            records += 1
            if event.event_id in ids:
                continue
            ids.add(event.event_id)
            types[event.type] += 1
            late += event.event_time_ms < latest
            latest = max(latest, event.event_time_ms)
            pair, time_ms = (event.viewer_id, event.room_id), event.event_time_ms
            if event.viewer_id is not None:
                told.append((pair, time_ms, chance))
            if event.type == "enter" and time_ms < traffic.start_ms + 600_000:
                entered[event.session_id] = np.inf
            elif event.type == "leave" and event.session_id in entered:
                entered[event.session_id] = (event.watch_ms or 0) / 1000
            elif event.type == "comment":
                if pair in said:
                    gaps.append(time_ms - said[pair])
                said[pair] = time_ms
            elif event.coin_type == "paid" or event.type == "paid_chat":
                if event.combo_id is None or event.count == 1:  # a combo is one tip, at its first frame
                    given[pair].append(time_ms)
                if event.type == "gift" and event.combo_end is not False:
                    prices.append(event.amount_minor or 0)
                    spend[str(event.viewer_id)] += event.amount_minor or 0
    end_ms = traffic.start_ms + 1000 * (traffic.duration_s - 600)
    told = [row for row in told if row[1] < end_ms]
    truth = [[_within(given.get(pair), time_ms, horizon) for horizon in (60, 600)] for pair, time_ms, _ in told]
    rooms: dict[str, list[int]] = defaultdict(list)
    for (_, room), times in given.items():
        rooms[room] += times
    return Seen(
        records,
        records - len(ids),
        late,
        types,
        np.array(list(entered.values())),
        np.array(gaps) / 1000,
        np.array(prices),
        np.array(list(spend.values())),
        {room: np.sort(times) for room, times in rooms.items()},
        np.array([chance for *_, chance in told], np.float64),
        np.array(truth),
    )


def _within(times: list[int] | None, since_ms: int, horizon_s: int) -> bool:
    return any(since_ms < time <= since_ms + 1000 * horizon_s for time in times or ())
