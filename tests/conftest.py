"""Real services for the tests that ask for them: one Kafka and one Redis a session, names of their own a test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings

from tests.services import kafka, redis
from tests.services.kafka import Broker
from tests.services.missing import require
from tests.services.redis import Redis
from tests.services.topics import create_topic

# How long an example takes says something about the machine, and nothing about what is tested.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


class Topics(Protocol):
    """Creates a topic on the session's broker: `await kafka_topics("events", partitions=4)` gives its unique name."""

    async def __call__(
        self, name: str = ..., partitions: int = ..., settings: Mapping[str, str] | None = ...
    ) -> str: ...


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One real broker for the whole session; a test that kills or freezes brokers starts its own `Broker`."""
    require(kafka.missing())
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def kafka_topics(kafka_broker: Broker) -> Topics:
    """Make topics that no other test has."""

    async def create(name: str = "topic", partitions: int = 4, settings: Mapping[str, str] | None = None) -> str:
        return await create_topic(kafka_broker.bootstrap, name, partitions, settings)

    return create


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """One real redis-server for the whole session; a test that kills or freezes it starts its own `Redis`."""
    require(redis.missing())
    server = Redis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_databases() -> Iterator[int]:
    """Give numbers of databases that no test has used."""
    return itertools.count(1)


@pytest.fixture
def redis_url(redis_server: Redis, redis_databases: Iterator[int]) -> str:
    """Address of an empty database that no other test has."""
    return f"redis://127.0.0.1:{redis_server.port}/{next(redis_databases)}"
