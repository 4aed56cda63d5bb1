"""The instruments: quantiles from buckets, differences of scrapes, CPU time."""

from __future__ import annotations

import os

import pytest
from prometheus_client import CollectorRegistry, Histogram, start_http_server

from tests.benchmarks.measure import change, cpu_seconds, host, quantile, scrape, total


def test_quantiles_lie_straight_between_bounds() -> None:
    buckets = {"t_bucket{le=1.0}": 50.0, "t_bucket{le=2.0}": 100.0, "t_bucket{le=+Inf}": 100.0}
    assert quantile(buckets, "t", 0.25) == 0.5
    assert quantile(buckets, "t", 0.75) == 1.5


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert quantile({"t_bucket{le=1.0}": 1.0, "t_bucket{le=+Inf}": 10.0}, "t", 0.9) == 1.0


@pytest.mark.parametrize("samples", [{}, {"t_bucket{le=1.0}": 0.0, "t_bucket{le=+Inf}": 0.0}])
def test_an_empty_histogram_has_no_quantile(samples: dict[str, float]) -> None:
    assert quantile(samples, "t", 0.5) is None


def test_a_page_is_read_and_two_are_compared() -> None:
    registry = CollectorRegistry()
    seconds = Histogram("redis_seconds", "Time.", ["call"], registry=registry, buckets=(0.1, 1.0))
    server, thread = start_http_server(0, "127.0.0.1", registry=registry)
    url = f"http://127.0.0.1:{server.server_port}/metrics"
    try:
        seconds.labels("load").observe(0.05)
        before = scrape(url)
        seconds.labels("load").observe(0.5)
        seconds.labels("rooms").observe(0.5)
        added = change(before, scrape(url))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert added["redis_seconds_count{call=load}"] == 1.0
    assert total(added, "redis_seconds_count") == 2.0
    assert total(added, "redis_seconds_bucket{call=load,le=0.1}") == 0.0


def test_a_page_that_is_not_there_is_empty() -> None:
    assert scrape("http://127.0.0.1:9/metrics") == {}


def test_cpu_time_grows_with_work() -> None:
    before = cpu_seconds(os.getpid())
    while cpu_seconds(os.getpid()) - before < 0.02:
        pass


def test_the_host_is_described_without_its_name() -> None:
    described = host()
    assert described["cpu"]
    assert described["aiokafka"]
    assert os.uname().nodename not in described.values()
