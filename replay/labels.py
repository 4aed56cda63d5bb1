"""What followed: the tips of each viewer in each room, and the labels of an event that came before them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from features.events import Event


@dataclass(slots=True)
class Tip:
    """One paid gift, combo or paid chat."""

    time_ms: int
    amount_minor: int
    transactions: set[str]
    combo: str | None


class Label(NamedTuple):
    """What followed one event."""

    tips: tuple[bool, ...]
    """Whether a tip followed within each horizon."""
    amount_minor: int
    """Minor units tipped within the longest."""


class Tips:
    """Tips by viewer and room. A combo is one tip, when it began and with its last total; a reversed tip is none."""

    def __init__(self, horizons_s: Sequence[int]) -> None:
        """Label with these horizons, in seconds, ascending."""
        self._horizons_ms = [1000 * seconds for seconds in horizons_s]
        self._tips: dict[tuple[str | None, str], deque[Tip]] = {}

    def see(self, event: Event) -> None:
        """Take in one event, in order of arrival; all but tips and reversals are passed over."""
        key = event.viewer_id, event.room_id
        if event.type == "gift_reversal":
            kept = [tip for tip in self._tips.get(key, ()) if event.gift_tx_id not in tip.transactions]
            self._tips[key] = deque(kept)
        elif event.type == "paid_chat" or (event.type == "gift" and event.coin_type == "paid"):
            self._tip(self._tips.setdefault(key, deque()), event)

    def _tip(self, tips: deque[Tip], event: Event) -> None:
        amount, transaction = event.amount_minor or 0, event.gift_tx_id or event.event_id
        for tip in tips:
            if transaction in tip.transactions or (event.combo_id is not None and event.combo_id == tip.combo):
                tip.transactions.add(transaction)
                tip.time_ms = min(tip.time_ms, event.event_time_ms)
                tip.amount_minor = max(tip.amount_minor, amount)
                return
        tips.append(Tip(event.event_time_ms, amount, {transaction}, event.combo_id))

    def label(self, viewer_id: str | None, room_id: str, time_ms: int) -> Label:
        """Say what followed an event of this viewer in this room, strictly after `time_ms`."""
        after = [
            (tip.time_ms - time_ms, tip.amount_minor)
            for tip in self._tips.get((viewer_id, room_id), ())
            if 0 < tip.time_ms - time_ms <= self._horizons_ms[-1]
        ]
        soonest = min((wait for wait, _ in after), default=self._horizons_ms[-1] + 1)
        return Label(tuple(soonest <= horizon for horizon in self._horizons_ms), sum(amount for _, amount in after))

    def forget(self, before_ms: int) -> None:
        """Drop the tips before a time of which no more labels will be asked."""
        for key in list(self._tips):
            kept = deque(tip for tip in self._tips[key] if tip.time_ms >= before_ms)
            if kept:
                self._tips[key] = kept
            else:
                del self._tips[key]
