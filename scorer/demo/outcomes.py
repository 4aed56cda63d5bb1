"""How predictions fared: each score joined with the tips of the same viewer in the same room that followed it.

Everything is in event time, so traffic may be played at any speed. A tip is a paid gift or a paid chat; the gifts of a
combo are one tip, when it began, and a reversed gift is none: as in the training labels.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from features.events import Event
from scorer.contracts import Score

_LATE_MS: Final = 60_000  # how long a tip may stay on its way before its scores are judged without it

Visit = tuple[str | None, str]  # viewer and room


@dataclass(slots=True)
class Judged:
    """Scores whose horizon has passed."""

    scores: int = 0
    predicted: float = 0.0
    """Sum of the probabilities: how many of the scores were expected to be followed by a tip."""
    followed: int = 0
    """How many were."""

    @property
    def predicted_share(self) -> float:
        """Mean probability."""
        return self.predicted / self.scores if self.scores else 0.0

    @property
    def followed_share(self) -> float:
        """Share that a tip followed."""
        return self.followed / self.scores if self.scores else 0.0


class Tip(NamedTuple):
    """One tip, known by what all of its events share."""

    visit: Visit
    name: str


class Outcomes:
    """Waits until each score's longest horizon has passed, then judges it."""

    def __init__(self) -> None:
        """Nothing was seen."""
        self.horizon_s = 0
        """The longest horizon that scores have; 0 before the first one."""
        self.tiers: defaultdict[str, Judged] = defaultdict(Judged)
        self.now_ms = 0
        """The newest event's time."""
        self._waiting: deque[tuple[int, Visit, float, str]] = deque()  # due, in order of arrival
        self._tips: defaultdict[Visit, dict[str, int]] = defaultdict(dict)  # by name: when it began
        self._of: dict[str, Tip] = {}  # by gift transaction

    @property
    def tips(self) -> int:
        """How many tips were seen, the reversed ones left out."""
        return sum(map(len, self._tips.values()))

    @property
    def all(self) -> Judged:
        """Every judged score, whatever its tier."""
        tiers = self.tiers.values()
        return Judged(
            sum(tier.scores for tier in tiers), sum(tier.predicted for tier in tiers), sum(t.followed for t in tiers)
        )

    def lift(self, tier: str) -> float | None:
        """Return how many times likelier a tip followed the tier's scores than all scores; None where none did."""
        usual = self.all.followed_share
        return self.tiers[tier].followed_share / usual if usual else None

    def tips_by_room(self, recent_s: int) -> Counter[str]:
        """Count the tips of the last seconds of event time."""
        since_ms = self.now_ms - recent_s * 1000
        tips: Counter[str] = Counter()
        for (_, room_id), visit in self._tips.items():
            tips[room_id] += sum(at_ms > since_ms for at_ms in visit.values())
        return tips

    def due_s(self) -> float | None:
        """Return the event time, in seconds, until the first score is judged; None if that has happened already."""
        if any(tier.scores for tier in self.tiers.values()) or not self._waiting:
            return None
        return max(0.0, (self._waiting[0][0] - self.now_ms) / 1000)

    def see_events(self, events: Iterable[Event]) -> None:
        """Take in events, in order of arrival."""
        for event in events:
            self.now_ms = max(self.now_ms, event.event_time_ms)
            if event.type == "gift_reversal" and event.gift_tx_id in self._of:
                tip = self._of[event.gift_tx_id]
                self._tips[tip.visit].pop(tip.name, None)
            elif event.type == "paid_chat" or (event.type == "gift" and event.coin_type == "paid"):
                self._tip(event)

    def see_scores(self, scores: Iterable[Score]) -> None:
        """Take in scores, in order of arrival."""
        for score in scores:
            self.horizon_s = max(map(int, score.p_tip))
            visit, p_tip = (score.viewer_id, score.room_id), score.p_tip[str(self.horizon_s)]
            due_ms = score.event_time_ms + self.horizon_s * 1000 + _LATE_MS
            self._waiting.append((due_ms, visit, p_tip, score.tier))

    def judge(self) -> None:
        """Judge the scores that are due; an older one that arrived behind them has to wait for them."""
        while self._waiting and self._waiting[0][0] <= self.now_ms:
            due_ms, visit, p_tip, tier = self._waiting.popleft()
            end_ms = due_ms - _LATE_MS
            start_ms = end_ms - self.horizon_s * 1000
            judged = self.tiers[tier]
            judged.scores += 1
            judged.predicted += p_tip
            judged.followed += any(start_ms < at_ms <= end_ms for at_ms in self._tips.get(visit, {}).values())

    def _tip(self, event: Event) -> None:
        visit = event.viewer_id, event.room_id
        name = event.combo_id or event.gift_tx_id or event.event_id
        tips = self._tips[visit]
        tips[name] = min(event.event_time_ms, tips.get(name, event.event_time_ms))
        if event.gift_tx_id is not None:
            self._of[event.gift_tx_id] = Tip(visit, name)
