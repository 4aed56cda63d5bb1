"""Every metric of the service, declared once with the line of help that a dashboard shows.

The hot path hands over one `BatchStats` a batch and imports no metrics library; this module is the only one that does.
No label carries an id: labels are stages, outcomes, reasons and partition numbers, all few.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from scorer.instruments import Counter, Gauge, Histogram, Instrument

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

Stage = Literal["decode", "load", "features", "inference", "publish"]
Checkpoint = Literal["applied", "fenced", "rewound", "lost", "torn", "failed"]
RedisCall = Literal["claim", "load", "checkpoint", "rooms"]

# Seconds; finest around the 50 ms that an event has from Kafka's timestamp to its acknowledged score.
LATENCY: Final = tuple(
    ms / 1000 for ms in (0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 40, 50, 75, 100, 250, 500, 1000, 5000, 30_000)
)
SHORT: Final = tuple(
    ms / 1000 for ms in (0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 50, 100, 500)
)
DIFFERENCES: Final = (1e-6, 1e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
NOTHING: Final[NDArray[np.float64]] = np.empty(0)


class BatchStats(NamedTuple):
    """What became of the records of one batch, counted once all of them are accounted for.

    consumed = scored + fallback + prior + shed + state_only + unknown + sum(rejected) + duplicate.
    """

    consumed: int
    scored: int = 0  # by the full model
    fallback: int = 0  # by a fallback model
    prior: int = 0  # from tip history alone
    shed: int = 0  # state updated, score given up
    state_only: int = 0  # room-level, erase, and types that score_on leaves out
    unknown: int = 0  # of a type that this version does not know: ignored
    rejected: Mapping[str, int] = {}  # by reason; sent to the dead-letter topic
    duplicate: int = 0  # repeated by upstream: changed nothing
    late_events: int = 0  # older than a window reaches: not in that window
    clamped: int = 0  # stamped further ahead of the broker than is allowed
    unmatched_reversals: int = 0  # gift reversals whose gift is not known any more
    late_scores: int = 0  # acknowledged after their deadline
    bucket: int = 0  # batch size that the model ran, padding included; 0: no inference
    cache_hits: int = 0  # rows found in memory
    cache_misses: int = 0  # rows asked from Redis
    wait: NDArray[np.float64] = NOTHING  # seconds from Kafka's timestamp to the poll, one an event
    latency: NDArray[np.float64] = NOTHING  # seconds from Kafka's timestamp to the acknowledgement, one a score
    stages: Mapping[Stage, float] = {}  # seconds


class Totals(NamedTuple):
    """The fate of every record so far."""

    consumed: int
    scored: int
    fallback: int
    prior: int
    shed: int
    state_only: int
    unknown: int
    rejected: int
    duplicate: int

    @property
    def unaccounted(self) -> int:
        """Records whose fate is not known: 0, or something is wrong."""
        return self.consumed - sum(self[1:])


class Metrics(Collector):
    """The service's instruments, one attribute each. Written by the event loop, read by the metrics server."""

    def __init__(self) -> None:
        self.consumed = Counter("tipstream_records_consumed", "Records read from the input topic and accounted for.")
        self.events = Counter(
            "tipstream_events",
            "Records by what became of them; the outcomes add up to tipstream_records_consumed_total.",
            "outcome",
        )
        for outcome in Totals._fields[1:]:
            self.events.add(0, outcome)
        self.rejects = Counter("tipstream_rejects", "Records sent to the dead-letter topic, by reason.", "reason")
        self.skipped = Counter(
            "tipstream_records_skipped",
            "Records never read: they were removed from the topic before their turn.",
            "reason",
        )
        self.late_events = Counter("tipstream_late_events", "Events too old for a window: in longer ones and totals.")
        self.clamped = Counter("tipstream_clamped_events", "Events stamped too far ahead of the broker's clock.")
        self.unmatched = Counter("tipstream_unmatched_reversals", "Gift reversals whose gift is not remembered.")
        self.late_scores = Counter("tipstream_late_scores", "Scores acknowledged after their deadline.")
        self.latency = Histogram(
            "tipstream_event_latency_seconds", "From an event's Kafka timestamp to its acknowledged score.", LATENCY
        )
        self.wait = Histogram(
            "tipstream_wait_seconds", "From an event's Kafka timestamp to the poll that read it.", LATENCY
        )
        self.stages = Histogram(
            "tipstream_stage_seconds",
            "Time in each stage, counted once for every record of the batch.",
            SHORT,
            "stage",
            get_args(Stage),
        )
        self.batch = Histogram("tipstream_batch_records", "Records in a batch.", SIZES)
        self.buckets = Counter("tipstream_inferences", "Inferences by the batch size that the model ran.", "bucket")
        self.cache = Counter("tipstream_cache_lookups", "Rows looked up in memory, by result.", "result")
        self.cache_rows = Gauge("tipstream_cache_rows", "Rows in memory, by table.", "table")
        self.redis = Histogram(
            "tipstream_redis_seconds", "Time of one Redis call, by purpose.", SHORT, "call", get_args(RedisCall)
        )
        self.checkpoints = Counter("tipstream_checkpoints", "Fenced writes of rows and offset, by outcome.", "outcome")
        for result in get_args(Checkpoint):
            self.checkpoints.add(0, result)
        self.lag = Gauge("tipstream_lag_records", "Records not yet read, by input partition.", "partition")
        self.waiting = Gauge("tipstream_waiting_records", "Records read and not yet in a batch.")
        self.in_flight = Gauge("tipstream_in_flight_batches", "Batches between intake and acknowledgement.")
        self.partitions = Gauge("tipstream_partitions", "Input partitions of this member, by state.", "state")
        self.stopped = Gauge(
            "tipstream_partition_stopped", "1 for a partition that stopped and needs a person.", "partition", "reason"
        )
        self.rebalances = Counter("tipstream_rebalances", "Times that the group handed out partitions anew.")
        self.producers = Counter(
            "tipstream_producer_recreations", "Producers replaced after an error or before a wrap."
        )
        self.loop_lag = Histogram("tipstream_loop_lag_seconds", "How late the event loop woke for its tick.", SHORT)
        self.model = Gauge(
            "tipstream_model_info", "1 for a model that scores.", "model", "engine", "features", "version"
        )
        self.model_failures = Counter(
            "tipstream_model_failures", "Batches that a model did not answer as it should.", "engine", "reason"
        )
        self.breakers = Gauge(
            "tipstream_breaker_open", "1 for a model that is not asked for scores: it failed, or hangs.", "engine"
        )
        self.agreement = Gauge(
            "tipstream_agreement_ratio", "Rows on which an INT8 engine names the tier of the engine below it.", "engine"
        )
        self.swaps = Counter("tipstream_model_swaps", "Times that another version began to serve.")
        self.refused = Gauge("tipstream_model_refused", "1 while the version that was promoted cannot be loaded here.")
        self.shadow_rows = Counter(
            "tipstream_shadow_rows", "Rows for the shadow model, by what became of them.", "outcome"
        )
        self.shadow_flips = Counter("tipstream_shadow_flips", "Rows that the shadow model puts in another tier.")
        self.shadow_difference = Histogram(
            "tipstream_shadow_difference", "Difference of a row's probability between shadow and score.", DIFFERENCES
        )
        self.gpu_utilisation = Gauge(
            "tipstream_gpu_utilisation_ratio", "Share of the last sampling period with a kernel running.", "gpu"
        )
        self.gpu_memory = Gauge("tipstream_gpu_memory_bytes", "Memory in use, by whatever process.", "gpu")
        self.gpu_temperature = Gauge("tipstream_gpu_temperature_celsius", "Of the chip.", "gpu")
        self.gpu_power = Gauge("tipstream_gpu_power_watts", "Power drawn, averaged by the driver.", "gpu")
        self.gpu_energy = Counter("tipstream_gpu_energy_joules", "Energy used since the service looks.", "gpu")
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def observe(self, stats: BatchStats) -> None:
        """Count one finished batch. A few µs, whatever its size."""
        self.consumed.add(stats.consumed)
        for outcome in ("scored", "fallback", "prior", "shed", "state_only", "unknown", "duplicate"):
            if count := getattr(stats, outcome):
                self.events.add(count, outcome)
        for reason, count in stats.rejected.items():
            self.rejects.add(count, reason)
            self.events.add(count, "rejected")
        self.late_events.add(stats.late_events)
        self.clamped.add(stats.clamped)
        self.unmatched.add(stats.unmatched_reversals)
        self.late_scores.add(stats.late_scores)
        if stats.bucket:
            self.buckets.add(1, str(stats.bucket))
        self.cache.add(stats.cache_hits, "hit")
        self.cache.add(stats.cache_misses, "miss")
        self.batch.observe(stats.consumed)
        self.wait.observe_many(stats.wait)
        self.latency.observe_many(stats.latency)
        for stage, seconds in stats.stages.items():
            self.stages.observe(seconds, stats.consumed, stage)

    def totals(self) -> Totals:
        """Return the fate of every record so far; its `unaccounted` is 0 while all is well."""
        fates = (int(self.events.values[outcome,]) for outcome in Totals._fields[1:])
        return Totals(int(self.consumed.values[()]), *fates)

    def instruments(self) -> list[Instrument]:
        """Return all of them, in the order of their declaration."""
        return [value for value in vars(self).values() if isinstance(value, Instrument)]

    def collect(self) -> Iterator[Metric]:
        """Yield the families that Prometheus reads."""
        yield from map(_family, self.instruments())

    def render(self) -> bytes:
        """Return the page that Prometheus scrapes (`CONTENT_TYPE`)."""
        return generate_latest(self.registry)


