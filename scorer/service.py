"""The service put together: build the parts, run them, take them down in order."""

import asyncio
import itertools
import logging
import os
import signal
import sys
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Collection, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import engines
from engines.model import BUCKETS
from features.catalogue import fingerprint
from features.engine import FeatureEngine, warm_up
from features.redis_store import RedisStore, connect
from features.rows import RowVersionError
from features.store import Store, StoreUnavailable, Written
from scorer import garbage
from scorer.batcher import Batcher, ServiceTimes
from scorer.checkpointer import Checkpointer
from scorer.config import Config
from scorer.health import Health
from scorer.kafka.contact import Contact
from scorer.kafka.refusal import refusal
from scorer.kafka.sink import Sink
from scorer.kafka.source import Source
from scorer.lease import Lease
from scorer.loop import Loop, patiently
from scorer.metrics import Metrics, RedisCall
from scorer.models import Models
from scorer.ownership import Ownership, Stopped
from scorer.pipeline import Pipeline, Topics
from scorer.reporter import Reporter
from scorer.rooms import RoomExchange
from scorer.tasks import end, within
from scorer.timed_store import TimedStore
from scorer.watchdog import ProgressWatch, measure_loop_lag
from scorer.web import WebServer

log = logging.getLogger(__name__)

_T = TypeVar("_T")
REFERENCE_MODEL = Path(engines.__file__).parent / "models" / "reference"
_PATIENCE_S = 60.0
_REPORT_S = 1.0
_LOOK_EVERY = 10  # reports
_CLOSING_S = 3.0  # for each of four things: a supervisor's patience is to be longer than their sum


async def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status; raises for what no retry can mend."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # A model's thread that is done would wait up to 5 ms, the default, for the interpreter while the loop is busy.
    sys.setswitchinterval(0.0002)
    service = Service(config)
    garbage.take_over()
    try:
        if await _before(service.start(), stop):
            await service.serve(stop)
    finally:
        await service.close()
    return 0


