"""The floor that the scorer is measured against: consume, decode, encode a score, publish, await the acknowledgement.

No features, no model, no state. Same configuration file, same clients and same event loop as `tipstream serve`:

python -m tests.benchmarks.passthrough serve --config FILE

Work-conserving: what a poll brings goes out at once, arrivals gather while the batch is on its way. Prints its own
view of the run on SIGTERM, as one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import struct
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import ConsumerRecord, RecordMetadata

from features.events import Event
from scorer.config import Config, load
from scorer.layers import ConfigError
from tests.benchmarks.traffic import PROBE, sent_at

decode = msgspec.json.Decoder(Event).decode


def score(event: Event, now_ms: int) -> bytes:
    """Give about 300 bytes in the shape of a score."""
    return orjson.dumps(
        {
            "event_id": event.event_id,
            "type": event.type,
            "viewer_id": event.viewer_id,
            "room_id": event.room_id,
            "streamer_id": event.streamer_id,
            "event_time_ms": event.event_time_ms,
            "scored_time_ms": now_ms,
            "p_tip": {"60": 0.0123456, "600": 0.0234567},
            "expected_value_minor": 12,
            "tier": "low",
            "mode": "full",
            "model": "none:0",
            "engine": "none",
        }
    )


class PassThrough:
    """The loop, and what it saw."""

    def __init__(self, config: Config, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer) -> None:
        """Take clients that are started."""
        self._config, self._consumer, self._producer = config, consumer, producer
        self._latencies: list[int] = []  # ns, one an event
        self._batches: list[int] = []  # events, one a poll

    async def run(self, stopped: asyncio.Event) -> None:
        """Pass records through until stopped."""
        while not stopped.is_set():
            polled = await self._consumer.getmany(timeout_ms=100, max_records=self._config.batching.max_batch)
            if not polled:
                continue
            batches = await asyncio.gather(*(self._publish(tp, records) for tp, records in polled.items()))
            now = time.time_ns()
            for events in batches:
                self._latencies += [now - sent_at(event.event_id) for event in events]
            self._batches.append(sum(map(len, batches)))

    async def _publish(self, tp: TopicPartition, records: Sequence[ConsumerRecord[bytes, bytes]]) -> list[Event]:
        now_ms = time.time_ns() // 1_000_000
        events, acknowledgements = [], []
        batch = self._producer.create_batch()
        for record in records:
            event = decode(record.value or b"")
            message = {
                "key": record.key,
                "value": score(event, now_ms),
                "timestamp": now_ms,
                "headers": [("src-off", struct.pack(">q", record.offset))],
            }
            if batch.append(**message) is None:
                acknowledgements.append(await self._send(batch, tp.partition))
                batch = self._producer.create_batch()
                batch.append(**message)
            if not event.event_id.startswith(PROBE):
                events.append(event)
        acknowledgements.append(await self._send(batch, tp.partition))
        await asyncio.gather(*acknowledgements)
        return events

    async def _send(self, batch: BatchBuilder, partition: int) -> asyncio.Future[RecordMetadata]:
        sent: asyncio.Future[RecordMetadata] = await self._producer.send_batch(
            batch, self._config.kafka.scores_topic, partition=partition
        )
        return sent

    def report(self) -> dict[str, float]:
        """Give quantiles of event -> acknowledged score (ms) without the first fifth, and the mean batch size."""
        if not self._latencies:
            return {}
        settled = np.array(self._latencies[len(self._latencies) // 5 :]) / 1e6
        p50, p99, p999 = map(float, np.percentile(settled, [50, 99, 99.9]))
        return {"p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "batch_records": float(np.mean(self._batches))}


async def serve(config: Config) -> dict[str, float]:
    """Run until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    consumer = AIOKafkaConsumer(
        config.kafka.events_topic,
        bootstrap_servers=config.kafka.bootstrap,
        group_id=config.kafka.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_min_bytes=config.kafka.fetch_min_bytes,
        fetch_max_wait_ms=config.kafka.fetch_max_wait_ms,
        max_partition_fetch_bytes=256 * 1024,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=config.kafka.bootstrap, enable_idempotence=True, max_batch_size=256 * 1024
    )
    async with consumer, producer:
        loop = PassThrough(config, consumer, producer)
        await loop.run(stopped)
    return loop.report()


def main() -> None:
    """Read the command line, which is `tipstream serve`'s."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.passthrough")
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--config", type=Path, required=True)
    options = parser.parse_args()
    try:
        config = load(options.config)
    except ConfigError as error:
        parser.error(str(error))
    print(orjson.dumps(uvloop.run(serve(config))).decode(), flush=True)


if __name__ == "__main__":
    main()
