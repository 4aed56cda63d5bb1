"""The Redis store on a cluster: slots move and primaries die under load, and nothing is lost or counted twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from redis.asyncio import Connection

from features.engine import Changes, RowKey, ViewerChange
from features.redis_admin import RIGHTS, RedisAccessError, look
from features.redis_store import RedisStore, connect
from features.store import Checkpoint, StaleClaim, StoreUnavailable, Written
from tests.services.redis_cluster import PATIENT_MS, RedisCluster, ask

pytestmark = pytest.mark.redis

PARTITIONS: Final = 6
CHECK: Final[dict[str, Any]] = {"cafile": None, "cluster": True, "timeout_s": 1.0}


@asynccontextmanager
async def opened(
    cluster: RedisCluster, group: str, *, username: str | None = None, password: str | None = None
) -> AsyncIterator[RedisStore]:
    client = connect(cluster.url, username=username, password=password, cafile=None, cluster=True, timeout_s=1.0)
    store = RedisStore(client, group=group, topic="t", fingerprint="0123456789abcdef", ttl_s=3_600)
    try:
        yield store
    finally:
        await store.close()


class Owner:
    """Writes to one partition as a member does: step by step, again after a refusal, from where the store stands.

    Step n adds n to a viewer's sum; a viewer comes every `PARTITIONS` steps, so that most writes have new keys too.
    """

    def __init__(self, store: RedisStore, partition: int) -> None:
        self._store = store
        self._partition = partition
        self.claims = self.refused = 0
        self.offset = 0

    async def run(self, done: Callable[[], bool]) -> None:
        """Claim and write until `done`; then until the last write is certain."""
        while not done():
            try:
                claim = await self._store.claim(self._partition, 1, "owner")
                self.claims += 1
                await self._write(claim.epoch, claim.offset, done)
            except StoreUnavailable:
                self.refused += 1
                await asyncio.sleep(0.02)

    async def _write(self, epoch: int, stored: int | None, done: Callable[[], bool]) -> None:
        at = stored or 0
        while not done():
            viewer = f"v{at % 50}"
            keys = [RowKey(self._partition, "viewer", viewer), RowKey(self._partition, "room", "r")]
            before = await self._store.load(keys)
            row, room = (b"%d" % (int(blob or b"0") + at) for blob in before)
            changes = Changes({viewer: ViewerChange(False, row), f"new-{at}": ViewerChange(False, b"1")}, {"r": room})
            written = await self._store.checkpoint(Checkpoint(self._partition, epoch, stored, at + 1, changes))
            if written is not Written.APPLIED:
                return
            stored = at = at + 1
            self.offset = at

    async def verify(self) -> None:
        """What is stored is what one uninterrupted run up to the stored offset leaves."""
        _, offset = await self._store.claim(self._partition, 1, "judge")
        assert offset is not None
        assert offset >= self.offset, "an acknowledged write is gone"
        sums = [sum(range(viewer, offset, 50)) for viewer in range(50)]
        keys = [RowKey(self._partition, "viewer", f"v{viewer}") for viewer in range(50)]
        assert [int(row or b"0") for row in await self._store.load(keys)] == sums
        new = [RowKey(self._partition, "viewer", f"new-{at}") for at in range(offset + 1)]
        assert await self._store.load(new) == [b"1"] * offset + [None]
        assert await self._store.load([RowKey(self._partition, "room", "r")]) == [b"%d" % sum(range(offset))]


@asynccontextmanager
async def loaded(store: RedisStore) -> AsyncIterator[list[Owner]]:
    """Owners of all partitions that write until the block ends; then all of what they wrote is looked at."""
    ended = False
    owners = [Owner(store, partition) for partition in range(PARTITIONS)]
    running = [asyncio.create_task(owner.run(lambda: ended)) for owner in owners]
    try:
        await progress(owners, 20)
        yield owners
        await progress(owners, 20)
    finally:
        ended = True
        await asyncio.gather(*running)
    for owner in owners:
        await owner.verify()


async def progress(owners: list[Owner], steps: int) -> None:
    """Wait until every owner has written so many more."""
    wanted = [owner.offset + steps for owner in owners]
    async with asyncio.timeout(30):
        while any(owner.offset < offset for owner, offset in zip(owners, wanted, strict=True)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_each_partition_lies_in_one_slot_and_they_spread_over_the_primaries(redis_cluster: RedisCluster) -> None:
    async with opened(redis_cluster, "spread") as store, loaded(store):
        owners = {redis_cluster.owner(store._meta(partition)).port for partition in range(64)}
    assert len(owners) == 3


async def test_a_slot_moves_under_load(redis_cluster: RedisCluster) -> None:
    async with opened(redis_cluster, "moved") as store, loaded(store) as owners:
        for partition in range(2):
            key = store._meta(partition)
            source = redis_cluster.owner(key)
            target = next(node for node in redis_cluster.primaries() if node is not source)
            await asyncio.to_thread(redis_cluster.move, key, target, lambda _: time.sleep(0.05))
            await progress(owners, 20)
            assert redis_cluster.owner(key) is target


async def test_a_primary_hands_over_under_load(redis_cluster: RedisCluster) -> None:
    """What an upgrade does: the replica takes over, with the primary's help, and nothing is lost at all."""
    async with opened(redis_cluster, "handed") as store, loaded(store) as owners:
        key = store._meta(0)
        primary = redis_cluster.owner(key)
        replica = redis_cluster.replica(primary)
        for successor in (replica, primary):
            await asyncio.to_thread(redis_cluster.hand_over, successor)
            await progress(owners, 20)
            assert redis_cluster.owner(key) is successor


