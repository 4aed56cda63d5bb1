"""Members as processes of their own, a load that does not stop for them, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from aiokafka.structs import ConsumerRecord
from confluent_kafka import Producer
from redis.asyncio import Redis as Client

from features.catalogue import fingerprint
from features.engine import FeatureEngine
from features.events import Event, decode
from features.kernel import FRESH
from features.redis_store import RedisStore, connect
from scorer.embedded.child import Child
from scorer.ports import free_port
from tests.features.harness import Record, Rows, run_batch
from tests.integration.member import Setup, first_seen, read_scores, read_topic, record

T0 = 1_700_000_000_000


class Process:
    """One member: `tipstream serve` with a configuration file."""

    def __init__(self, setup: Setup, folder: Path, name: str) -> None:
        """Start it."""
        kafka, redis, self.port = setup.config.kafka, setup.config.redis, free_port()
        file = folder / f"{name}.toml"
        file.write_text(
            f"""
            [kafka]
            bootstrap = "{kafka.bootstrap}"
            group = "{kafka.group}"
            events_topic = "{kafka.events_topic}"
            scores_topic = "{kafka.scores_topic}"
            dlq_topic = "{kafka.dlq_topic}"
            session_timeout_ms = {kafka.session_timeout_ms}
            [redis]
            url = "{redis.url}"
            [batching]
            publish_late = true
            [features]
            room_refresh_ms = 50
            [server]
            port = {self.port}
            """
        )
        self.log = folder / f"{name}.log"
        self.child = Child([sys.executable, "-m", "scorer.cli", "serve", "--config", str(file)], log=self.log)

    def freeze(self) -> None:
        """SIGSTOP."""
        self.child.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.child.signal(signal.SIGCONT)

    async def terminate(self) -> int:
        """SIGTERM; the exit status."""
        return await asyncio.to_thread(self.child.stop, 15.0)

    async def metrics(self) -> dict[str, float]:
        """What it exports, by name and labels; empty while it does not answer."""

        def fetch() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
                return str(answer.read().decode())

        try:
            text = await asyncio.to_thread(fetch)
        except OSError:
            assert self.child.running, self.log.read_text()[-3000:]
            return {}
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    async def owns(self) -> int:
        """How many partitions it has claimed."""
        return int((await self.metrics()).get('tipstream_partitions{state="owned"}', 0))

    async def accounted(self) -> None:
        """Every record that it read has exactly one fate."""
        async with asyncio.timeout(60):
            while not (seen := await self.metrics()):  # noqa: ASYNC110 -- another process says when
                await asyncio.sleep(0.05)
        fates = sum(value for name, value in seen.items() if name.startswith("tipstream_events_total{"))
        assert seen["tipstream_records_consumed_total"] == fates > 0


@asynccontextmanager
async def fleet(setup: Setup, folder: Path) -> AsyncIterator[Fleet]:
    """Members that are gone when the block ends, their logs shown if it failed."""
    members = Fleet(setup, folder)
    try:
        yield members
    except BaseException:
        for member in members.all:
            print(f"--- {member.log.name}\n{member.log.read_text()[-4000:]}")
        raise
    finally:
        for member in members.all:
            member.child.kill()


class Fleet:
    """Members of one group."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        """None runs yet."""
        self.setup = setup
        self.all: list[Process] = []
        self._folder = folder

    def start(self) -> Process:
        """Run one more."""
        self.all.append(Process(self.setup, self._folder, f"member-{len(self.all)}"))
        return self.all[-1]

    async def shared(self, *members: Process, seconds: float = 90) -> None:
        """Wait until these share all partitions evenly."""
        share = self.setup.partitions // len(members)
        async with asyncio.timeout(seconds):
            while {await member.owns() for member in members} != {share}:  # noqa: ASYNC110 -- another process says when
                await asyncio.sleep(0.1)


class Load:
    """Writes seeded events at a steady rate, from the start of the block to `finish`."""

    def __init__(self, setup: Setup, *, rate: int = 400, seed: int = 0) -> None:
        """`rate` is in events a second."""
        self._setup = setup
        self._rng = random.Random(seed)
        self._interval_s = 20 / rate
        self._count = 0
        self._producer = Producer({"bootstrap.servers": setup.config.kafka.bootstrap, "enable.idempotence": True})
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def finish(self) -> int:
        """Stop, and wait until Kafka has it all; how many were written."""
        await self.__aexit__()
        assert await asyncio.to_thread(self._producer.flush, 30) == 0
        return self._count

    async def _run(self) -> None:
        topic, partitions = self._setup.config.kafka.events_topic, self._setup.partitions
        while True:
            for _ in range(20):
                event = self._event()
                partition, key, value = record(event, partitions)
                if self._rng.random() < 0.01:
                    value = b"not an event"
                self._producer.produce(topic, value, key, partition)
                self._count += 1
            self._producer.poll(0)
            await asyncio.sleep(self._interval_s)

    def _event(self) -> Event:
        rng, number = self._rng, self._count
        if number and rng.random() < 0.02:
            number -= 1  # the id of the one before: a repeat, if it is the same viewer's
        room = rng.randrange(5)
        kinds = ["comment", "heartbeat", "like", "gift", "enter", "room_stats", "erase"]
        kind = rng.choices(kinds, [10, 8, 3, 2, 2, 1, 0.2])[0]
        event = Event(f"e{number}", kind, T0 + self._count * 50, f"r{room}", f"s{room % 4}")
        if kind != "room_stats":
            event.viewer_id = f"v{min(int(rng.paretovariate(0.6)), 300)}"
        else:
            event.online = rng.randrange(1000)
        if kind == "gift":
            event.gift_tx_id, event.amount_minor, event.coin_type = f"tx{number}", rng.choice([100, 500]), "paid"
        return event


async def caught_up(setup: Setup, seconds: float = 90) -> None:
    """Wait until the store holds all that is in the topic."""
    ends = {partition: len(records) for partition, records in (await events(setup)).items()}
    async with store(setup) as (opened, client):
        async with asyncio.timeout(seconds):
            for partition, end in ends.items():
                while int(await client.hget(opened._meta(partition), "offset") or 0) != end:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)


async def verify(setup: Setup) -> None:
    """Hold scores, dead letters and stored rows to what one uninterrupted pass over the input topic gives."""
    scores = first_seen(await read_scores(setup))
    letters = await read_topic(setup, setup.config.kafka.dlq_topic)
    for partition, records in (await events(setup)).items():
        decoded = decode([r.value for r in records], [r.key for r in records])
        engine, rows = FeatureEngine(), Rows()
        engine.open(partition)
        scorable = []
        lines = [Record(e, partition, records[i].timestamp) for e, i in zip(decoded.events, decoded.index, strict=True)]
        for start in range(0, len(lines), 500):
            some = lines[start : start + 500]
            status = run_batch(engine, rows, some).status
            for at, (line, how) in enumerate(zip(some, status, strict=True)):
                if how == FRESH and line.event.viewer_id is not None and line.event.type != "erase":
                    scorable.append(records[decoded.index[start + at]].offset)
        assert [scored.offset for scored in scores[partition]] == scorable
        rejected = {records[reject.index].offset for reject in decoded.rejects}
        assert {int(dict(letter.headers)["dlq.offset"]) for letter in letters[partition]} == rejected
        await _same_rows(setup, partition, rows)


async def _same_rows(setup: Setup, partition: int, rows: Rows) -> None:
    found: dict[str, dict[bytes, bytes] | bytes | None] = {}
    async with store(setup) as (opened, client):
        for kind, prefix in (("v", opened._viewer(partition, "")), ("r", opened._room(partition, ""))):
            async for key in client.scan_iter(f"{prefix}*", count=1_000):
                name = f"{kind}:{key.decode().removeprefix(prefix)}"
                found[name] = await client.hgetall(key) if kind == "v" else await client.get(key)
    wanted: dict[str, dict[bytes, bytes] | bytes | None] = {
        f"v:{name}": {field.encode(): row for field, row in held.items()} for (_, name), held in rows.viewers.items()
    }
    wanted |= {f"r:{name}": row for (_, name), row in rows.rooms.items()}
    differ = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    assert not differ, {name: (found.get(name), wanted.get(name)) for name in differ[:3]}


async def events(setup: Setup) -> dict[int, list[ConsumerRecord]]:
    """The input topic, by partition."""
    return await read_topic(setup, setup.config.kafka.events_topic)


@asynccontextmanager
async def store(setup: Setup) -> AsyncIterator[tuple[RedisStore, Any]]:
    """The members' store, and the client under it."""
    url = setup.config.redis.url
    client = connect(url, username=None, password=None, cafile=None, cluster=False, timeout_s=5.0)
    assert isinstance(client, Client)
    kafka = setup.config.kafka
    opened = RedisStore(client, group=kafka.group, topic=kafka.events_topic, fingerprint=fingerprint(), ttl_s=1)
    try:
        yield opened, client
    finally:
        await opened.close()
