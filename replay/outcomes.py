"""What followed each scored event, as far as the recording tells."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.events import decode
from replay.recording import Recording, RecordingError
from replay.scores import Scores
from scorer.tips import TYPES, Tips

_CHUNK = 65_536
_TIPS = "|".join(TYPES)  # few other events than those of these types are decoded for nothing


class Outcomes(NamedTuple):
    """Of n scores, in their order."""

    known: NDArray[np.bool_]
    """(n,) whether the recording covers the longest horizon of the event."""
    tips: NDArray[np.bool_]
    """(n, H) whether a tip of the viewer in the room followed within each horizon."""
    amount: NDArray[np.int64]
    """(n,) minor units tipped within the longest."""

    def take(self, rows: NDArray[np.int64]) -> Outcomes:
        """Return some of them."""
        return Outcomes(self.known[rows], self.tips[rows], self.amount[rows])


def outcomes(scores: Scores, recording: Recording) -> Outcomes:
    """Look up what followed. Raises RecordingError if nothing of the scores lies in the recording."""
    horizons_s = scores.about.horizons_s
    tips, end_ms = all_tips(recording)
    time_ms = scores.column("event_time_ms")
    labels = [
        tips.label((viewer, room), at, horizons_s)
        for viewer, room, at in zip(scores.text("viewer_id"), scores.text("room_id"), time_ms.tolist(), strict=True)
    ]
    known = time_ms + 1000 * horizons_s[-1] <= end_ms
    if not known.any():
        raise RecordingError(
            f"{recording.path} covers the {horizons_s[-1]} s after none of the scored events: give the recording that "
            "was scored, and a longer one than that."
        )
    amount = np.array([label.amount_minor for label in labels], np.int64)
    return Outcomes(known, np.array([label.tips for label in labels], np.bool_), amount)


def all_tips(recording: Recording) -> tuple[Tips, int]:
    """Gather all tips of a recording, and its last Kafka timestamp: a quick look at it, next to a pass."""
    tips, end_ms = Tips(), 0
    for batch in recording.columns(_CHUNK):
        end_ms = max(end_ms, pc.max(batch.column("timestamp_ms")).as_py())
        values: Any = batch.column("value")
        found = batch.filter(pc.match_substring_regex(values, _TIPS))
        for event in decode(found.column("value").to_pylist(), found.column("key").to_pylist()).events:
            tips.see(event)
    return tips, end_ms
