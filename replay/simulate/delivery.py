"""How events reach Kafka: most at once, a few late, a few twice."""

import numpy as np

from replay.simulate import behaviour
from replay.simulate.rows import ROW, Rows
from replay.simulate.traffic import Traffic


class Delivery:
    """Holds the events that happened (or are bound to) and have not arrived."""

    def __init__(self, traffic: Traffic) -> None:
        """Nothing is under way."""
        self._traffic = traffic
        self._waiting: Rows = np.empty(0, ROW)
        self._numbered = 0

    def send(self, made: Rows, until_ms: int, rng: np.random.Generator) -> Rows:
        """Give new rows their numbers and return all that arrive before `until_ms`, in order of arrival."""
        n = len(made)
        made["number"] = np.arange(self._numbered, self._numbered + n)
        self._numbered += n
        delay_s = 1 + rng.exponential(behaviour.LATE_S - 1, n)
        late = rng.random(n) < self._traffic.late_share
        made["arrive_ms"] = made["time_ms"] + np.where(late, 1000 * np.minimum(delay_s, behaviour.LATEST_S), 0)
        again = made[rng.random(n) < self._traffic.duplicate_share]
        again["arrive_ms"] += (1000 * behaviour.AGAIN_S * rng.lognormal(0.0, 1.0, len(again))).astype(np.int64)
        waiting = np.concatenate([self._waiting, made, again])
        arrived = waiting["arrive_ms"] < until_ms
        self._waiting = waiting[~arrived]
        ready = waiting[arrived]
        return ready[np.argsort(ready["arrive_ms"], kind="stable")]
