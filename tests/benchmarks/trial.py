"""One process measured: under steady load, and while it works off a backlog."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

import msgspec
from aiokafka import AIOKafkaProducer

from scorer.embedded.child import Child
from scorer.metrics import Stage
from scorer.ports import free_port
from tests.benchmarks.measure import change, cpu_seconds, machine_seconds, quantile, scrape, total
from tests.benchmarks.reader import Reader
from tests.benchmarks.traffic import PROBE, template, zipf
from tests.services.kafka import Broker
from tests.services.redis import Redis
from tests.services.topics import create_topic

PARTITIONS: Final = 4
WAKE_S: Final = 120.0  # a first start may compile the kernel
LOOK_S: Final = 0.5  # between a look at the processes, which holds up the reader, and latencies that count
STALL_S: Final = 20.0  # a drain that brings nothing for so long has ended

CONFIG: Final = """log_level = "warning"
[kafka]
bootstrap = "{bootstrap}"
group = "{group}"
events_topic = "{events}"
scores_topic = "{scores}"
dlq_topic = "{dlq}"
[redis]
url = "{redis}"
[batching]
publish_late = true  # a score that missed its deadline must count, not vanish
[server]
port = {port}
"""

Figures = dict[str, Any]


class Services(NamedTuple):
    """What all measured processes of a session share."""

    kafka: Broker
    redis: Redis
    folder: Path


class Subject(NamedTuple):
    """A process to measure."""

    name: str
    command: str  # `{config}` stands for the configuration file

    def argv(self, config: Path) -> list[str]:
        """Its command line; `python` is this interpreter."""
        words = [word.replace("{config}", str(config)) for word in shlex.split(self.command)]
        return [sys.executable if word == "python" else word for word in words]


class Sample(NamedTuple):
    """Where everything stands at one moment."""

    ns: int
    scores: int
    cpu: Mapping[str, float]  # seconds, by process
    metrics: Mapping[str, float]  # empty for a process that has none


class Trial:
    """Topics, database and consumer group of one measurement: nobody else's."""

    def __init__(self, services: Services, subject: Subject, database: int, source: str) -> None:
        """`database` is an unused one of Redis; `source` names the events (`traffic.source`)."""
        self._services, self._subject, self._source = services, subject, source
        self._database, self._port = database, free_port()
        self._folder = services.folder / f"trial-{database}"
        self._log = self._folder / "process.log"
        self._events = self._scores = ""

    async def steady(self, rate: float, seconds: float, warmup: float) -> Figures:
        """Load it evenly; figures are of what was meant to leave after `warmup` seconds."""
        config = await self._prepare()
        async with self._reader() as reader, self._running(config) as process:
            await self._wake(process, reader)
            with self._load("--rate", str(rate), "--seconds", str(seconds)) as load:
                sent = asyncio.create_task(finished(load, seconds + 60))
                await settled(reader, 1)
                await asyncio.sleep(warmup)
                before = await self._sample(process, reader)
                await asyncio.sleep(LOOK_S)
                start = time.time_ns()
                await asyncio.sleep(seconds - warmup - 2 * LOOK_S - 0.5)
                end = time.time_ns()
                await asyncio.sleep(LOOK_S)
                after = await self._sample(process, reader)
                offered = await sent
            await settled(reader, offered["scored"])
        elapsed = (after.ns - before.ns) / 1e9
        return {
            **reader.arrivals.between(start, end).latency_ms(),
            "scores_per_offered": reader.count / offered["scored"],
            "cores": {name: (after.cpu[name] - before.cpu[name]) / elapsed for name in after.cpu},
            "load": offered,
            **self._costs(before, after),
        }

    async def drain(self, count: int) -> Figures:
        """Start it before a backlog; figures are of the scores between a tenth and the last."""
        config = await self._prepare()
        with self._load("--count", str(count)) as load:
            offered = await finished(load, 300)
        async with self._reader() as reader, self._running(config) as process:
            await settled(reader, offered["scored"] // 10, patience=WAKE_S)
            before = await self._sample(process, reader)
            await settled(reader, offered["scored"])
            if not process.running or not reader.count:
                raise process.failed("did not work off the backlog")
            after = await self._sample(process, reader)
        return {
            "events_per_s": (after.scores - before.scores) / (after.ns - before.ns) * 1e9,
            "scores_per_offered": reader.count / offered["scored"],
            "load": offered,
            **self._costs(before, after),
        }

    def _costs(self, before: Sample, after: Sample) -> Figures:
        used = after.cpu["process"] - before.cpu["process"]
        return {
            "cpu_us_per_event": used / max(after.scores - before.scores, 1) * 1e6,
            "own": own_view(change(before.metrics, after.metrics)) if after.metrics else last_words(self._log),
        }

    async def _prepare(self) -> Path:
        """Create the topics and write the configuration."""
        bootstrap = self._services.kafka.bootstrap
        self._events, self._scores, dlq = [
            await create_topic(bootstrap, name, PARTITIONS) for name in ("events", "scores", "dlq")
        ]
        self._folder.mkdir()
        config = self._folder / "tipstream.toml"
        config.write_text(
            CONFIG.format(
                bootstrap=bootstrap,
                group=self._events,
                events=self._events,
                scores=self._scores,
                dlq=dlq,
                redis=f"redis://127.0.0.1:{self._services.redis.port}/{self._database}",
                port=self._port,
            )
        )
        return config

    def _reader(self) -> Reader:
        return Reader(self._services.kafka.bootstrap, self._scores, PARTITIONS)

    def _load(self, *arguments: str) -> Child:
        where = ["--bootstrap", self._services.kafka.bootstrap, "--topic", self._events, "--source", self._source]
        argv = [sys.executable, "-m", "tests.benchmarks.load", *where, *arguments]
        return Child(argv, log=self._folder / "load.log", announces=True)

    @contextlib.asynccontextmanager
    async def _running(self, config: Path) -> AsyncIterator[Child]:
        """Run the measured process; the reader goes on while it stops."""
        child = Child(self._subject.argv(config), log=self._log)
        try:
            yield child
        finally:
            await asyncio.to_thread(child.stop, 20.0)

    async def _wake(self, process: Child, reader: Reader) -> None:
        """Send a probe every 100 ms until a score comes back: whatever the process is, it is up then."""
        probe = template(next(zipf(seed=0)))
        async with AIOKafkaProducer(bootstrap_servers=self._services.kafka.bootstrap) as producer:
            for number in range(int(WAKE_S * 10)):
                value = probe.stamped(time.time_ns(), PROBE)
                await producer.send_and_wait(self._events, value, key=probe.key, partition=number % PARTITIONS)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.awake.wait(), 0.1)
                    return
                if not process.running:
                    break
        raise process.failed("answered no event")

    async def _sample(self, process: Child, reader: Reader) -> Sample:
        """Read clocks and counters; in a thread, for the reader must not wait."""
        pids = {"process": process, "kafka": self._services.kafka.child, "redis": self._services.redis.child}
        now, scores = time.time_ns(), reader.count
        cpu = {name: cpu_seconds(child.pid) for name, child in pids.items() if child}
        cpu["others"] = machine_seconds() - cpu_seconds(
            os.getpid()
        )  # what this session's services and load did not use
        return Sample(now, scores, cpu, await asyncio.to_thread(scrape, f"http://127.0.0.1:{self._port}/metrics"))


