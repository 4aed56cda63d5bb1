"""How cases get their Kafka and Redis: ones started here, or those that the environment names.

FAULTS_KAFKA, FAULTS_REDIS   addresses of services to use instead; cases that must kill or freeze them are skipped
FAULTS_SEED, FAULTS_SEEDS    the first seed, and how many
FAULTS_FOLDER                where histories of failures and the report go

The whole pack runs with `pytest -m "not soak" tests/faults`; without `-m`, only what is quick.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest

from features.engine import warm_up
from scorer.config import Config
from tests.faults.history import History
from tests.faults.traffic import Shape
from tests.faults.world import World, world
from tests.integration.member import Setup, make_setup
from tests.services import kafka, redis
from tests.services.kafka import Broker
from tests.services.missing import require
from tests.services.mock import FaultyCluster
from tests.services.redis import Redis
from tests.services.topics import create_topic

warm_up()  # before the clock of any one case runs: the first time on a machine takes many seconds

KAFKA = os.environ.get("FAULTS_KAFKA", "")
REDIS = os.environ.get("FAULTS_REDIS", "")
_CACHE = 1_000  # viewers in memory, the fewest that are allowed: rows must come and go
_SESSION_MS = 3_000  # quicker than the configuration allows; brokers elsewhere allow no less than 6 s


class Worlds(Protocol):
    """Sets up a case: `async with worlds(rate=400) as world`."""

    def __call__(
        self,
        *,
        kafka: str = ...,
        redis: str = ...,
        mock: FaultyCluster | None = ...,
        via_kafka: str = ...,
        via_redis: str = ...,
        redis_timeout_ms: int = ...,
        shape: Shape = ...,
        rate: float = ...,
        partitions: int = ...,
        session_timeout_ms: int | None = ...,
        cluster: bool = ...,
        **batching: Any,
    ) -> AbstractAsyncContextManager[World]:
        """Make topics of its own, and a load that flows.

        `kafka` and `redis` are addresses to use instead of the shared services, or `mock` for Kafka; `via_kafka` and
        `via_redis` those that members see; `session_timeout_ms` of None leaves what the configuration says; `batching`
        goes to that section.
        """
        ...


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long cases out unless asked for by a mark: any `-m` that names `faults` or `soak`."""
    asked = config.getoption("markexpr")
    if "faults" not in asked and "soak" not in asked:
        left_out = {item for item in items if item.get_closest_marker("faults") or item.get_closest_marker("soak")}
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what takes a seed with each of the seeds asked for."""
    if "seed" in metafunc.fixturenames:
        first, count = int(os.environ.get("FAULTS_SEED", "0")), int(os.environ.get("FAULTS_SEEDS", "1"))
        metafunc.parametrize("seed", range(first, first + count), ids=lambda seed: f"seed{seed}")


@pytest.fixture
def history(request: pytest.FixtureRequest, seed: int) -> History:
    """What is written down about the case."""
    return History.of(request.node.name, seed)


@pytest.fixture
def worlds(request: pytest.FixtureRequest, tmp_path: Path, history: History) -> Worlds:
    """Set cases up on the shared services."""

    @asynccontextmanager
    async def make(
        *,
        kafka: str = "",
        redis: str = "",
        mock: FaultyCluster | None = None,
        via_kafka: str = "",
        via_redis: str = "",
        redis_timeout_ms: int = 2_000,
        shape: Shape = Shape(),  # noqa: B008  # immutable
        rate: float = 400,
        partitions: int = 4,
        session_timeout_ms: int | None = None if KAFKA else _SESSION_MS,
        cluster: bool = False,
        **batching: Any,
    ) -> AsyncIterator[World]:
        if mock is not None:
            kafka = mock.bootstrap
        kafka = kafka or KAFKA or request.getfixturevalue("kafka_broker").bootstrap
        redis = redis or REDIS or request.getfixturevalue("redis_url")

        async def topics(name: str = "topic", partitions: int = 4, settings: Any = None) -> str:
            if mock is not None:
                mock.create(name, partitions)
                return name
            return await create_topic(kafka, f"faults.{name}", partitions, settings, replicas=-1 if KAFKA else 1)

        setup = await make_setup(kafka, redis, topics, partitions=partitions, **batching)
        config = setup.config
        settings = msgspec.structs.replace(config.redis, cluster=cluster, timeout_ms=redis_timeout_ms)
        features = msgspec.structs.replace(config.features, cache_viewers=_CACHE)
        setup.config = msgspec.structs.replace(config, redis=settings, features=features)
        seen = Setup(_as_seen(setup.config, via_kafka or kafka, via_redis or redis), partitions)
        async with world(
            setup, seen, tmp_path, history, shape=shape, rate=rate, session_timeout_ms=session_timeout_ms
        ) as opened:
            yield opened

    return make


def _as_seen(config: Config, kafka: str, redis: str) -> Config:
    """The same topics and group at other addresses."""
    return msgspec.structs.replace(
        config,
        kafka=msgspec.structs.replace(config.kafka, bootstrap=kafka),
        redis=msgspec.structs.replace(config.redis, url=redis),
    )


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Redis]:
    """A redis-server that the case may kill."""
    if REDIS:
        pytest.skip("the case kills or changes Redis: not done to one that is named by FAULTS_REDIS")
    require(redis.missing())
    server = Redis(tmp_path / "redis")
    server.folder.mkdir()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that the cases of a module may kill, one after the other."""
    if KAFKA:
        pytest.skip("the case kills or freezes the broker: not done to one that is named by FAULTS_KAFKA")
    require(kafka.missing())
    broker = Broker(tmp_path_factory.mktemp("own-kafka"))
    broker.start()
    yield broker
    broker.stop()


async def back(broker: Broker) -> None:
    """Start a broker again. From this thread: a child ends with the thread that started it."""
    broker.launch()
    await asyncio.to_thread(broker.wait)
