"""Probes answer from threads of their own, with reasons."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from scorer import web
from scorer.health import Health
from scorer.metrics import BatchStats, Metrics
from scorer.web import CONNECTIONS, WebServer


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock, patience_s=10)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def server(health: Health, metrics: Metrics) -> Iterator[WebServer]:
    with WebServer(health.pages(metrics), "127.0.0.1", 0) as server:
        yield server


def get(server: WebServer, path: str, method: str = "GET") -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def ask(server: WebServer, path: str) -> tuple[int, dict[str, Any]]:
    status, body = get(server, path)
    return status, json.loads(body)


def test_alive_from_the_start_but_ready_only_when_told(server: WebServer, health: Health) -> None:
    assert ask(server, "/healthz") == (200, {"ok": True, "reasons": []})
    status, body = ask(server, "/readyz")
    assert status == 503
    assert body["phase"] == "starting"
    assert "starting" in body["reasons"][0]
    health.enter("ready")
    assert ask(server, "/readyz") == (200, {"ok": True, "reasons": [], "phase": "ready"})
    health.enter("draining", "SIGTERM")
    assert ask(server, "/readyz")[1]["reasons"] == ["The service is draining: SIGTERM."]
    assert ask(server, "/healthz")[0] == 200


def test_a_loop_that_stands_still_is_unhealthy_until_it_turns(server: WebServer, health: Health, clock: Clock) -> None:
    clock.now += 1000
    assert ask(server, "/healthz")[0] == 200, "a slow start is no hang"
    health.tick()
    clock.now += 10
    assert ask(server, "/healthz")[0] == 200
    clock.now += 1
    status, body = ask(server, "/healthz")
    assert status == 503
    assert body["reasons"] == ["The event loop has not turned for 11 s (allowed: 10 s)."]
    health.tick()
    assert ask(server, "/healthz")[0] == 200


def test_stopped_partitions_and_missing_services_are_named(server: WebServer, health: Health) -> None:
    health.enter("ready")
    health.stop_partition(3, "its offset 7 is out of range.")
    health.wait_for("Redis", "connection refused.")
    status, body = ask(server, "/readyz")
    assert status == 503
    assert body["reasons"] == [
        "Redis is waited for: connection refused.",
        "Partition 3 stopped: its offset 7 is out of range.",
    ]
    health.clear_partition(3)
    health.resume("Redis")
    assert ask(server, "/readyz")[0] == 200


def test_metrics_page(server: WebServer, metrics: Metrics) -> None:
    metrics.observe(BatchStats(consumed=2, scored=2))
    status, body = get(server, "/metrics")
    assert status == 200
    assert b"tipstream_records_consumed_total 2.0" in body


def test_other_pages_and_methods_are_refused_in_words(server: WebServer) -> None:
    status, body = get(server, "/secret?x=1")
    assert status == 404
    assert b"/healthz, /readyz, /metrics" in body
    assert get(server, "/healthz", "POST")[0] == 501
    assert get(server, "/healthz?probe=1", "HEAD") == (200, b"")


def test_idle_connections_cannot_pile_up(server: WebServer) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(CONNECTIONS)]
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as surplus:
            assert surplus.recv(1) == b"", "closed at once"
        idle[0].sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert idle[0].recv(12) == b"HTTP/1.0 200"
    finally:
        for connection in idle:
            connection.close()


def test_a_request_that_drips_is_ended_in_time(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte is in time and the whole is not: sixteen such clients would keep every probe out."""
    monkeypatch.setattr(web, "_PATIENCE_S", 0.3)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as slow:
        slow.settimeout(0.1)
        slow.sendall(b"GET /healthz HTTP/1.0\r\nX: ")
        ended = b"no"
        while ended and time.monotonic() - began < 20:
            try:
                ended = slow.recv(1)
            except TimeoutError:
                with contextlib.suppress(ConnectionError):
                    slow.sendall(b"x")
            except ConnectionError:
                ended = b""
    assert ended == b"", "hung up"
    assert time.monotonic() - began > 0.2


@pytest.mark.parametrize("head", [b"", b"GET /healthz HTTP/1.0\r\nX: "], ids=["line", "header"])
def test_a_large_request_is_not_taken_in(server: WebServer, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as greedy:
        try:
            greedy.sendall(head + b"x" * 100_000)
            answer = greedy.recv(1_000)
        except ConnectionError:  # hung up in the middle
            answer = b""
    assert b"200" not in answer
    assert get(server, "/healthz")[0] == 200


def test_a_taken_port_is_an_error(server: WebServer) -> None:
    with pytest.raises(OSError, match="in use"):
        WebServer({}, "127.0.0.1", server.port)
