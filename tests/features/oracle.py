"""What the features are, the slow and obvious way: lists of what happened, added up anew for every event.

It shares no code with the kernel: only the names and the order of the columns, and the order of the event types.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.catalogue import FEATURES
from features.events import EVENT_TYPES, ROOM_LEVEL, Event
from tests.features.ledger import Fact, Gift, Pair, Past, Room, Viewer

# window -> (width of a bucket in ms, buckets): the current bucket and those before it
WINDOWS: Final = {
    "10s": (10_000, 1),
    "1m": (10_000, 6),
    "5m": (60_000, 5),
    "1h": (300_000, 12),
    "24h": (7_200_000, 12),
    "7d": (86_400_000, 7),
    "60d": (432_000_000, 12),
}
RINGS: Final = {10_000: 6, 60_000: 5, 300_000: 12}  # those that a room, and a viewer's lateness, know
LATE, CLAMPED, UNMATCHED, COLD_START = 1, 2, 4, 8
NEVER: Final = 40.0
KIND: Final = {
    "comment": "comments", "like": "social", "follow": "social", "share": "social", "gift_panel_open": "intent",
    "recharge": "intent", "gift": "tips", "paid_chat": "tips", "subscribe": "subs",
}  # fmt: skip


@dataclass
class Line:
    """What the engine should say about one event."""

    features: NDArray[np.float32]
    history: NDArray[np.float32]
    status: int
    flags: int


def lg(n: int) -> float:
    e = (n + 1).bit_length() - 1
    return float(Fraction(e) + Fraction(n + 1, 2**e) - 1)


def age(now: int, times: list[int]) -> float:
    if not times:
        return NEVER
    return lg(min(now - max(times), 2**40 - 2))


def window(facts: list[Fact], kind: str, span: str, now: int) -> int:
    width, buckets = WINDOWS[span]
    return add(kind, [fact for fact in facts if 0 <= now // width - fact.time // width < buckets])


def add(kind: str, facts: list[Fact]) -> int:
    return sum(fact.minor if kind == "minor" else fact.n for fact in facts if kind in ("minor", fact.kind))


def recent(entity: str, tipped: list[bool]) -> dict[str, float]:
    """What the last 64 visits say, given whether each visit so far brought a tip."""
    out: dict[str, float] = {}
    last = tipped[-64:]
    for name, over, under in (("recent4", 3, 4), ("recent12", 11, 12)):
        weight, some, everything = 1 << 32, 0, 0
        for had in reversed(last):
            some, everything = some + had * weight, everything + weight
            weight = weight * over // under
        out[f"{entity}_visits_tipped_{name}"] = some / everything if everything else 0.0
    out[f"{entity}_visits_since_tip"] = lg(last[::-1].index(True) if any(last) else 64)
    return out


class Oracle:
    """The features of events given one by one, over any number of partitions."""

    def __init__(self) -> None:
        self.viewers: dict[tuple[int, str], Viewer] = {}
        self.rooms: dict[tuple[int, str], Room] = {}
        self.others: dict[tuple[int, str], list[Room]] = {}

    def see(self, event: Event, partition: int, broker_ms: int, *, look: bool = True) -> Line:
        """Take an event in. Without `look` no features are worked out, which is what takes time: they are zero."""
        time, flags = event.event_time_ms, 0
        if broker_ms > 0 and time > broker_ms + 2000:
            time, flags = broker_ms + 2000, CLAMPED
        if event.type == "erase":
            self.viewers.pop((partition, event.viewer_id or ""), None)
            return self._nothing(0, flags)
        room = self.rooms.setdefault((partition, event.room_id), Room())
        if event.type in ROOM_LEVEL:
            self._observe(room, event, time)
            return self._nothing(0, flags)
        viewer = self.viewers.setdefault((partition, event.viewer_id or ""), Viewer())
        if event.event_id in viewer.ids[-32:]:
            return self._nothing(1, flags)
        if not viewer.ids:
            flags |= COLD_START
        pair = viewer.pairs.get(event.streamer_id)
        viewer_before = list(viewer.times.get("events", []))
        pair_before = list(pair.event_times) if pair else []
        if event.type == "gift_reversal":
            if pair is None or not self._take_back(viewer, pair, room, event):
                flags |= UNMATCHED
            else:
                self._remember(viewer, pair, event, time)
        else:
            viewer.clock = max(viewer.clock, time)
            room.clock = max(room.clock, time)
            if pair is None:
                pair = viewer.pairs[event.streamer_id] = Pair(len(viewer.pairs) + 1, time)
                room.facts.append(Fact(time, "newcomers", 1))
            pair.clock = viewer.clock
            self._act(viewer, pair, room, event, time)
            self._remember(viewer, pair, event, time)
            if any(viewer.clock // width - time // width >= slots for width, slots in RINGS.items()):
                flags |= LATE
        if not look:
            return self._nothing(0, flags)
        values = {
            **self._viewer(viewer, viewer_before),
            **self._pair(pair, pair_before),
            **self._room(room, self.others.get((partition, event.room_id), [])),
            **self._event(event, time),
        }
        line = [values[feature.name] for feature in FEATURES]
        history = self._history(viewer, pair, event.streamer_id)
        return Line(np.array(line, np.float64).astype(np.float32), history, 0, flags)

    def _nothing(self, status: int, flags: int) -> Line:
        return Line(np.zeros(len(FEATURES), np.float32), np.zeros((32, 8), np.float32), status, flags)

    def _observe(self, room: Room, event: Event, time: int) -> None:
        room.clock = max(room.clock, time)
        room.seen.append(time)
        if event.type == "raid":
            room.raids.append((time, event.viewers or 0))
        if event.type == "room_stats" and event.online is not None:
            room.online.append((time, event.online))

    def _act(self, viewer: Viewer, pair: Pair, room: Room, event: Event, time: int) -> None:
        viewer.first = viewer.first or time
        room.seen.append(time)
        if pair.room != event.room_id or not pair.visits:
            pair.room = event.room_id
            pair.visit_start = time
            pair.visits.append([])
            viewer.visits.append((pair, len(pair.visits)))
            self._add(viewer, pair, room, Fact(time, "visits", 1))
        self._add(viewer, pair, room, Fact(time, "events", 1))
        viewer.times.setdefault("events", []).append(time)
        pair.event_times.append(time)
        kind = KIND.get(event.type)
        if event.type == "gift" and event.coin_type != "paid":
            kind = "free"
            key = (event.combo_id and f"combo {event.combo_id}") or f"tx {event.gift_tx_id}"
            if key != pair.free_key:
                self._add(viewer, pair, None, Fact(time, "free", 1))
            pair.free_key = key
        elif kind == "tips":
            if self._tip(viewer, pair, room, event, time):
                kind = None
        elif kind == "social":
            self._add(viewer, pair, room, Fact(time, kind, 1 if event.count is None else event.count))
        elif kind is not None:
            self._add(viewer, pair, room, Fact(time, kind, 1))
        if kind is not None:
            viewer.times.setdefault(kind, []).append(time)
        if kind == "subs":
            pair.sub_times.append(time)

    def _tip(self, viewer: Viewer, pair: Pair, room: Room, event: Event, time: int) -> bool:
        """Take a tip in; return True if it is a later frame of one that is remembered."""
        key = f"combo {event.combo_id}" if event.combo_id else f"tx {event.gift_tx_id}" if event.gift_tx_id else ""
        minor = event.amount_minor or 0
        for gift in pair.gifts[-8:]:
            if key and gift.key == key and gift.room == event.room_id:
                if not gift.reversed:
                    gift.tx = event.gift_tx_id or ""
                    if minor > gift.minor:
                        self._amend(viewer, pair, room, event, gift, 0, minor - gift.minor)
                        gift.minor = minor
                return True
        self._add(viewer, pair, room, Fact(time, "tips", 1, minor))
        pair.tip_times.append((len(pair.visits), time))
        room.tips.append(time)
        if key:
            pair.gifts.append(Gift(key, event.gift_tx_id or "", event.room_id, len(pair.visits), minor, time))
        return False

    def _take_back(self, viewer: Viewer, pair: Pair, room: Room, event: Event) -> bool:
        for gift in reversed(pair.gifts[-8:]):
            if gift.tx == event.gift_tx_id and not gift.reversed:
                pair.clock = viewer.clock
                self._amend(viewer, pair, room, event, gift, -1, -gift.minor)
                gift.reversed = True
                return True
        return False

    def _amend(self, viewer: Viewer, pair: Pair, room: Room, event: Event, gift: Gift, n: int, minor: int) -> None:
        fact = Fact(gift.time, "tips", n, minor)
        viewer.facts.append(fact)
        pair.facts.append(fact)
        if gift.room == event.room_id:
            room.facts.append(fact)
        if gift.visit == len(pair.visits):
            self._add_visit(pair, fact)

    def _add(self, viewer: Viewer, pair: Pair, room: Room | None, fact: Fact) -> None:
        viewer.facts.append(fact)
        pair.facts.append(fact)
        self._add_visit(pair, fact)
        if room is not None:
            room.facts.append(fact)

    def _add_visit(self, pair: Pair, fact: Fact) -> None:
        visit = pair.visits[-1]
        visit.append(fact)
        if add("tips", visit) > 0:
            pair.visits_tipped.add(len(pair.visits))
        else:
            pair.visits_tipped.discard(len(pair.visits))

    def _remember(self, viewer: Viewer, pair: Pair, event: Event, time: int) -> None:
        free = event.type == "gift" and event.coin_type != "paid"
        code = len(EVENT_TYPES) + 1 if free else EVENT_TYPES.index(event.type) + 1
        size = event.text_len or 0 if event.type == "comment" else 1 if event.count is None else event.count
        tip = event.type == "paid_chat" or (event.type == "gift" and not free)
        minor = event.amount_minor or 0
        viewer.past.append(Past(code, time, minor, size, tip, event.streamer_id, len(pair.visits)))
        viewer.ids.append(event.event_id)

    def _history(self, viewer: Viewer, pair: Pair | None, streamer: str) -> NDArray[np.float32]:
        out = np.zeros((32, 8), np.float32)
        lines = viewer.past[-32:]
        for i, past in enumerate(reversed(lines)):
            older = lines[len(lines) - 2 - i] if i + 1 < len(lines) else None
            same = past.streamer == streamer
            out[i] = (
                past.code,
                lg(min(max(viewer.clock - past.time, 0), 2**40 - 2)),
                NEVER if older is None else lg(max(past.time - older.time, 0)),
                lg(past.minor),
                lg(past.size),
                past.tip,
                same and pair is not None and past.visit == len(pair.visits),
                same,
            )
        return out

    def _viewer(self, viewer: Viewer, before: list[int]) -> dict[str, float]:
        now, facts = viewer.clock, viewer.facts
        tipped = sum(len(pair.visits_tipped) for pair in viewer.pairs.values())
        visits = sum(len(pair.visits) for pair in viewer.pairs.values())
        kinds = ("events", "comments", "social", "intent", "tips", "minor", "subs", "free", "visits")
        out = {f"viewer_{span}_{kind}": lg(window(facts, kind, span, now)) for span in WINDOWS for kind in kinds}
        out |= {f"viewer_total_{kind}": lg(add(kind, facts)) for kind in kinds}
        out |= {f"viewer_age_{kind}": age(now, viewer.times.get(kind, [])) for kind in kinds}
        out["viewer_age_events"] = age(now, before)
        out["viewer_age_first"] = age(now, [viewer.first] if viewer.first else [])
        out["viewer_streamers"] = lg(len(viewer.pairs))
        out["viewer_visits_tipped"] = lg(tipped)
        out["viewer_visits_tipped_share"] = tipped / visits if visits else 0.0
        out |= recent("viewer", [number in pair.visits_tipped for pair, number in viewer.visits])
        tips = add("tips", facts)
        out["viewer_tips_per_visit_tipped"] = tips / tipped if tipped else 0.0
        return out

    def _pair(self, pair: Pair | None, before: list[int]) -> dict[str, float]:
        held = pair or Pair(0, 0)
        now = held.clock
        visit = held.visits[-1] if held.visits else []
        kinds = ("events", "comments", "social", "intent", "tips", "minor", "subs", "visits")
        out = {f"pair_{span}_{kind}": lg(window(held.facts, kind, span, now)) for span in WINDOWS for kind in kinds}
        out |= {f"pair_total_{kind}": lg(add(kind, held.facts)) for kind in kinds}
        out |= {f"pair_visit_{kind}": lg(add(kind, visit)) for kind in kinds}
        out["pair_age_events"] = age(now, before)
        out["pair_age_first"] = age(now, [held.first] if pair else [])
        out["pair_age_tips"] = age(now, [time for _, time in held.tip_times])
        out["pair_age_subs"] = age(now, held.sub_times)
        out["pair_visits_tipped"] = lg(len(held.visits_tipped))
        out["pair_visits_tipped_share"] = len(held.visits_tipped) / len(held.visits) if held.visits else 0.0
        out |= recent("pair", [number in held.visits_tipped for number in range(1, len(held.visits) + 1)])
        tipped = len(held.visits_tipped)
        out["pair_tips_per_visit_tipped"] = add("tips", held.facts) / tipped if tipped else 0.0
        out["pair_visit_age_start"] = age(now, [held.visit_start] if pair else [])
        out["pair_visit_age_tip"] = age(now, [time for number, time in held.tip_times if number == len(held.visits)])
        return out

    def _room(self, room: Room, others: list[Room]) -> dict[str, float]:
        now = room.clock
        clock = max((other.clock for other in others), default=0)
        kinds = ("events", "comments", "social", "intent", "tips", "minor", "subs", "newcomers", "visits")
        out: dict[str, float] = {}
        for span in ("10s", "1m", "5m", "1h"):
            width = WINDOWS[span][0]
            facts = room.facts + [
                fact
                for other in others
                for fact in other.facts
                if clock // width - fact.time // width < RINGS[width]  # still in their ring
            ]
            out |= {f"room_{span}_{kind}": lg(window(facts, kind, span, now)) for kind in kinds}
        rooms = [room, *others]
        everything = [fact for each in rooms for fact in each.facts]
        out |= {f"room_total_{kind}": lg(add(kind, everything)) for kind in kinds}
        seen = [time for each in rooms for time in each.seen]
        out["room_age_first"] = NEVER if not seen else lg(max(now - min(seen), 0))
        out["room_age_tip"] = age(now, [min(time, now) for each in rooms for time in each.tips])
        out["room_age_raid"] = age(now, [min(time, now) for each in rooms for time, _ in each.raids])
        out["room_raid_size"] = lg(newest([raid for each in rooms for raid in each.raids]))
        out["room_online"] = lg(newest([stats for each in rooms for stats in each.online]))
        return out

    def _event(self, event: Event, time: int) -> dict[str, float]:
        kind = event.type
        paid = event.coin_type == "paid"
        angle = 2 * math.pi * (time // 900_000 % 96) / 96
        names = ("subscriber", "supporter", "premium", "moderator", "broadcaster")
        return {
            "event_is_presence": kind in ("enter", "leave", "heartbeat"),
            "event_is_comment": kind == "comment",
            "event_is_social": kind in ("like", "follow", "share"),
            "event_is_intent": kind in ("gift_panel_open", "recharge"),
            "event_is_tip": kind == "paid_chat" or (kind == "gift" and paid),
            "event_is_sub": kind == "subscribe",
            "event_is_free_gift": kind == "gift" and not paid,
            "event_minor": lg(event.amount_minor or 0),
            "event_text_len": lg(event.text_len or 0),
            "event_count": lg(1 if event.count is None else event.count),
            "event_fan_level": lg(event.fan_level or 0),
            "event_watch_ms": lg(event.watch_ms or 0),
            **{f"event_badge_{name}": name in (event.badges or ()) for name in names},
            "hour_sine": round(math.sin(angle), 6) + 0.0,  # no negative zero
            "hour_cosine": round(math.cos(angle), 6) + 0.0,
        }


def newest(pairs: list[tuple[int, int]]) -> int:
    """Return the value with the latest time; of several, the one that came last."""
    best = (0, 0)
    for time, value in pairs:
        if time >= best[0]:
            best = (time, value)
    return best[1]