async def test_a_zombie_is_fenced_on_whichever_node_the_partition_is_now(redis_cluster: RedisCluster) -> None:
    async with opened(redis_cluster, "zombie") as old, opened(redis_cluster, "zombie") as new:
        claim = await old.claim(0, 1, "old")
        assert await old.checkpoint(Checkpoint(0, claim.epoch, None, 1, Changes())) is Written.APPLIED
        key = old._meta(0)
        source = redis_cluster.owner(key)
        target = next(node for node in redis_cluster.primaries() if node is not source)
        await asyncio.to_thread(redis_cluster.move, key, target)
        assert await new.claim(0, 2, "new") == (claim.epoch + 1, 1)
        assert await old.checkpoint(Checkpoint(0, claim.epoch, 1, 2, Changes())) is Written.FENCED
        with pytest.raises(StaleClaim):
            await old.claim(0, 1, "old")


async def test_a_primary_dies_under_load(redis_cluster: RedisCluster) -> None:
    """What its replica had not yet is lost to Redis, rows and offset together."""
    async with opened(redis_cluster, "killed") as store:
        owners = [Owner(store, partition) for partition in range(PARTITIONS)]
        ended = False
        running = [asyncio.create_task(owner.run(lambda: ended)) for owner in owners]
        await progress(owners, 50)
        key = store._meta(0)
        primary = redis_cluster.owner(key)
        replica = redis_cluster.replica(primary)
        before = owners[0].claims
        redis_cluster.replace_after(1_000)
        await asyncio.to_thread(primary.kill)
        try:
            began = time.monotonic()
            await asyncio.to_thread(redis_cluster.until, lambda: redis_cluster.owner(key) is replica)
            for owner in owners:
                owner.offset = 0  # the replica may be a few writes behind; the stored offset says so: they are redone
            await progress(owners, 50)
            print(f"writing again {time.monotonic() - began:.1f} s after the kill")
            ended = True
            await asyncio.gather(*running)
            assert owners[0].claims > before
            for owner in owners:
                await owner.verify()
        finally:
            ended = True
            primary.start()  # from this thread: a child ends with the thread that started it
            redis_cluster.replace_after(PATIENT_MS)
            await asyncio.to_thread(redis_cluster.settle)


async def test_the_rights_that_ship_are_enough_on_a_cluster_and_missing_ones_are_told(
    redis_cluster: RedisCluster,
) -> None:
    for node in redis_cluster.nodes:
        for user, rights in (("enough", RIGHTS), ("less", [*RIGHTS, "-hset", "-cluster|slots"])):
            ask(node, "ACL", "SETUSER", user, "reset", "on", ">secret", "-@all", *rights)
        ask(node, "ACL", "LOG", "RESET")
    async with opened(redis_cluster, "rights", username="enough", password="secret") as store:
        for partition in range(PARTITIONS):
            claim = await store.claim(partition, 1, "a")
            changes = Changes({"v": ViewerChange(False, b"1", {"s": b"2"})}, {"r": b"3"})
            assert await store.checkpoint(Checkpoint(partition, claim.epoch, None, 1, changes)) is Written.APPLIED
        keys = [RowKey(partition, "viewer", "v") for partition in range(PARTITIONS)]
        assert await store.load(keys) == [b"1"] * PARTITIONS
        await store.publish_shares({0: {"r": b"share"}})
        assert await store.read_shares(["r"]) == [{0: b"share"}]
        await store.clear(0, 1)
    refused = [entry for node in redis_cluster.nodes for entry in ask(node, "ACL", "LOG")]
    assert refused == []
    found = await look(redis_cluster.url, username="enough", password="secret", **CHECK)
    assert (found.denied, list(found.missing)) == ("", [])
    assert len(found.nodes) == 3
    with pytest.raises(RedisAccessError, match=r"may lack \+command or \+cluster\|slots"):
        await look(redis_cluster.url, username="less", password="secret", **CHECK)


async def test_a_cluster_of_which_no_node_answers_is_waited_for() -> None:
    """The client has an error of its own for that, which is none of its other errors."""
    client = connect("redis://127.0.0.1:1", username=None, password=None, cafile=None, cluster=True, timeout_s=1.0)
    store = RedisStore(client, group="g", topic="t", fingerprint="0123456789abcdef", ttl_s=3_600)
    for call in (
        store.claim(0, 1, "a"),
        store.checkpoint(Checkpoint(0, 1, None, 1, Changes())),
        store.read_shares(["r"]),
    ):
        with pytest.raises(StoreUnavailable):
            await call
    await store.close()


async def test_a_connection_closed_by_another_task_is_waited_for(
    redis_cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when slots move: the client closes a node's connections while others write to them, and says it oddly."""
    async with opened(redis_cluster, "closed") as store:
        epoch = (await store.claim(0, 1, "a")).epoch

        async def closed(self: Connection, command: object) -> None:
            raise AttributeError("'NoneType' object has no attribute 'writelines'")

        with monkeypatch.context() as patch:
            patch.setattr(Connection, "_send_packed_command", closed)
            with pytest.raises(StoreUnavailable, match="closed meanwhile"):
                await store.load([RowKey(0, "viewer", "v")])
            with pytest.raises(StoreUnavailable):
                await store.checkpoint(Checkpoint(0, epoch, None, 1, Changes()))
        assert await store.checkpoint(Checkpoint(0, epoch, None, 1, Changes())) is Written.APPLIED
