"""Where tips are likely now: the latest score of everybody who watches, by viewer and by room."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

from scorer.contracts import Score

_SILENT_MS: Final = 90_000  # of event time: who sends nothing for so long has gone
_ACTS: Final = {  # of the viewer, in the words of a person who looks on; heartbeats say nothing
    "enter": "came in",
    "comment": "commented",
    "like": "liked",
    "follow": "followed",
    "unfollow": "unfollowed",
    "share": "shared",
    "gift_panel_open": "opened gifts",
    "gift_panel_close": "closed gifts",
    "recharge": "topped up",
    "gift": "sent a gift",
    "subscribe": "subscribed",
    "paid_chat": "paid to chat",
    "gift_reversal": "took it back",
}


class Watcher(NamedTuple):
    """Somebody who watches."""

    score: Score
    """The latest."""
    act: str
    """What they did last, heartbeats apart."""


class Room(NamedTuple):
    """One broadcast."""

    room_id: str
    watching: int
    expected: float
    """Tips to expect within the longest horizon: the sum of the viewers' probabilities."""


class Board:
    """The latest score of each viewer, while they watch."""

    def __init__(self) -> None:
        """Nobody is known."""
        self._watching: dict[str, Watcher] = {}
        self._now_ms = 0

    def see_scores(self, scores: Iterable[Score]) -> None:
        """Take in scores, in order of arrival; then drop who has gone without a word."""
        for score in scores:
            self._now_ms = max(self._now_ms, score.event_time_ms)
            before = self._watching.get(score.viewer_id)
            if score.type == "leave":
                self._watching.pop(score.viewer_id, None)
            elif before is None or score.event_time_ms >= before.score.event_time_ms:
                act = _ACTS.get(score.type) or (before.act if before else "watches")
                self._watching[score.viewer_id] = Watcher(score, act)
        silent = self._now_ms - _SILENT_MS
        for viewer in [viewer for viewer, one in self._watching.items() if one.score.event_time_ms < silent]:
            del self._watching[viewer]

    def likeliest(self, most: int) -> list[Watcher]:
        """Return the viewers whose tip is likeliest within the longest horizon, the likeliest first."""
        return sorted(self._watching.values(), key=lambda one: max(one.score.p_tip.values()), reverse=True)[:most]

    def hottest(self, most: int) -> list[Room]:
        """Return the rooms in which most tips are to be expected, the hottest first."""
        watching: defaultdict[str, list[float]] = defaultdict(list)
        for one in self._watching.values():
            watching[one.score.room_id].append(max(one.score.p_tip.values()))
        rooms = [Room(room_id, len(p), sum(p)) for room_id, p in watching.items()]
        return sorted(rooms, key=lambda room: room.expected, reverse=True)[:most]
