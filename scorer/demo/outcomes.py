"""How predictions fared: each score joined with the tips of the same viewer in the same room that followed it.

Everything is in event time, so traffic may be played at any speed. What counts as a tip is what the training labels
count.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from features.events import Event
from scorer.contracts import Score
from scorer.tips import Tips, Visit

_LATE_MS: Final = 60_000  # how long a tip may stay on its way before its scores are judged without it


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
        self._tips = Tips()

    @property
    def tips(self) -> int:
        """How many tips were seen, the reversed ones left out."""
        return len(self._tips.all())

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
        return Counter(tip.visit[1] for tip in self._tips.all() if tip.time_ms > since_ms)

    def due_s(self) -> float | None:
        """Return the event time, in seconds, until the first score is judged; None if that has happened already."""
        if any(tier.scores for tier in self.tiers.values()) or not self._waiting:
            return None
        return max(0.0, (self._waiting[0][0] - self.now_ms) / 1000)

    def see_events(self, events: Iterable[Event]) -> None:
        """Take in events, in order of arrival."""
        for event in events:
            self.now_ms = max(self.now_ms, event.event_time_ms)
            self._tips.see(event)

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
            start_ms = due_ms - _LATE_MS - self.horizon_s * 1000
            judged = self.tiers[tier]
            judged.scores += 1
            judged.predicted += p_tip
            judged.followed += self._tips.label(visit, start_ms, (self.horizon_s,)).tips[-1]
