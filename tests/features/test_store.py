"""What every store promises; each test runs against all of them."""

from collections.abc import AsyncIterator

import pytest

from features.engine import Changes, RowKey, ViewerChange
from features.redis_store import RedisStore, connect
from features.store import Checkpoint, Held, MemoryStore, NotOwned, StaleClaim, Store, Written

P = 3


@pytest.fixture(params=["memory", *(pytest.param(kind, marks=pytest.mark.redis) for kind in ("redis", "cluster"))])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    cluster = request.param == "cluster"
    url = request.getfixturevalue("redis_cluster").url if cluster else request.getfixturevalue("redis_url")
    client = connect(url, username=None, password=None, cafile=None, cluster=cluster, timeout_s=2.0)
    # By the test's name: a cluster has one database for all of them.
    store = RedisStore(client, group=request.node.name, topic="t", fingerprint="0123456789abcdef", ttl_s=3600)
    yield store
    await store.close()


def viewer(row: bytes | None = b"v", *, erased: bool = False, **pairs: bytes) -> ViewerChange:
    return ViewerChange(erased=erased, row=row, pairs=pairs)


def changes(viewers: dict[str, ViewerChange] | None = None, rooms: dict[str, bytes] | None = None) -> Changes:
    return Changes(viewers or {}, rooms or {})


async def rows(store: Store, *keys: tuple[str, ...]) -> list[bytes | None]:
    return await store.load([RowKey(P, *key) for key in keys])


async def test_a_new_partition_has_no_offset(store: Store) -> None:
    assert await store.claim(P, 1, "a") == (1, None)


async def test_each_claim_raises_the_epoch_and_hands_over_the_offset(store: Store) -> None:
    await store.claim(P, 1, "a")
    assert await store.checkpoint(Checkpoint(P, 1, None, 17, changes())) is Written.APPLIED
    assert await store.claim(P, 2, "b") == (2, 17)


async def test_a_claim_of_an_older_generation_is_refused(store: Store) -> None:
    await store.claim(P, 6, "new")
    with pytest.raises(StaleClaim, match="generation 6"):
        await store.claim(P, 5, "late")


async def test_rows_are_not_handed_to_an_owner_who_is_not_it_or_knows_better(store: Store) -> None:
    keys = [RowKey(P, "viewer", "u"), RowKey(P + 1, "viewer", "u")]
    for partition in (P, P + 1):
        await store.claim(partition, 1, "a")
        await store.checkpoint(Checkpoint(partition, 1, None, 10, changes({"u": viewer(b"row")})))
    for known in (None, 9, 10):
        assert await store.load(keys, {P: Held(1, known), P + 1: Held(1, 10)}) == [b"row", b"row"]
    with pytest.raises(NotOwned) as found:
        await store.load(keys, {P: Held(1, 11), P + 1: Held(1, 10)})
    assert found.value.outcomes == {P: Written.REWOUND}
    await store.claim(P, 2, "b")
    with pytest.raises(NotOwned) as found:
        await store.load(keys, {P: Held(1, 10), P + 1: Held(1, 10)})
    assert found.value.outcomes == {P: Written.FENCED}
    with pytest.raises(NotOwned) as found:
        await store.load([RowKey(P + 2, "room", "r")], {P + 2: Held(1, 10)})
    assert found.value.outcomes == {P + 2: Written.LOST}
    assert await store.load(keys) == [b"row", b"row"]


async def test_rows_are_cleared_by_their_owner_and_by_nobody_else(store: Store) -> None:
    await store.claim(P, 1, "a")
    many = {f"u{i}": viewer(b"row", s=b"pair") for i in range(1_200)}
    await store.checkpoint(Checkpoint(P, 1, None, 10, changes(many, {"r": b"room"})))
    await store.claim(P + 10, 1, "a")
    await store.checkpoint(Checkpoint(P + 10, 1, None, 5, changes({"u0": viewer(b"another partition's")})))
    await store.claim(P, 2, "b")
    await store.clear(P, 1)
    assert await rows(store, ("viewer", "u7"), ("room", "r")) == [b"row", b"room"]
    await store.clear(P, 2)
    gone = [*(("viewer", f"u{i}") for i in range(1_200)), ("pair", "u7", "s"), ("room", "r")]
    assert await rows(store, *gone) == [None] * len(gone)
    assert await store.load([RowKey(P + 10, "viewer", "u0")]) == [b"another partition's"]
    assert await store.claim(P, 3, "c") == (3, 10)


