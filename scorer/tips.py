"""What counts as a tip: paid gifts and paid chats, combos taken together, reversed ones left out.

What a score foretells, a label teaches, a report judges by and the demo shows is all decided here. The feature kernel
counts tips by the same rules, on rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from features.events import Event

Visit = tuple[str | None, str]
"""Viewer and room."""

TYPES: Final = ("gift", "gift_reversal", "paid_chat")
"""Types of the events that `Tips.see` looks at."""


@dataclass(slots=True)
class Tip:
    """One paid gift, combo or paid chat."""

    visit: Visit
    time_ms: int
    """When it began."""
    amount_minor: int
    """Its last total."""
    reversed: bool = False


class Label(NamedTuple):
    """What followed one event."""

    tips: tuple[bool, ...]
    """Whether a tip followed within each horizon."""
    amount_minor: int
    """Minor units tipped within the longest."""


class Tips:
    """The tips of some traffic, by viewer and room."""

    def __init__(self) -> None:
        """Nothing was seen."""
        self._of: defaultdict[Visit, list[Tip]] = defaultdict(list)
        self._named: dict[tuple[str | None, str], Tip] = {}  # by viewer, and transaction or combo

    def see(self, event: Event) -> None:
        """Take in one event, in any order; all but tips and reversals are passed over."""
        if event.type == "gift_reversal":
            if tip := self._named.get((event.viewer_id, f"tx {event.gift_tx_id}")):
                tip.reversed = True
        elif event.type == "paid_chat" or (event.type == "gift" and event.coin_type == "paid"):
            self._tip(event)

    def _tip(self, event: Event) -> None:
        viewer, room, amount = event.viewer_id, event.room_id, event.amount_minor or 0
        names = [(viewer, f"tx {event.gift_tx_id or event.event_id}")]
        if event.combo_id is not None:
            names.append((viewer, f"combo {event.combo_id} in {room}"))
        tip = next((self._named[name] for name in names if name in self._named), None)
        if tip is None:
            tip = Tip((viewer, room), event.event_time_ms, amount)
            self._of[tip.visit].append(tip)
        else:
            tip.time_ms = min(tip.time_ms, event.event_time_ms)
            tip.amount_minor = max(tip.amount_minor, amount)
        self._named.update(dict.fromkeys(names, tip))

    def all(self) -> list[Tip]:
        """Return every tip that was not reversed."""
        return [tip for tips in self._of.values() for tip in tips if not tip.reversed]

    def label(self, visit: Visit, time_ms: int, horizons_s: Sequence[int]) -> Label:
        """Say what followed an event of this viewer in this room, strictly after `time_ms`; horizons ascend."""
        if visit not in self._of:
            return Label((False,) * len(horizons_s), 0)
        after = [
            (tip.time_ms - time_ms, tip.amount_minor)
            for tip in self._of[visit]
            if not tip.reversed and 0 < tip.time_ms - time_ms <= 1000 * horizons_s[-1]
        ]
        soonest = min((wait for wait, _ in after), default=1000 * horizons_s[-1] + 1)
        return Label(tuple(soonest <= 1000 * horizon for horizon in horizons_s), sum(amount for _, amount in after))
