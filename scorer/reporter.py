"""Tells metrics and health, once a second, what no event does: lag, sizes, and which partitions are ours or stopped."""

from features.engine import FeatureEngine
from scorer.health import Health
from scorer.kafka.source import Source
from scorer.metrics import Metrics
from scorer.ownership import Ownership


class Reporter:
    """Looks at the parts; the parts know nothing of metrics."""

    def __init__(
        self, source: Source, ownership: Ownership, engine: FeatureEngine, metrics: Metrics, health: Health
    ) -> None:
        self._source = source
        self._ownership = ownership
        self._engine = engine
        self._metrics = metrics
        self._health = health
        self._rebalances = 0
        self._skipped = 0
        self._stopped: set[int] = set()

    def report(self) -> int:
        """Look once. Returns how many records wait to be read, over all partitions that are read."""
        metrics, ownership = self._metrics, self._ownership
        leases = ownership.leases.values()
        lags = {lease.partition: self._source.lag(lease.partition) or 0 for lease in leases}
        metrics.lag.replace({(str(partition),): lag for partition, lag in lags.items()})
        metrics.waiting.set(sum(len(lease.queue) for lease in leases))
        metrics.in_flight.set(max((lease.in_flight for lease in leases), default=0))
        states = {"owned": len(leases), "claiming": len(ownership.claiming), "stopped": len(ownership.stopped)}
        metrics.partitions.replace({(state,): count for state, count in states.items()})
        metrics.stopped.replace({(str(p), stopped.reason): 1 for p, stopped in ownership.stopped.items()})
        metrics.cache_rows.replace({(table,): rows for table, rows in self._engine.sizes().items()})
        metrics.rebalances.add(ownership.rebalances - self._rebalances)
        self._rebalances = ownership.rebalances
        metrics.skipped.add(ownership.skipped - self._skipped, "retention")
        self._skipped = ownership.skipped
        for partition in self._stopped - set(ownership.stopped):
            self._health.clear_partition(partition)
        for partition, stopped in ownership.stopped.items():
            self._health.stop_partition(partition, stopped.advice)
        self._stopped = set(ownership.stopped)
        if ownership.obstacles:
            partition, why = min(ownership.obstacles.items())
            self._health.wait_for("A claim", f"of partition {partition}: {why}")
        else:
            self._health.resume("A claim")
        if not any(lease.progress for lease in leases):  # what waited was written, or is another member's by now
            self._health.resume("Redis")
        return sum(lags.values())
