"""Who watches what is nobody's business: no viewer's id in logs, metrics or probes, and an erasure leaves nothing."""

from __future__ import annotations

import asyncio
import re
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from redis.asyncio import Redis as Client

from features.events import Event, encode
from scorer.embedded.child import Child
from scorer.ports import free_port
from tests.conftest import Topics
from tests.integration.member import Setup, make_setup, produce, read_scores, record, serving, until_consumed
from tests.services import redis
from tests.services.kafka import Broker
from tests.services.missing import require
from tests.services.redis import Redis

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

MARK: Final = "Zx9Viewer"  # in every viewer's id, and nowhere else
T0: Final = 1_700_000_000_000


def said(viewer: str, number: int, kind: str = "comment") -> Event:
    event = Event(f"e{number}", kind, T0 + number * 1_000, f"r{number % 3}", f"s{number % 2}", viewer_id=viewer)
    if kind == "gift":
        event.gift_tx_id, event.amount_minor, event.coin_type = f"tx{number}", 500, "paid"
    return event


def of_every_fate() -> list[tuple[int, bytes | None, bytes | None]]:
    """Records that are scored, repeated, erased, of no use in every way, and too large, each with a viewer's id."""
    good = [said(f"{MARK}-{i % 20}", i, "gift" if i % 5 == 0 else "comment") for i in range(200)]
    records = [record(event, 2) for event in [*good, *good[-5:], said(f"{MARK}-3", 300, "erase")]]
    key = f"{MARK}-bad".encode()
    fields = f'"event_id":"{MARK}","type":"comment","event_time_ms":1,"room_id":"r","streamer_id":"s"'
    useless = (
        f"{{{fields}}}",  # nobody's
        f'{{{fields},"viewer_id":"{MARK}-other"}}',  # another key
        f'{{{fields},"viewer_id":"{MARK}\\u0000"}}',  # not printable
        f'{{{fields},"viewer_id":"{MARK}-bad","coin_type":"{MARK}"}}',
        f'{{{fields},"viewer_id":{{"{MARK}":1}}}}',
        f'{{{fields},"viewer_id":"{MARK * 20}"}}',
        f"{MARK}",
        f'{{"type":"{MARK}"}}',
        f'{{"viewer_id":"{MARK}"' + " " * 20_000,
    )
    return [*records, *((1, key, value.encode()) for value in useless), (0, key, None)]


