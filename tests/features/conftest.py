"""Compile the kernel before the clock of any one test runs: the first time on a machine takes many seconds."""

from collections.abc import Iterator

import pytest

from features.engine import warm_up
from tests.services import redis
from tests.services.missing import require
from tests.services.redis_cluster import RedisCluster

warm_up()


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three primaries, each with a replica, for the whole session; a test that breaks it mends it."""
    require(redis.missing())
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
