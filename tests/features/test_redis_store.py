"""The Redis store through what networks, servers and the client library do to it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis as Client
from redis.crc import key_slot

from features.engine import Changes, RowKey, ViewerChange
from features.redis_store import RedisStore, connect
from features.store import Checkpoint, StoreUnavailable, TornState, Written
from scorer.check import ACL
from scorer.ports import free_port
from tests.services import redis
from tests.services.missing import require
from tests.services.proxy import Proxy
from tests.services.redis import Redis

pytestmark = pytest.mark.redis

P = 3
TTL_S = 3_600


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Redis]:
    """A server of the test's own, to be reconfigured, filled and frozen."""
    require(redis.missing())
    server = Redis(tmp_path / "redis")
    server.folder.mkdir()
    server.start()
    yield server
    server.child and server.child.kill()


@asynccontextmanager
async def opened(url: str, *, timeout_s: float = 2.0, **access: str) -> AsyncIterator[RedisStore]:
    who = {"username": None, "password": None, **access}
    client = connect(url, **who, cafile=None, cluster=False, timeout_s=timeout_s)
    store = RedisStore(client, group="g", topic="t", fingerprint="0123456789abcdef", ttl_s=TTL_S)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def admin(url: str) -> AsyncIterator[Any]:
    async with Client.from_url(url) as client:
        yield client


def rows(n: int, blob: bytes = b"row") -> Changes:
    """Viewers with a pair each, and a room."""
    return Changes({f"v{i}": ViewerChange(False, blob, {"s": blob}) for i in range(n)}, {"r": blob})


def step(number: int, changes: Changes | None = None, *, epoch: int = 1) -> Checkpoint:
    """The write that takes the partition from offset 10 (number - 1) to 10 number."""
    expected = 10 * (number - 1) if number > 1 else None
    return Checkpoint(P, epoch, expected, 10 * number, changes or rows(1, b"%d" % number))


async def stored(store: RedisStore) -> list[bytes | None]:
    return await store.load([RowKey(P, "viewer", "v0"), RowKey(P, "pair", "v0", "s"), RowKey(P, "room", "r")])


async def test_scripts_that_redis_forgot_are_sent_again(redis_url: str) -> None:
    async with opened(redis_url) as store, admin(redis_url) as client:
        await store.claim(P, 1, "a")
        await store.checkpoint(step(1))
        await stored(store)
        await client.script_flush()
        assert await store.checkpoint(step(2)) is Written.APPLIED
        await client.script_flush()
        assert await stored(store) == [b"2", b"2", b"2"]
        await client.script_flush()
        assert await store.claim(P, 1, "b") == (2, 20)


async def test_a_full_redis_refuses_a_write_as_a_whole(server: Redis) -> None:
    async with opened(server.url) as store, admin(server.url) as client:
        await store.claim(P, 1, "a")
        await store.checkpoint(step(1))
        await client.config_set("maxmemory", 1)
        for changes in (rows(1, b"2"), Changes({"v0": ViewerChange(True)}), Changes({}, {"r": b"2"})):
            with pytest.raises(StoreUnavailable, match="maxmemory"):
                await store.checkpoint(step(2, changes))
        assert await stored(store) == [b"1", b"1", b"1"]
        await client.config_set("maxmemory", 0)
        assert await store.claim(P, 2, "b") == (2, 10)
        assert await store.checkpoint(step(2, epoch=2)) is Written.APPLIED


async def test_a_replica_refuses_writes_and_claims(server: Redis) -> None:
    async with opened(server.url) as store, admin(server.url) as client:
        await store.claim(P, 1, "a")
        await store.checkpoint(step(1))
        await client.replicaof("127.0.0.1", free_port())  # demoted, as after a failover
        with pytest.raises(StoreUnavailable, match="read only"):
            await store.checkpoint(step(2))
        with pytest.raises(StoreUnavailable, match="read only"):
            await store.claim(P, 1, "b")
        assert await stored(store) == [b"1", b"1", b"1"]


@asynccontextmanager
async def behind_proxy(server: Redis, timeout_s: float = 2.0) -> AsyncIterator[tuple[RedisStore, Proxy]]:
    async with Proxy(server.port) as proxy, opened(f"redis://127.0.0.1:{proxy.port}", timeout_s=timeout_s) as store:
        await store.claim(P, 1, "a")
        assert await store.checkpoint(step(1)) is Written.APPLIED
        yield store, proxy