class Process:
    """The service as it is run, at the most talkative level."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        """Start it."""
        kafka, redis_ = setup.config.kafka, setup.config.redis
        self.port = free_port()
        self.log = folder / "log"
        file = folder / "tipstream.toml"
        file.write_text(
            f"""
            log_level = "debug"
            [kafka]
            bootstrap = "{kafka.bootstrap}"
            group = "{kafka.group}"
            events_topic = "{kafka.events_topic}"
            scores_topic = "{kafka.scores_topic}"
            dlq_topic = "{kafka.dlq_topic}"
            [redis]
            url = "{redis_.url}"
            timeout_ms = 200
            [batching]
            publish_late = true
            [server]
            port = {self.port}
            """
        )
        self.child = Child([sys.executable, "-m", "scorer.cli", "serve", "--config", str(file)], log=self.log)

    async def page(self, path: str) -> str:
        """What it answers, whatever the status; empty while it does not listen."""

        def fetch() -> bytes:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                    return bytes(answer.read())
            except urllib.error.HTTPError as refused:
                with refused:
                    return refused.read()
            except OSError:
                assert self.child.running, self.log.read_text()
                return b""

        return (await asyncio.to_thread(fetch)).decode()

    async def until(self, path: str, words: str) -> None:
        """Wait until a page has these words."""
        try:
            async with asyncio.timeout(30):
                while words not in await self.page(path):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"no {words!r} in {await self.page(path)}\n{self.log.read_text()[-3000:]}") from None

    async def said(self, words: str) -> None:
        """Wait until its log has these words."""
        async with asyncio.timeout(30):
            while not re.search(words, self.log.read_text()):  # noqa: ASYNC110
                await asyncio.sleep(0.1)


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Any]:
    async with Client.from_url(url) as client:
        yield client


async def test_no_viewers_id_is_told_whatever_happens(
    kafka_broker: Broker, kafka_topics: Topics, tmp_path: Path
) -> None:
    require(redis.missing())
    server = Redis(tmp_path)
    server.start()
    setup = await make_setup(kafka_broker.bootstrap, server.url, kafka_topics, partitions=2)
    process = Process(setup, tmp_path)
    pages = []
    try:
        records = of_every_fate()
        await produce(setup, records)
        await process.until("/metrics", f"tipstream_records_consumed_total {len(records)}.0")
        pages += [await process.page(path) for path in ("/metrics", "/readyz", "/healthz", f"/{MARK}")]
        # Trouble talks most: a Redis that refuses what it is asked, that is silent, that is gone, that is empty.
        async with client_of(server.url) as admin:
            await admin.config_set("maxmemory", 1)
            fresh = [record(said(f"{MARK}-new-{i}", 1_000 + i), 2) for i in range(100)]
            await produce(setup, fresh[:50])
            await process.until("/readyz", "waited for")
            pages.append(await process.page("/readyz"))
            await admin.config_set("maxmemory", 0)
            await process.until("/readyz", '"ok": true')
            rights = ["resetkeys", "~none"]
            await admin.execute_command("ACL", "SETUSER", "default", *rights)
        await produce(setup, fresh[50:])
        await process.said("permission")
        pages.append(await process.page("/readyz"))
        server.kill()
        await process.said("cannot be reached|Connection refused")
        server.start()
        await process.until("/metrics", f"tipstream_records_consumed_total {len(records) + len(fresh)}.0")
        pages.append(await process.page("/metrics"))
    finally:
        await asyncio.to_thread(process.child.stop)
        server.stop()
    log = process.log.read_text()
    assert "Redis" in log
    for text in (log, *pages):
        where = text.find(MARK)
        assert where < 0, text[max(0, where - 300) : where + 100]


async def held(url: str, viewer: str) -> list[bytes]:
    """Keys and fields of Redis that have to do with a viewer."""
    async with client_of(url) as client:
        return [key async for key in client.scan_iter(f"*{viewer}*")]


def in_memory(service: Any, viewer: str) -> Sequence[str]:
    """Viewers of that name among the rows in memory."""
    return [name for part in service._engine._cache.partitions.values() for name in part.viewers if name == viewer]


async def test_an_erasure_leaves_nothing_in_redis_or_in_memory_and_the_next_visit_is_the_first(
    kafka_broker: Broker, kafka_topics: Topics, redis_url: str
) -> None:
    setup = await make_setup(kafka_broker.bootstrap, redis_url, kafka_topics, partitions=1)
    events = [said(viewer, i, "gift") for i, viewer in enumerate(["leaves", "stays"] * 10)]
    async with serving(setup.config) as service:
        await produce(setup, [record(event, 1) for event in events])
        await until_consumed(service, 20)
        assert await held(redis_url, "leaves")
        assert in_memory(service, "leaves")
        await produce(setup, [record(said("leaves", 100, "erase"), 1)])
        await until_consumed(service, 21)
        assert await held(redis_url, "leaves") == []
        assert not in_memory(service, "leaves")
        assert await held(redis_url, "stays")
        again = said("leaves", 101)
        await produce(setup, [(0, b"leaves", encode(again))])
        await until_consumed(service, 22)
        totals = service.metrics.totals()
    assert (totals.scored, totals.state_only, totals.unaccounted) == (21, 1, 0)
    scores = [scored.score for scored in (await read_scores(setup))[0]]
    assert [score.cold_start for score in scores if score.viewer_id == "leaves"] == [True] + [False] * 9 + [True]
    assert [score.cold_start for score in scores if score.viewer_id == "stays"] == [True] + [False] * 9
