"""The viewers: who they are, whom they like, what they have given."""

import numpy as np
from numpy.typing import NDArray

from replay.simulate import behaviour
from replay.simulate.traffic import Traffic

ELSEWHERE = behaviour.FAVOURITES  # the slot of every streamer who is no favourite


class Population:
    """Columns over all viewers, (V,) or (V, slots); about 60 bytes a viewer, the only part that grows with them.

    A viewer has a few favourite streamers, and a past with each; all other streamers share one more slot, whose past
    has no influence.
    """

    def __init__(self, traffic: Traffic, rng: np.random.Generator) -> None:
        """Draw everybody."""
        n = traffic.population
        slots = behaviour.FAVOURITES + 1
        self.size = n
        self._skew = traffic.viewer_skew
        self.favourites = zipf(rng.random((n, behaviour.FAVOURITES)), traffic.streamers, traffic.room_skew)
        spender = (1 - rng.random(n) * (1 - behaviour.SPENDER_CAP**-behaviour.SPENDER_ALPHA)) ** (
            -1 / behaviour.SPENDER_ALPHA
        )
        self.spender = (spender / spender.mean()).astype(np.float32)
        self.wealth = rng.standard_normal(n, np.float32)
        self.talk = _some(rng, n, behaviour.TALKERS, behaviour.TALK)
        self.fond = _some(rng, n, behaviour.FOND, behaviour.LIKE)
        self.platform = rng.choice(4, n, p=[0.45, 0.35, 0.15, 0.05]).astype(np.uint8)
        self.region = zipf(rng.random(n), 12, 0.8).astype(np.uint8)
        self.premium = rng.random(n, np.float32) < 0.08
        self.present = np.zeros(n, bool)
        self.tips = np.zeros((n, slots), np.uint16)
        self.visits = np.zeros((n, slots), np.uint16)
        self.follows = rng.random((n, slots), np.float32) < np.array([0.8, 0.6, 0.4, 0.3, 0.0], np.float32)
        self.subscribed = rng.random((n, slots), np.float32) < np.array([0.08, 0.04, 0.02, 0.01, 0.0], np.float32)

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int32]:
        """Draw n viewers by activity (with repeats)."""
        return zipf(rng.random(n), self.size, self._skew)

    def slot(self, viewer: NDArray[np.int32], streamer: NDArray[np.int32]) -> NDArray[np.intp]:
        """Which of a viewer's slots holds the streamer: (n,) in 0..ELSEWHERE."""
        same = self.favourites[viewer] == streamer[:, None]
        return np.where(same.any(axis=1), same.argmax(axis=1), ELSEWHERE)

    def badges(self, viewer: NDArray[np.int32], slot: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Bits of `rows.BADGES` that a viewer wears with the streamer in a slot."""
        tipped = (self.tips[viewer, slot] > 0) & (slot < ELSEWHERE)
        return (self.subscribed[viewer, slot] | tipped << 1 | self.premium[viewer] << 2).astype(np.uint8)


def zipf(uniform: NDArray[np.float64], n: int, skew: float) -> NDArray[np.int32]:
    """Ranks 0..n-1 drawn with probability about 1 / (rank + 1) ** skew, from uniform draws in [0, 1)."""
    if abs(skew - 1) < 1e-6:
        rank = (n + 1.0) ** uniform
    else:
        power = 1 - skew
        rank = (1 + uniform * ((n + 1.0) ** power - 1)) ** (1 / power)
    return np.minimum(rank.astype(np.int64) - 1, n - 1).astype(np.int32)


def _some(rng: np.random.Generator, n: int, share: float, rate: float) -> NDArray[np.float32]:
    """(n,) rates: log-normal around `rate` for a share of the viewers, zero for the rest."""
    rates = rate * rng.lognormal(0.0, behaviour.SPREAD, n)
    return np.where(rng.random(n) < share, rates, 0.0).astype(np.float32)