async def test_a_reply_lost_after_the_write_is_no_second_write(server: Redis) -> None:
    async with behind_proxy(server) as (store, proxy):
        proxy.cut_answers = 1
        assert await store.checkpoint(step(2)) is Written.APPLIED
        assert proxy.connections == 2
        assert await stored(store) == [b"2", b"2", b"2"]
        assert await store.checkpoint(step(3)) is Written.APPLIED


async def test_a_request_lost_before_the_write_is_told_apart(server: Redis) -> None:
    async with behind_proxy(server) as (store, proxy):
        proxy.cut_requests = 1
        with pytest.raises(StoreUnavailable, match="did not take"):
            await store.checkpoint(step(2))
        assert await stored(store) == [b"1", b"1", b"1"]
        assert await store.checkpoint(step(2)) is Written.APPLIED


async def test_a_lost_reply_is_one_by_whatever_name_it_comes(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(redis_url) as store:
        await store.claim(P, 1, "a")
        await store.checkpoint(step(1))
        script = store._checkpoint

        async def written_and_lost(*arguments: Any) -> None:
            await script(*arguments)
            raise OSError("no route to host")

        monkeypatch.setattr(store, "_checkpoint", written_and_lost)
        assert await store.checkpoint(step(2)) is Written.APPLIED
        assert await stored(store) == [b"2", b"2", b"2"]


async def test_when_the_question_is_lost_too_a_second_attempt_finds_out(server: Redis) -> None:
    async with behind_proxy(server) as (store, proxy):
        proxy.cut_answers = 2
        with pytest.raises(StoreUnavailable):
            await store.checkpoint(step(2))
        assert await store.checkpoint(step(2)) is Written.APPLIED
        assert await stored(store) == [b"2", b"2", b"2"]


async def test_a_lost_reply_does_not_hide_that_another_owner_came(server: Redis) -> None:
    async with behind_proxy(server) as (store, proxy), opened(server.url) as other:
        await other.claim(P, 2, "b")
        proxy.cut_answers = 1
        assert await store.checkpoint(step(2)) is Written.FENCED


async def test_one_call_during_a_stall_has_one_effect(server: Redis) -> None:
    """redis-py repeats a call up to ten times unless it is told not to; a claim counts them."""
    async with behind_proxy(server, timeout_s=0.5) as (store, _), admin(server.url) as client:
        server.freeze()
        with pytest.raises(StoreUnavailable):
            await store.claim(P, 1, "a")
        with pytest.raises(StoreUnavailable):
            await store.checkpoint(step(2))
        server.thaw()
        while len(await client.client_list()) > 1:  # noqa: ASYNC110 -- until it has read all that was sent meanwhile
            await asyncio.sleep(0.01)
        assert await store.claim(P, 1, "a") == (3, 10)


async def test_a_silent_network_is_waited_for_no_longer_than_the_timeout(server: Redis) -> None:
    async with behind_proxy(server, timeout_s=0.5) as (store, proxy):
        proxy.silence()
        for call in (store.claim(P, 1, "a"), store.checkpoint(step(2)), store.read_shares(["r"]), stored(store)):
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(call, 10.0)


async def test_an_emptied_redis_is_noticed_by_the_next_write(redis_url: str) -> None:
    async with opened(redis_url) as store, admin(redis_url) as client:
        await store.claim(P, 1, "a")
        await store.checkpoint(step(1))
        await client.flushdb()
        assert await store.checkpoint(step(2)) is Written.LOST
        assert await client.dbsize() == 0
        assert await store.claim(P, 1, "a") == (1, None)


async def test_rows_expire_and_what_says_who_owns_them_does_not(redis_url: str) -> None:
    async with opened(redis_url) as store, admin(redis_url) as client:
        await store.claim(P, 1, "a")
        await store.checkpoint(step(1))
        await store.publish_shares({P: {"r": b"share"}})
        left = {key.rpartition(b"}")[2] or key: await client.ttl(key) for key in await client.keys()}
        assert left.pop(b":meta") == -1
        assert TTL_S - 5 <= left[b":v:v0"] <= TTL_S
        assert all(seconds > 86_400 for key, seconds in left.items() if key != b":v:v0")
        assert len(left) == 3


async def test_a_partition_keeps_to_one_slot_of_a_cluster(redis_url: str) -> None:
    async with opened(redis_url) as store, admin(redis_url) as client:
        for partition in range(4):
            await store.claim(partition, 1, "a")
            await store.checkpoint(Checkpoint(partition, 1, None, 1, rows(50)))
        slots: dict[bytes, set[int]] = {}
        for key in await client.keys():
            slots.setdefault(key[key.index(b"{") : key.index(b"}")], set()).add(key_slot(key))
        assert [len(found) for found in slots.values()] == [1] * 4
        assert len(set.union(*slots.values())) == 4


async def test_one_command_a_checkpoint_and_one_a_cold_load(server: Redis) -> None:
    many = rows(1_500)
    keys = [RowKey(P, "viewer", viewer) for viewer in many.viewers] + [RowKey(P, "room", "r"), RowKey(P, "room", "x")]
    async with opened(server.url) as store, admin(server.url) as client:
        await store.claim(P, 1, "a")
        await store.checkpoint(step(1))
        await store.load(keys)
        await client.config_resetstat()
        assert await store.checkpoint(step(2, many)) is Written.APPLIED
        assert await store.load(keys) == [b"row"] * 1_501 + [None]
        calls = {name: seen["calls"] for name, seen in (await client.info("commandstats")).items()}
    # Those that scripts call are among them, each as often as it was called.
    assert calls.pop("cmdstat_evalsha") == 2
    assert calls.pop("cmdstat_config|resetstat", 1) == 1
    assert set(calls) <= {f"cmdstat_{name}" for name in ("hmget", "hset", "expire", "set", "get", "info")}


async def test_a_viewer_with_thousands_of_pairs_is_written_whole(redis_url: str) -> None:
    """Lua passes no more than some 8,000 values to one command."""
    pairs = {f"s{i}": b"%d" % i for i in range(10_000)}
    async with opened(redis_url) as store:
        await store.claim(P, 1, "a")
        assert await store.checkpoint(step(1, Changes({"v0": ViewerChange(False, b"v", pairs)}))) is Written.APPLIED
        found = await store.load([RowKey(P, "viewer", "v0"), *(RowKey(P, "pair", "v0", name) for name in pairs)])
        assert found == [b"v", *pairs.values()]


async def test_the_rights_that_the_documents_name_are_enough(redis_url: str) -> None:
    rights = ACL.split(" NAME ")[1].split()
    async with admin(redis_url) as client:
        await client.execute_command("ACL", "SETUSER", "store-test", "reset", "on", ">secret", *rights)
        try:
            async with opened(redis_url, username="store-test", password="secret") as store:
                await store.claim(P, 1, "a")
                await store.checkpoint(step(1))
                erasure = Changes({"v0": ViewerChange(True)}, {"r": b"2"})
                assert await store.checkpoint(step(2, erasure)) is Written.APPLIED
                assert await stored(store) == [None, None, b"2"]
                await store.publish_shares({P: {"r": b"share"}})
                assert await store.read_shares(["r"]) == [{P: b"share"}]
            async with opened(redis_url, username="store-test", password="wrong") as store:
                with pytest.raises(StoreUnavailable, match="invalid username-password"):
                    await store.claim(P, 1, "a")
        finally:
            await client.execute_command("ACL", "DELUSER", "store-test")


async def test_a_write_that_stopped_halfway_is_never_taken_for_done(redis_url: str) -> None:
    """A script does not roll back. Whatever stopped it, its rows are half there, and nobody may go on from them."""
    rights = ACL.split(" NAME ")[1].split()
    async with admin(redis_url) as client:
        await client.execute_command("ACL", "SETUSER", "store-half", "reset", "on", ">secret", *rights, "-expire")
        try:
            async with opened(redis_url, username="store-half", password="secret") as store:
                await store.claim(P, 1, "a")
                with pytest.raises(StoreUnavailable, match="can't run this command"):
                    await store.checkpoint(step(1))
                assert await store.checkpoint(step(1)) is Written.TORN
                with pytest.raises(TornState, match="delete the keys"):
                    await store.claim(P, 1, "a")
        finally:
            await client.execute_command("ACL", "DELUSER", "store-half")