def merge(pages: Mapping[str, str], own: Sequence[Instrument]) -> bytes:
    """Return one page: each sample of the workers' pages with its worker's name as the label `worker`, then `own`."""
    families: dict[str, Metric] = {}
    for worker, page in pages.items():
        for family in text_string_to_metric_families(page):
            merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                merged.samples.append(sample._replace(labels={**sample.labels, "worker": worker}))
    registry = CollectorRegistry()
    registry.register(_Families([*families.values(), *map(_family, own)]))
    return generate_latest(registry)


class Sample(NamedTuple):
    """One line of a page that Prometheus scrapes."""

    name: str
    labels: Mapping[str, str]
    value: float


def samples(page: str) -> Iterator[Sample]:
    """Yield the samples of a page, such as `Metrics.render` returns."""
    for family in text_string_to_metric_families(page):
        yield from (Sample(each.name, each.labels, each.value) for each in family.samples)


class _Families(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _family(instrument: Instrument) -> Metric:
    name, text, labels = instrument.name, instrument.text, instrument.labels
    if isinstance(instrument, Histogram):
        histogram = HistogramMetricFamily(name, text, labels=labels)
        for at, (counts, total) in instrument.snapshot().items():
            bounds = [*map(repr, map(float, instrument.bounds)), "+Inf"]
            below = list(zip(bounds, map(float, counts.cumsum()), strict=True))
            histogram.add_metric([at] if labels else [], below, total)
        return histogram
    kind = CounterMetricFamily if isinstance(instrument, Counter) else GaugeMetricFamily
    family: Metric = kind(name, text, labels=labels)
    # Copied in one step: the event loop may add a label value meanwhile.
    for values, value in tuple(instrument.values.items()):
        family.add_metric(values, value)  # type: ignore[attr-defined]
    return family
