"""`python -m scorer.embedded`: ready line, end on request, and nothing left behind, whatever ends it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from scorer.embedded.child import Child
from tests.scorer.embedded.test_child import python, wait_ended
from tests.services import redis
from tests.services.missing import require


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "scorer.embedded", *arguments]


def address(url: str) -> tuple[str, int]:
    """Host and port of `redis://host:port/0` or `host:port`."""
    found = re.search(r"([\d.]+):(\d+)", url)
    assert found
    return found[1], int(found[2])


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where child processes make their temporary folders."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_kafka(number: signal.Signals) -> None:
    with Child(command("kafka", "--topics", "events:4,scores:2"), announces=True) as child:
        bootstrap = child.ready()["address"]
        async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
            assert len(await producer.partitions_for("events")) == 4
        child.signal(number)
        assert child.process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_redis(number: signal.Signals, temporary: Path) -> None:
    require(redis.missing())
    with Child(command("redis"), announces=True) as child:
        where = address(child.ready()["address"])
        socket.create_connection(where).close()
        assert [path.name.startswith("tipstream-redis-") for path in temporary.iterdir()] == [True]
        child.signal(number)
        assert child.process.wait(10) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where)
    assert not list(temporary.iterdir())


def test_redis_keeps_the_folder_it_was_given(tmp_path: Path) -> None:
    require(redis.missing())
    with Child(command("redis", "--folder", str(tmp_path / "data")), announces=True) as child:
        child.ready()
    assert (tmp_path / "data" / "appendonlydir").exists() or (tmp_path / "data" / "appendonly.aof").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's leash exists on Linux only")
@pytest.mark.parametrize("service", ["kafka", "redis"])
def test_nothing_is_left_when_the_parent_is_killed(service: str, temporary: Path) -> None:
    require(redis.missing())
    code = f"""
from scorer.embedded.child import Child
child = Child({command(service)!r}, announces=True)
print(child.pid, child.ready()["address"], flush=True)
time.sleep(60)
"""
    with subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, url = parent.stdout.readline().split()
        socket.create_connection(address(url)).close()
        parent.kill()
    wait_ended(int(pid))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address(url))
    assert not list(temporary.iterdir())


def test_a_port_in_use_is_said_in_words(tmp_path: Path) -> None:
    require(redis.missing())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(command("redis", "--port", port), capture_output=True, text=True)
    assert done.returncode == 1
    assert "Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("topics", ["events", "events:four"])
def test_bad_topics_are_said_in_words(topics: str) -> None:
    done = subprocess.run(command("kafka", "--topics", topics), capture_output=True, text=True)
    assert done.returncode == 2
    assert "is not like events:4,scores:4" in done.stderr
