"""Two models' answers to the same rows, and how far they are from each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engines.manifest import Manifest
from engines.model import Scores


class Difference(NamedTuple):
    """Of two answers to n rows."""

    dp: NDArray[np.float32]
    """(n,) largest difference of a probability over the horizons that both know."""
    flips: int
    """Rows that the two put in tiers of different names."""

    @property
    def rows(self) -> int:
        """How many were compared."""
        return len(self.dp)


def difference(one: Manifest, its: Scores, other: Manifest, others: Scores) -> Difference:
    """Compare answers, p_tip (n, H) each; horizons and tiers are looked up by name in the models' manifests."""
    shared = [seconds for seconds in one.horizons_s if seconds in other.horizons_s]
    here = its.p_tip[:, [one.horizons_s.index(seconds) for seconds in shared]]
    there = others.p_tip[:, [other.horizons_s.index(seconds) for seconds in shared]]
    dp = np.abs(here - there).max(axis=1, initial=0.0)
    flips = sum(a != b for a, b in zip(_tiers(one, its), _tiers(other, others), strict=True))
    return Difference(dp, flips)


def _tiers(manifest: Manifest, scores: Scores) -> Sequence[str]:
    thresholds = [tier.at_least for tier in manifest.tiers]
    at = np.searchsorted(thresholds, scores.p_tip[:, -1], side="right") - 1
    return [manifest.tiers[i].name for i in at]


class Agreement:
    """Share of recent rows on which two models name the same tier: what confidence in an INT8 engine is measured by.

    Looks at blocks of `rows` rows, so that neither one odd row nor a long good past decides.
    """

    def __init__(self, rows: int) -> None:
        """`rows` make a block."""
        self.latest: float | None = None
        self._block = rows
        self._rows = self._flips = 0

    def add(self, found: Difference) -> float | None:
        """Take rows into account; the agreement of the block that they complete, else None."""
        self._rows += found.rows
        self._flips += found.flips
        if self._rows < self._block:
            return None
        self.latest = 1 - self._flips / self._rows
        self._rows = self._flips = 0
        return self.latest

    def restart(self) -> None:
        """Forget the block that is not complete."""
        self._rows = self._flips = 0