async def _before(starting: Coroutine[Any, Any, None], stop: asyncio.Event) -> bool:
    """Start, unless `stop` is set before that is done; the group may keep us waiting for as long as it likes."""
    started, stopping = asyncio.create_task(starting), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([started, stopping], return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            started.result()
        return started.done()
    finally:
        await end([started, stopping])


class Service:
    """Every part of one running member, and the order in which they start and stop."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.metrics = Metrics()
        self.health = Health()
        print_ = fingerprint()
        self._server = WebServer(self.health.pages(self.metrics), config.server.host, config.server.port)
        folder = config.model.path or REFERENCE_MODEL
        self.models = Models(config, print_, folder, self.metrics)
        self._engine = FeatureEngine(capacity=config.features.cache_viewers)
        warm_up()
        self._store: Store = TimedStore(_store(config, print_), self._redis_call, time.monotonic)
        batching, kafka = config.batching, config.kafka
        self._ownership = Ownership(
            self._store,
            self._engine,
            owner=f"{os.uname().nodename}:{os.getpid()}",
            start_from=kafka.start_from,
            on_out_of_range=kafka.on_offset_out_of_range,
            drain_s=min(config.drain_s, 3.0),  # within the group's rebalance timeout
        )
        self._source = Source(kafka, self._ownership)
        self._ownership.attach(self._source)
        self._sink = Sink(kafka, recreated=lambda: self.metrics.producers.add(1))
        self._rooms = RoomExchange(
            self._store,
            self._engine,
            lambda: self._ownership.leases.keys(),
            interval_s=config.features.room_refresh_ms / 1000,
        )
        self._batcher = Batcher(
            ServiceTimes(BUCKETS[: bisect_left(BUCKETS, batching.max_batch) + 1]),  # the last holds the largest batch
            max_batch=batching.max_batch,
            deadline_ms=batching.deadline_ms,
            publish_late=batching.publish_late,
        )
        self._outcomes = _Outcomes(self._engine, self._ownership, self.metrics, self.health)
        self._checkpointer = Checkpointer(
            self._store,
            self._outcomes,
        )
        self._fingerprint = print_

    async def start(self) -> None:
        """Connect and join the group; what partitions wait for is told as they are claimed."""
        self._server.start()
        self.health.enter("starting", "loading models")
        await self.models.start()
        self.health.enter("starting", "connecting to Kafka")
        await self._sink.start()
        await self._source.start()
        self.models.report()
        self.health.enter("ready")

    async def serve(self, stop: asyncio.Event) -> None:
        """Move records until `stop`, then drain. Raises what one of the parts failed with."""
        main = self._loop()
        self._ownership.attach_loop(main.cut)
        self._ownership.attach_rooms(self._rooms.publish)
        moving = asyncio.create_task(main.run(stop), name="loop")
        helpers = [
            asyncio.create_task(self._rooms.run(), name="rooms"),
            asyncio.create_task(self._commit(), name="commit"),
            asyncio.create_task(self._report(), name="report"),
            asyncio.create_task(self.models.run(), name="models"),
            asyncio.create_task(garbage.collect_young(), name="garbage"),
            asyncio.create_task(measure_loop_lag(time.monotonic, self._lagged), name="loop-lag"),
        ]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait([moving, stopping, *helpers], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            self.health.enter("draining", "finishing what was read")
            await self._drain(moving)
        finally:
            await end([*helpers, stopping, moving])

    async def _drain(self, moving: "asyncio.Task[None]") -> None:
        """Finish what was read, within `drain_s`; what is not finished by then, another member does again."""
        try:
            async with asyncio.timeout(self._config.drain_s):
                await moving
                await self._ownership.drain(list(self._ownership.leases.values()), self._config.drain_s)
                await self._ownership.commit()
        except TimeoutError:
            log.warning("Not everything was finished in %.1f s; it will be done again.", self._config.drain_s)

    async def close(self) -> None:
        """Leave the group and let go of everything; bounded, whatever does not answer."""
        self.health.enter("stopped")
        for close in (self._source.stop, partial(self._sink.stop, 1.0), self._store.close, self.models.close):
            if (error := await within(_CLOSING_S, close())) is not None:
                log.warning("Closing: %s: %s", type(error).__name__, error)
        self._server.close()

    async def settled(self) -> None:
        """Wait until all that was read is published and durable."""
        await self._ownership.drain(list(self._ownership.leases.values()), self._config.drain_s)

    def _loop(self) -> Loop:
        config = self._config
        score_on = config.batching.score_on
        pipeline = Pipeline(
            self._engine,
            self._store,
            self.models.lanes,
            Topics(config.kafka.events_topic, config.kafka.scores_topic, config.kafka.dlq_topic),
            score_on=None if score_on == "all" else frozenset(score_on),
            deadline_ms=config.batching.deadline_ms,
            fingerprint=self._fingerprint,
            clock=_now_ms,
            patiently=self._patiently,
            refused=self._outcomes.refused,
            unreadable=self._outcomes.unreadable,
            hear=self._hear,
        )
        return Loop(
            self._source,
            self._sink,
            self._ownership,
            self._batcher,
            pipeline,
            self._checkpointer,
            self.metrics,
            in_flight=config.batching.in_flight,
            checkpoint_ms=config.state.checkpoint_ms,
            clock=_now_ms,
        )

    async def _hear(self, rooms: Collection[str]) -> None:
        if self._source.partitions != 1:  # else there are no others
            await self._rooms.hear(rooms)

    async def _patiently(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Wait for the store, and say so meanwhile: no checkpoint may be there to fail and tell."""
        try:
            return await patiently(call, lambda error: self.health.wait_for("A row", str(error)))
        finally:
            self.health.resume("A row")

    def _redis_call(self, call: RedisCall, seconds: float) -> None:
        self.metrics.redis.observe(seconds, 1, call)

    def _lagged(self, seconds: float) -> None:
        self.metrics.loop_lag.observe(seconds)
        self.health.tick()

    async def _commit(self) -> None:
        while True:
            await asyncio.sleep(self._config.state.commit_ms / 1000)
            await self._ownership.commit()

    async def _report(self) -> None:
        reporter = Reporter(self._source, self._ownership, self._engine, self.metrics, self.health)
        watch = ProgressWatch(_PATIENCE_S)
        contact = Contact(lambda: refusal(self._config.kafka), time.monotonic)
        for second in itertools.count(1):
            await asyncio.sleep(_REPORT_S)
            if second % _LOOK_EVERY == 0:
                await self._source.look()
            lag = reporter.report()
            self.models.report()
            if (why := await contact.lost(self._sink.broken or self._source.cut_off)) is not None:
                self.health.wait_for("Kafka", why)
            else:
                self.health.resume("Kafka")
            # A restart brings nothing back that is away, and costs the rows in memory.
            watch.check(time.monotonic(), self.metrics.totals().consumed, 0 if self.health.waits else lag)


class _Outcomes:
    """What follows from how a checkpoint ended, and from what the store held."""

    def __init__(self, engine: FeatureEngine, ownership: Ownership, metrics: Metrics, health: Health) -> None:
        self._engine = engine
        self._ownership = ownership
        self._metrics = metrics
        self._health = health

    def written(self, lease: Lease, sequence: int) -> None:
        self._engine.release(lease.partition, sequence)
        self._metrics.checkpoints.add(1, "applied")
        self._health.resume("Redis")

    def refused(self, lease: Lease, outcome: Written) -> None:
        self._metrics.checkpoints.add(1, outcome.value)
        self._ownership.refused(lease, outcome)

    def unreadable(self, lease: Lease, error: RowVersionError) -> None:
        self._ownership.give_up(lease, Stopped("unreadable-row", str(error)))

    def failed(self, error: StoreUnavailable) -> None:
        self._metrics.checkpoints.add(1, "failed")
        self._health.wait_for("Redis", str(error))
        log.warning("A checkpoint waits: %s", error)


def _store(config: Config, print_: str) -> Store:
    redis = config.redis
    client = connect(
        redis.url,
        username=redis.username,
        password=None if redis.password is None else redis.password.reveal(),
        cafile=None if redis.cafile is None else str(redis.cafile),
        cluster=redis.cluster,
        timeout_s=redis.timeout_ms / 1000,
    )
    return RedisStore(
        client,
        group=config.kafka.group,
        topic=config.kafka.events_topic,
        fingerprint=print_,
        ttl_s=redis.ttl_days * 86_400,
    )


def _now_ms() -> float:
    return time.time() * 1000
