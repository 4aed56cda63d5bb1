"""Who is watching: one entry a visit, in columns that grow and shrink."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

NEVER: Final = np.iinfo(np.int64).max


class Audience:
    """Columns over the visits under way, each (n,). A visit that ended stays, inert, until `sweep` removes it."""

    viewer: NDArray[np.int32]
    streamer: NDArray[np.int32]
    broadcast: NDArray[np.int64]
    slot: NDArray[np.int8]  # the viewer's slot for this streamer
    visit: NDArray[np.int64]
    enter_ms: NDArray[np.int64]
    leave_ms: NDArray[np.int64]
    beat_ms: NDArray[np.int64]  # when the next heartbeat is due
    panel_ms: NDArray[np.int64]  # until when the gift panel is open; 0 if it is closed
    desire: NDArray[np.float32]  # of tipping, per second, before what happens in the room and what the viewer does
    tipped: NDArray[np.bool_]  # whether the viewer tipped in this visit
    talk: NDArray[np.float32]  # comments per second
    fond: NDArray[np.float32]  # likes per second
    heat: NDArray[np.float32]  # 1 at an own comment, fading
    warm: NDArray[np.float32]  # 1 at an own recharge, fading

    def __init__(self) -> None:
        """Nobody watches."""
        self._ended = 0
        for name, kind in _COLUMNS.items():
            setattr(self, name, np.empty(0, kind))

    def __len__(self) -> int:
        """Visits, the inert ones included."""
        return len(self.viewer)

    @property
    def active(self) -> NDArray[np.bool_]:
        """(n,) which visits are still under way."""
        active: NDArray[np.bool_] = self.leave_ms != NEVER
        return active

    def add(self, **columns: Any) -> NDArray[np.intp]:
        """Append visits, columns not given being zero; returns their positions."""
        first, n = len(self), len(columns["viewer"])
        for name, kind in _COLUMNS.items():
            values: NDArray[Any] = np.zeros(n, kind)
            if name in columns:
                values[:] = columns[name]
            setattr(self, name, np.concatenate([getattr(self, name), values]))
        return np.arange(first, first + n)

    def end(self, at: NDArray[np.intp]) -> None:
        """Make visits inert."""
        self._ended += len(at)
        self.leave_ms[at] = self.beat_ms[at] = NEVER
        self.panel_ms[at] = 0
        self.desire[at] = 0

    def sweep(self) -> None:
        """Remove the inert visits if they are many. Positions change."""
        if self._ended * 8 > len(self):
            keep = self.active
            for name in _COLUMNS:
                setattr(self, name, getattr(self, name)[keep])
            self._ended = 0


_COLUMNS: Final = {
    "viewer": np.int32,
    "streamer": np.int32,
    "broadcast": np.int64,
    "slot": np.int8,
    "visit": np.int64,
    "enter_ms": np.int64,
    "leave_ms": np.int64,
    "beat_ms": np.int64,
    "panel_ms": np.int64,
    "desire": np.float32,
    "tipped": np.bool_,
    "talk": np.float32,
    "fond": np.float32,
    "heat": np.float32,
    "warm": np.float32,
}
