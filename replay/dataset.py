"""The training set of a stretch of traffic: features and history as of each event, and the tips that followed it.

One pass. Rows wait in memory until their longest horizon, and the time that late events and reversals may take, have
gone by; then they are labelled, negatives are sampled, and what is kept goes to disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engines.train.dataset import Facts, Rows, ShardWriter
from features.catalogue import FEATURES, HISTORY_LENGTH, N_CHANNELS, fingerprint
from features.engine import Computed, FeatureEngine
from features.events import ROOM_LEVEL, Event
from features.kernel import DUPLICATE
from features.rows import FREE_GIFT
from replay.labels import Label, Tips
from replay.simulate import Moment

HORIZONS_S = (60, 600)
PRIOR_COLUMNS = (
    "viewer_60d_tips", "viewer_60d_minor", "viewer_total_tips", "viewer_total_minor", "viewer_age_tips",
    "pair_60d_tips", "pair_60d_minor", "pair_total_tips", "pair_total_minor", "pair_age_tips",
)  # fmt: skip
"""Features that tell of a viewer's own past tips and of nothing else."""

_SETTLE_MS = 120_000  # by then late events and most reversals of the horizon's tips have come
_BATCH = 256


class Sampling(NamedTuple):
    """Which events become rows."""

    negatives: float
    """Share of the events without a tip that is kept; each stands for 1 / share."""
    seed: int


class Written(NamedTuple):
    """What a pass wrote."""

    events: int
    rows: int
    tips: int
    """Rows with a tip within the longest horizon."""


class _Waiting(NamedTuple):
    events: list[Event]
    computed: Computed
    chance: NDArray[np.float32]
    last_ms: int


class _Pass:
    """State of one pass over the traffic."""

    def __init__(self, sampling: Sampling, writer: ShardWriter, shard_rows: int) -> None:
        self._sampling = sampling
        self._writer = writer
        self._shard_rows = shard_rows
        self._rng = np.random.default_rng(sampling.seed)
        # Nothing is released to a store, so nothing is ever evicted: memory grows with the viewers.
        self._engine = FeatureEngine()
        self._engine.open(0)
        self._tips = Tips(HORIZONS_S)
        self._waiting: deque[_Waiting] = deque()
        self._kept: list[Rows] = []
        self.events = self.rows = self.tips = 0

    def take(self, events: list[Event], arrive_ms: NDArray[np.int64], chance: NDArray[np.float32]) -> None:
        """Compute a batch's features and let it wait; label and keep what has waited long enough."""
        batch = self._engine.prepare(events, [0] * len(events), arrive_ms.tolist())
        self._engine.admit(batch.missing, [None] * len(batch.missing))
        computed = self._engine.compute(batch)
        for event, status in zip(events, computed.status, strict=True):
            if status != DUPLICATE:
                self._tips.see(event)
        self.events += len(events)
        self._waiting.append(_Waiting(events, computed, chance, max(event.event_time_ms for event in events)))
        self._label(int(arrive_ms[-1]))

    def end(self) -> None:
        """Write what was kept; what still waits never saw its whole horizon and is dropped."""
        if self._kept:
            self._write()

    def _label(self, now_ms: int) -> None:
        before_ms = now_ms - 1000 * HORIZONS_S[-1] - _SETTLE_MS
        labelled = False
        while self._waiting and self._waiting[0].last_ms < before_ms:
            self._keep(self._waiting.popleft())
            labelled = True
        if labelled and self._waiting and self._rng.random() < 0.01:  # looks at every tip: now and then
            self._tips.forget(before_ms - _SETTLE_MS)

    def _keep(self, batch: _Waiting) -> None:
        sampled = self._rng.random(len(batch.events)) < self._sampling.negatives
        at: list[int] = []
        labels: list[Label] = []
        for i, event in enumerate(batch.events):
            unscored = event.type in ROOM_LEVEL or event.type == "erase"
            if unscored or batch.computed.status[i] == DUPLICATE:
                continue
            label = self._tips.label(event.viewer_id, event.room_id, event.event_time_ms)
            if label.tips[-1] or sampled[i]:
                at.append(i)
                labels.append(label)
        if at:
            self._kept.append(self._rows(batch, at, labels))
            self.rows += len(at)
            self.tips += sum(label.tips[-1] for label in labels)
        if sum(len(rows.weight) for rows in self._kept) >= self._shard_rows:
            self._write()

    def _rows(self, batch: _Waiting, at: list[int], labels: list[Label]) -> Rows:
        tips = np.array([label.tips for label in labels])
        return Rows(
            time_ms=np.array([batch.events[i].event_time_ms for i in at]),
            features=batch.computed.features[at],
            history=batch.computed.history[at],
            tips=tips,
            amount_minor=np.array([label.amount_minor for label in labels]),
            weight=np.where(tips[:, -1], 1, 1 / self._sampling.negatives).astype(np.float32),
            latent=batch.chance[at, -1],
        )

    def _write(self) -> None:
        columns: list[Any] = [np.concatenate(column) for column in zip(*self._kept, strict=True)]
        self._writer.write(Rows(*columns))
        self._kept.clear()


def write_dataset(
    traffic: Iterable[Moment],
    folder: Path,
    *,
    source: str,
    sampling: Sampling,
    part: str = "0",
    shard_rows: int = 50_000,
) -> Written:
    """Write one part of a training set; raises ModelError if the folder already holds it or another set."""
    facts = Facts(
        features=fingerprint(),
        columns=tuple(feature.name for feature in FEATURES),
        prior_columns=PRIOR_COLUMNS,
        history=(HISTORY_LENGTH, N_CHANNELS),
        type_codes=FREE_GIFT + 1,
        horizons_s=HORIZONS_S,
        source=source,
    )
    run = _Pass(sampling, ShardWriter(folder, facts, part=part), shard_rows)
    for moment in traffic:
        for start in range(0, len(moment.events), _BATCH):
            batch = slice(start, start + _BATCH)
            run.take(moment.events[batch], moment.arrive_ms[batch], moment.chance[batch])
    run.end()
    return Written(run.events, run.rows, run.tips)