async def finished(load: Child, patience: float) -> Figures:
    """Wait for the line that the load prints at its end."""
    return await asyncio.to_thread(load.ready, patience)


async def settled(reader: Reader, count: int, patience: float = STALL_S) -> None:
    """Wait until the reader has so many scores, or nothing came for `patience` seconds."""
    seen, since = reader.count, time.monotonic()
    while seen < count and time.monotonic() - since < patience:
        await asyncio.sleep(0.01)
        if reader.count > seen:
            seen, since = reader.count, time.monotonic()


def own_view(metrics: Mapping[str, float]) -> Figures:
    """Sum up what a scorer's metrics say of a span of time."""
    latency = "tipstream_event_latency_seconds"
    quantiles = {name: quantile(metrics, latency, q) for name, q in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))}
    batches = total(metrics, "tipstream_batch_records_count")
    calls = {call: total(metrics, f"tipstream_redis_seconds_count{{call={call}") for call in ("load", "checkpoint")}
    stages = {
        stage: total(metrics, f"tipstream_stage_seconds_sum{{stage={stage}")
        / max(total(metrics, f"tipstream_stage_seconds_count{{stage={stage}"), 1)
        for stage in get_args(Stage)
    }
    return {
        **{f"{name}_ms": None if value is None else value * 1000 for name, value in quantiles.items()},
        "batch_records": total(metrics, "tipstream_batch_records_sum") / batches if batches else None,
        "redis_calls_per_batch": sum(calls.values()) / batches if batches else None,
        "late_scores": total(metrics, "tipstream_late_scores_total"),
        "fallback_scores": total(metrics, "tipstream_events_total{outcome=fallback"),
        "mean_stage_ms": {stage: seconds * 1000 for stage, seconds in stages.items()},
    }


def last_words(log: Path) -> Figures:
    """Read what a process without metrics printed when it was told to end."""
    lines = log.read_text(errors="replace").splitlines()
    return msgspec.json.decode(lines[-1], type=Figures) if lines and lines[-1].startswith("{") else {}
