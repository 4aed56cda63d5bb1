"""Open-loop load: events leave at times fixed beforehand, however slow the broker or the measured process is.

python -m tests.benchmarks.load --bootstrap HOST:PORT --topic TOPIC --rate 10000 --seconds 30
python -m tests.benchmarks.load --bootstrap HOST:PORT --topic TOPIC --count 200000      (flat out)

Every record's timestamp and event id hold the time it was meant to leave, so that waiting in this process counts as
latency too. Prints one line of JSON at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
import uvloop
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder

from engines.commands.numbers import whole
from tests.benchmarks.arguments import from_one
from tests.benchmarks.traffic import Template, named, source, template

POOL: Final = 50_000  # distinct events, sent over and over with new ids and times
TICK_S: Final = 0.001
FLAT_OUT: Final = 2_000  # events a tick when there is no rate


class Sent(NamedTuple):
    """What was offered."""

    events: int
    scored: int  # events that a score will answer
    seconds: float
    lag_ms_p99: float  # how late this process itself was
    cpu_us_per_event: float


class Load:
    """A pool of events, placed on partitions, and the producer that sends them."""

    def __init__(
        self, producer: AIOKafkaProducer, topic: str, pool: Sequence[Template], partitions: Sequence[int]
    ) -> None:
        """`partitions` are those of the topic."""
        place = DefaultPartitioner()
        self._producer, self._topic = producer, topic
        placed = [(place(event.key, partitions, partitions), event) for event in pool]
        self._events = itertools.cycle(placed)
        self._pending: set[asyncio.Future[object]] = set()
        self.scored = 0

    async def send(self, intended_ns: Sequence[int]) -> None:
        """Hand one event for each time to the producer, in one batch a partition; returns when all are accepted."""
        builders: dict[int, BatchBuilder] = {}
        full: list[tuple[int, BatchBuilder]] = []
        for when in intended_ns:
            partition, event = next(self._events)
            self.scored += event.scored
            builder = builders.get(partition) or builders.setdefault(partition, self._producer.create_batch())
            record = {"key": event.key, "value": event.stamped(when), "timestamp": when // 1_000_000}
            if builder.append(**record) is None:
                full.append((partition, builder))
                builders[partition] = self._producer.create_batch()
                builders[partition].append(**record)
        for partition, builder in full:
            await self._post(partition, builder)
        await asyncio.gather(*(self._post(partition, builder) for partition, builder in builders.items()))

    async def _post(self, partition: int, builder: BatchBuilder) -> None:
        future = await self._producer.send_batch(builder, self._topic, partition=partition)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)

    async def finish(self) -> None:
        """Wait for what the broker has not acknowledged yet; raises what it refused."""
        await asyncio.gather(*self._pending)


async def offer(load: Load, rate: float, seconds: float) -> Sent:
    """Send at `rate` events a second, evenly spaced."""
    total, sent, lags = int(rate * seconds), 0, []
    start, cpu = time.time_ns(), time.process_time()
    while sent < total:
        due = min(total, int((time.time_ns() - start) * rate / 1e9) + 1)
        if due > sent:
            times = [start + int(i * 1e9 / rate) for i in range(sent, due)]
            await load.send(times)
            lags.append((time.time_ns() - times[0]) / 1e6)
            sent = due
        await asyncio.sleep(TICK_S)
    await load.finish()
    elapsed, cpu = (time.time_ns() - start) / 1e9, time.process_time() - cpu
    return Sent(sent, load.scored, elapsed, float(np.percentile(lags, 99)), cpu / sent * 1e6)


async def fill(load: Load, count: int) -> Sent:
    """Send `count` events as fast as the broker takes them."""
    start, cpu = time.time_ns(), time.process_time()
    for first in range(0, count, FLAT_OUT):
        now = time.time_ns()
        await load.send([now + i for i in range(min(FLAT_OUT, count - first))])
    await load.finish()
    elapsed, cpu = (time.time_ns() - start) / 1e9, time.process_time() - cpu
    return Sent(count, load.scored, elapsed, 0.0, cpu / count * 1e6)


async def run(options: argparse.Namespace) -> Sent:
    """Send what the command line says."""
    pool = [template(event) for event in itertools.islice(source(options.source)(options.seed), POOL)]
    producer = AIOKafkaProducer(bootstrap_servers=options.bootstrap, acks=1, max_batch_size=1 << 18)
    async with producer:
        load = Load(producer, options.topic, pool, sorted(await producer.partitions_for(options.topic)))
        if options.count:
            return await fill(load, options.count)
        return await offer(load, options.rate, options.seconds)


def main() -> None:
    """Read the command line, send, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.load", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--rate", type=from_one, default=10_000.0, help="events a second")
    parser.add_argument("--seconds", type=from_one, default=30.0)
    parser.add_argument("--count", type=whole, default=0, help="flat out, this many events")
    parser.add_argument("--seed", type=whole, default=1)
    parser.add_argument(
        "--source", type=named, default="tests.benchmarks.traffic:zipf", help="module:function, seed -> events"
    )
    sent = uvloop.run(run(parser.parse_args()))
    print(msgspec.json.encode(sent._asdict()).decode(), flush=True)


if __name__ == "__main__":
    main()
