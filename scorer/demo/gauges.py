"""What the scorer's `/metrics` page says, as figures: over the last seconds, and over everything so far."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Final, NamedTuple

from scorer.metrics import samples

STAGES: Final = ("wait", "decode", "load", "features", "inference", "publish")
"""Where an event's time goes, in the order it is spent; wait is the time from Kafka's timestamp to the poll."""
_HISTOGRAMS: Final = {  # by the metric's name, prefix apart; the stages are named by their label
    "wait_seconds": "wait",
    "stage_seconds": "",
    "event_latency_seconds": "latency",
    "batch_records": "batch",
}


class Histogram(NamedTuple):
    """Counts by upper bound: `below[i]` observations were at most `bounds[i]`; the last bound is infinite."""

    bounds: tuple[float, ...] = (math.inf,)
    below: tuple[float, ...] = (0.0,)
    sum: float = 0.0

    def since(self, older: Histogram) -> Histogram:
        """Return what was observed after `older`."""
        if older.bounds != self.bounds:
            return self
        below = tuple(new - old for new, old in zip(self.below, older.below, strict=True))
        return Histogram(self.bounds, below, self.sum - older.sum)

    def mean(self) -> float | None:
        """Return the mean; None without observations."""
        return self.sum / self.below[-1] if self.below[-1] else None

    def quantile(self, share: float) -> float | None:
        """Return where `share` of the observations are below, by a straight line within the bucket; None if empty."""
        wanted = share * self.below[-1]
        if not wanted:
            return None
        bound, count = 0.0, 0.0
        for next_bound, next_count in zip(self.bounds, self.below, strict=True):
            if next_count >= wanted:
                return bound if math.isinf(next_bound) else _between(bound, next_bound, wanted, count, next_count)
            bound, count = next_bound, next_count
        return bound

    def share_within(self, bound: float) -> float | None:
        """Return the share of observations up to one of the bounds; None if empty."""
        total = self.below[-1]
        return self.below[self.bounds.index(bound)] / total if total else None


class Reading(NamedTuple):
    """One look at the page: the histograms named as in STAGES, plus `latency` (seconds) and `batch` (records)."""

    at: float
    """Seconds of the clock that the reader uses."""
    outcomes: Mapping[str, int]
    histograms: Mapping[str, Histogram]
    partitions: int
    """That this scorer owns."""

    @property
    def events(self) -> int:
        """Records accounted for."""
        return sum(self.outcomes.values())

    def histogram(self, name: str) -> Histogram:
        """Return one of the histograms; an empty one before anything was observed."""
        return self.histograms.get(name, Histogram())

    def since(self, older: Reading) -> Reading:
        """Return what happened after `older`; `at` is then the time between them."""
        outcomes = {name: count - older.outcomes.get(name, 0) for name, count in self.outcomes.items()}
        histograms = {name: here.since(older.histogram(name)) for name, here in self.histograms.items()}
        return Reading(self.at - older.at, outcomes, histograms, self.partitions)


NOTHING: Final = Reading(0.0, {}, {}, 0)


def read(page: str, at: float) -> Reading:
    """Read the scorer's page as of `at`."""
    outcomes: dict[str, int] = {}
    counts: dict[str, list[tuple[float, float]]] = defaultdict(list)
    sums: dict[str, float] = {}
    partitions = 0
    for sample, labels, value in samples(page):
        stem, _, kind = sample.removeprefix("tipstream_").rpartition("_")
        if sample == "tipstream_events_total":
            outcomes[labels["outcome"]] = int(value)
        elif sample == "tipstream_partitions" and labels["state"] == "owned":
            partitions = int(value)
        elif stem in _HISTOGRAMS:
            name = labels.get("stage") or _HISTOGRAMS[stem]
            if kind == "bucket":
                counts[name].append((float(labels["le"]), value))
            elif kind == "sum":
                sums[name] = value
    histograms = {
        name: Histogram(tuple(bound for bound, _ in pairs), tuple(count for _, count in pairs), sums[name])
        for name, pairs in counts.items()
    }
    return Reading(at, outcomes, histograms, partitions)


class Gauges:
    """The readings of the last seconds."""

    def __init__(self, window_s: float = 5.0) -> None:
        """Figures of `recent` span `window_s`."""
        self._window_s = window_s
        self._readings: deque[Reading] = deque()
        self.whole = NOTHING
        """Everything so far: the last reading."""

    def add(self, reading: Reading) -> None:
        """Take in a reading newer than the others."""
        self.whole = reading
        self._readings.append(reading)
        while len(self._readings) > 2 and self._readings[1].at <= reading.at - self._window_s:
            self._readings.popleft()

    @property
    def recent(self) -> Reading:
        """What happened over the window; its `at` is the window's true length, 0 before the second reading."""
        return self.whole.since(self._readings[0]) if self._readings else NOTHING

    @property
    def rate(self) -> float:
        """Events per second over the window."""
        recent = self.recent
        return recent.events / recent.at if recent.at else 0.0


def _between(low: float, high: float, wanted: float, count: float, next_count: float) -> float:
    return low + (high - low) * (wanted - count) / (next_count - count)