async def test_rows_come_back_as_written_in_the_order_asked_for(store: Store) -> None:
    await store.claim(P, 1, "a")
    written = changes({"u1": viewer(b"\x00u1", s1=b"u1/s1", s2=b"u1/s2"), "u2": viewer(b"u2")}, {"r1": b"room\xff"})
    await store.checkpoint(Checkpoint(P, 1, None, 10, written))
    assert await rows(
        store,
        ("room", "r1"),
        ("pair", "u1", "s2"),
        ("viewer", "u2"),
        ("pair", "u2", "s1"),
        ("viewer", "u1"),
        ("room", "x"),
    ) == [b"room\xff", b"u1/s2", b"u2", None, b"\x00u1", None]


async def test_a_write_leaves_what_it_does_not_name(store: Store) -> None:
    await store.claim(P, 1, "a")
    await store.checkpoint(Checkpoint(P, 1, None, 1, changes({"u": viewer(b"1", s1=b"1", s2=b"1")})))
    await store.checkpoint(Checkpoint(P, 1, 1, 2, changes({"u": viewer(None, s2=b"2")})))
    assert await rows(store, ("viewer", "u"), ("pair", "u", "s1"), ("pair", "u", "s2")) == [b"1", b"1", b"2"]


async def test_erasing_a_viewer_removes_every_pair(store: Store) -> None:
    await store.claim(P, 1, "a")
    await store.checkpoint(Checkpoint(P, 1, None, 1, changes({"u": viewer(b"1", s1=b"1", s2=b"1")})))
    await store.checkpoint(Checkpoint(P, 1, 1, 2, changes({"u": viewer(None, erased=True)})))
    assert await rows(store, ("viewer", "u"), ("pair", "u", "s1"), ("pair", "u", "s2")) == [None, None, None]


async def test_what_follows_an_erasure_in_the_same_write_stays(store: Store) -> None:
    await store.claim(P, 1, "a")
    await store.checkpoint(Checkpoint(P, 1, None, 1, changes({"u": viewer(b"1", s1=b"1", s2=b"1")})))
    await store.checkpoint(Checkpoint(P, 1, 1, 2, changes({"u": viewer(b"2", erased=True, s2=b"2")})))
    assert await rows(store, ("viewer", "u"), ("pair", "u", "s1"), ("pair", "u", "s2")) == [b"2", None, b"2"]


async def test_a_zombie_writes_nothing(store: Store) -> None:
    await store.claim(P, 1, "old")
    await store.claim(P, 2, "new")
    zombie = Checkpoint(P, 1, None, 9, changes({"u": viewer(b"zombie")}))
    assert await store.checkpoint(zombie) is Written.FENCED
    assert await rows(store, ("viewer", "u")) == [None]


async def test_a_write_that_does_not_continue_the_stored_offset_is_refused(store: Store) -> None:
    await store.claim(P, 1, "a")
    await store.checkpoint(Checkpoint(P, 1, None, 10, changes()))
    assert await store.checkpoint(Checkpoint(P, 1, 20, 30, changes({"u": viewer()}))) is Written.REWOUND
    assert await rows(store, ("viewer", "u")) == [None]


async def test_a_partition_that_vanished_is_told_apart_from_a_fenced_one(store: Store) -> None:
    assert await store.checkpoint(Checkpoint(P, 1, None, 1, changes())) is Written.LOST


async def test_partitions_do_not_see_each_other(store: Store) -> None:
    await store.claim(P, 1, "a")
    await store.claim(4, 1, "a")
    await store.checkpoint(Checkpoint(P, 1, None, 1, changes({"u": viewer(b"3")}, {"r": b"3"})))
    assert await store.load([RowKey(4, "viewer", "u"), RowKey(P, "viewer", "u"), RowKey(4, "room", "r")]) == [
        None,
        b"3",
        None,
    ]


async def test_room_shares_of_all_partitions_are_read_back(store: Store) -> None:
    await store.publish_shares({0: {"r1": b"old", "r2": b"0/r2"}, 1: {"r1": b"1/r1"}})
    await store.publish_shares({0: {"r1": b"0/r1"}})
    assert await store.read_shares(["r2", "nobody", "r1"]) == [{0: b"0/r2"}, {}, {0: b"0/r1", 1: b"1/r1"}]
