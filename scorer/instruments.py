"""Counters, gauges and histograms that cost little to write and know no metrics library.

Written by the event loop's thread only. Any thread may read: it sees each number as it was at some recent moment.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

Labels = tuple[str, ...]


class Counter:
    """Sums by label values; only ever grows. `name` has no `_total`: the renderer adds it."""

    kind: Final = "counter"

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self.name, self.text, self.labels = name, text, labels
        # A sum without labels is exported from the start, so that rate() sees its first step.
        self.values: dict[Labels, float] = {} if labels else {(): 0}

    def add(self, amount: float = 1, *labels: str) -> None:
        """Add `amount`, at least 0, to the sum of these label values."""
        self.values[labels] = self.values.get(labels, 0) + amount


class Gauge:
    """The latest value by label values."""

    kind: Final = "gauge"

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self.name, self.text, self.labels = name, text, labels
        self.values: dict[Labels, float] = {} if labels else {(): 0}

    def set(self, value: float, *labels: str) -> None:
        """Make `value` the latest of these label values."""
        self.values[labels] = value

    def replace(self, values: Mapping[Labels, float]) -> None:
        """Make these the only values exported."""
        self.values = dict(values)


class Histogram:
    """How often a value fell at or below each bound; by the values of one label, all known beforehand, or by none."""

    kind: Final = "histogram"

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], label: str | None = None, values: Sequence[str] = ("",)
    ) -> None:
        self.name, self.text = name, text
        self.labels: Labels = (label,) if label else ()
        self.bounds: Final = tuple(bounds)
        self._edges = np.asarray(bounds, np.float64)
        self._counts = {value: np.zeros(len(bounds) + 1, np.int64) for value in values}
        self._sums = dict.fromkeys(values, 0.0)
        self._lock = Lock()  # so that a reader's sum belongs to its counts

    def observe(self, value: float, weight: int = 1, at: str = "") -> None:
        """Count `value` as seen `weight` times."""
        with self._lock:
            self._counts[at][bisect_left(self.bounds, value)] += weight
            self._sums[at] += value * weight

    def observe_many(self, values: NDArray[np.float64], at: str = "") -> None:
        """Count each of `values` (n,) once; below 0, which is where clocks disagree, counts as 0."""
        if not len(values):
            return
        values = np.maximum(values, 0.0)
        slots = np.searchsorted(self._edges, values, side="left")
        counts = np.bincount(slots, minlength=len(self.bounds) + 1)
        with self._lock:
            self._counts[at] += counts
            self._sums[at] += float(values.sum())

    def snapshot(self) -> dict[str, tuple[NDArray[np.int64], float]]:
        """Return by label value: how many fell into each slot (bounds + 1,), the last above all bounds; and the sum."""
        with self._lock:
            return {at: (counts.copy(), self._sums[at]) for at, counts in self._counts.items()}


Instrument = Counter | Gauge | Histogram
