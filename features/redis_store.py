"""Rows in Redis. The only module that talks to it on the serving path.

Keys; all of one input partition share a hash tag, so that one script may touch them, on a cluster too:

    ts:{<scope>.<partition>}:meta          hash    epoch, generation, owner, offset
    ts:{<scope>.<partition>}:v:<viewer>    hash    '' -> viewer row, <streamer> -> pair row; expires
    ts:{<scope>.<partition>}:r:<room>      string  this partition's share of the room; expires

Rooms' shares for all to read, under one tag of their own, so that one call publishes or reads many:

    ts:{<scope>}:share:<room>              hash    <partition> -> its share as last published; expires

`scope` stands for consumer group, input topic and feature fingerprint: a new catalogue has keys of its own.

Writes are never retried blindly. redis-py retries by default, and a retried script whose first reply was lost runs
twice; here retries are off, and after a lost reply the stored offset says whether the write took place.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar, cast

import hiredis
import xxhash
from redis.asyncio import Connection, Redis, RedisCluster, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisClusterException, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from features.engine import Changes, RowKey
from features.store import (
    Checkpoint,
    Claim,
    Held,
    NotOwned,
    StaleClaim,
    StoreUnavailable,
    TornState,
    Written,
    viewer_fields,
)

_HERE = Path(__file__).parent
_ROOM_TTL_S = 2 * 86_400  # a broadcast and its longest window, with room to spare
_ROOMS_PER_CALL = 500
_KEYS_PER_CALL = 1_000
_CONNECTIONS = 1_024  # to one server: each partition of a member may have a call under way
_TORN = b"torn"  # in place of the offset, while a script writes rows
_REFUSALS = (RedisError, RedisClusterException)  # the second is none of the first: nobody tells who holds a slot
_T = TypeVar("_T")
_Reply = Any  # what a script returns: nested lists of bytes and integers


class RedisStore:
    """A Store in Redis or Redis Cluster.

    `group`, `topic` and `fingerprint` name whose state this is; `ttl_s` is how long a silent viewer is remembered.
    """

    def __init__(self, client: Redis | RedisCluster, *, group: str, topic: str, fingerprint: str, ttl_s: int) -> None:
        self._client = client
        self._scope = f"{xxhash.xxh32_hexdigest(f'{group}/{topic}'.encode())}{fingerprint[:6]}"
        self._ttl_s = ttl_s
        self._claim = _Script(client, _HERE / "claim.lua")
        self._clear = _Script(client, _HERE / "clear.lua")
        self._load = _Script(client, _HERE / "load.lua")
        self._checkpoint = _Script(client, _HERE / "checkpoint.lua")
        self._publish = _Script(client, _HERE / "share.lua")
        self._read = _Script(client, _HERE / "shares.lua")

    async def claim(self, partition: int, generation: int, owner: str) -> Claim:
        """See Store. A claim whose reply was lost may be repeated: epochs only ever grow."""
        reply = await _served(self._claim([self._meta(partition)], [generation, owner]))
        if reply[0] != 1:
            raise StaleClaim(
                f"partition {partition} is owned by group generation {int(reply[1])}, ours is {generation}"
            )
        if reply[2] == _TORN:
            raise TornState(
                "a write to it stopped halfway, because Redis refused one of its commands. Read the log of that time, "
                f"mend the cause, delete the keys ts:{{{self._scope}.{partition}}}:* and restart: the rows are rebuilt."
            )
        return Claim(int(reply[1]), int(reply[2]) if reply[2] else None)

    async def clear(self, partition: int, epoch: int) -> None:
        """See Store. Goes through all keys of the server, which takes a second for each million or so."""
        await _served(self._clear_all(self._meta(partition), epoch))

    async def _clear_all(self, meta: str, epoch: int) -> None:
        some: list[str] = []
        async for key in self._client.scan_iter(meta.removesuffix("meta") + "[vr]:*", count=_KEYS_PER_CALL):
            some.append(key.decode())
            if len(some) == _KEYS_PER_CALL:
                await self._clear([meta, *some], [epoch])
                some.clear()
        if some:
            await self._clear([meta, *some], [epoch])

    async def load(self, keys: Sequence[RowKey], held: Mapping[int, Held] | None = None) -> list[bytes | None]:
        """See Store. One command for each partition among the keys, all of them in one round trip."""
        beliefs = held or {}
        partitions = [(at, list(group)) for at, group in groupby(sorted(set(keys)), key=lambda key: key.partition)]
        calls = [self._load_call(partition, some, beliefs.get(partition)) for partition, some in partitions]
        replies = await _served(self._load.many([(names, args) for names, args, _ in calls]))
        found: dict[RowKey, bytes | None] = {}
        doubtful: dict[int, Written] = {}
        for (partition, _), (_, _, order), reply in zip(partitions, calls, replies, strict=True):
            if reply[0] == 1:
                found.update(zip(order, reply[1:], strict=True))
            else:
                doubtful[partition] = _doubt(reply)
        if doubtful:
            raise NotOwned(doubtful)
        return [found[key] for key in keys]

    def _load_call(
        self, partition: int, keys: list[RowKey], held: Held | None
    ) -> tuple[list[str], list[str | int], list[RowKey]]:
        """Keys and arguments of the script, and which rows it will return."""
        names: list[str] = [self._meta(partition)]
        args: list[str | int] = ["", ""] if held is None else [held.epoch, "" if held.offset is None else held.offset]
        order: list[RowKey] = []
        for (is_room, entity), group in groupby(
            sorted(keys, key=lambda key: (key.table == "room", key.id)), key=lambda key: (key.table == "room", key.id)
        ):
            wanted = list(group)
            order += wanted
            if is_room:
                names.append(self._room(partition, entity))
                args.append(0)
            else:
                names.append(self._viewer(partition, entity))
                args += [len(wanted), *(key.streamer for key in wanted)]
        return names, args, order

    async def checkpoint(self, write: Checkpoint) -> Written:
        """See Store. One command; a write whose reply is lost costs one more, to ask what happened."""
        names, args = self._entities(write.partition, write.changes)
        expected = "" if write.expected is None else write.expected
        head: list[Any] = [write.epoch, expected, write.offset, self._ttl_s, _ROOM_TTL_S]
        try:
            reply = await self._checkpoint([self._meta(write.partition), *names], head + args)
        except (RedisConnectionError, RedisTimeoutError, OSError) as lost:
            return await self._settle(write, lost)
        except _REFUSALS as refused:  # read-only, loading, out of memory, slot moving: nothing was written
            raise StoreUnavailable(f"Redis refused to write: {refused}") from refused
        if reply[0] == 1:
            return Written.APPLIED
        return _refusal(write, reply)

    async def _settle(self, write: Checkpoint, lost: Exception) -> Written:
        """The reply was lost: the stored epoch and offset tell whether the write took place."""
        epoch, offset = await _served(_awaitable(self._client.hmget(self._meta(write.partition), ["epoch", "offset"])))
        if epoch is None:
            return Written.LOST
        if int(epoch) != write.epoch:
            return Written.FENCED
        if offset == _TORN:
            return Written.TORN
        if offset is not None and int(offset) == write.offset:
            return Written.APPLIED
        if (None if offset is None else int(offset)) == write.expected:
            raise StoreUnavailable(f"Redis did not take the write: {lost}") from lost
        return Written.REWOUND

    def _entities(self, partition: int, changes: Changes) -> tuple[list[str], list[Any]]:
        names: list[str] = []
        args: list[Any] = []
        for viewer_id, change in changes.viewers.items():
            fields = viewer_fields(change)
            names.append(self._viewer(partition, viewer_id))
            args += ["erase" if change.erased else "viewer", 2 * len(fields)]
            for name, blob in fields.items():
                args += [name, blob]
        for room_id, blob in changes.rooms.items():
            names.append(self._room(partition, room_id))
            args += ["room", blob]
        return names, args

    async def publish_shares(self, shares: Mapping[int, Mapping[str, bytes]]) -> None:
        """See Store. Absolute values: a repeat changes nothing."""
        told = [(room, partition, blob) for partition, rooms in shares.items() for room, blob in rooms.items()]
        for some in _chunks(told):
            names = [self._share(room) for room, _, _ in some]
            each = (value for _, partition, blob in some for value in (partition, blob))
            await _served(self._publish(names, [_ROOM_TTL_S, *each]))

    async def read_shares(self, rooms: Sequence[str]) -> list[dict[int, bytes]]:
        """See Store."""
        found: list[dict[int, bytes]] = []
        for some in _chunks(rooms):
            replies = await _served(self._read([self._share(room) for room in some], []))
            found += [dict(zip(map(int, flat[::2]), flat[1::2], strict=True)) for flat in replies]
        return found

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _meta(self, partition: int) -> str:
        return f"ts:{{{self._scope}.{partition}}}:meta"

    def _viewer(self, partition: int, viewer_id: str) -> str:
        return f"ts:{{{self._scope}.{partition}}}:v:{viewer_id}"

    def _room(self, partition: int, room_id: str) -> str:
        return f"ts:{{{self._scope}.{partition}}}:r:{room_id}"

    def _share(self, room_id: str) -> str:
        return f"ts:{{{self._scope}}}:share:{room_id}"


class _Script:
    """A Lua script by its hash; sent whole when Redis does not know it (after a restart, a failover, SCRIPT FLUSH)."""

    def __init__(self, client: Redis | RedisCluster, path: Path) -> None:
        self._client = client
        self._source = path.read_text()
        self._sha: str | None = None

    async def __call__(self, keys: Sequence[str], args: Sequence[Any]) -> _Reply:
        if self._sha is not None:
            try:
                return await _awaitable(self._client.evalsha(self._sha, len(keys), *keys, *args))
            except NoScriptError:  # refused before it ran
                pass
        reply = await _awaitable(self._client.eval(self._source, len(keys), *keys, *args))
        self._sha = _sha1(self._source)
        return reply

    async def many(self, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> Sequence[_Reply]:
        """Several calls of a script that only reads; in one round trip where one server has all keys."""
        if self._sha is not None and len(calls) > 1 and isinstance(self._client, Redis):
            pipe = self._client.pipeline(transaction=False)
            for keys, args in calls:
                pipe.evalsha(self._sha, len(keys), *keys, *args)
            with contextlib.suppress(NoScriptError):
                replies: list[_Reply] = await _awaitable(pipe.execute(raise_on_error=False))
                for reply in replies:  # by ourselves: the pipeline's own errors quote the command, viewers' ids with it
                    if isinstance(reply, Exception):
                        raise reply
                return replies
        return await asyncio.gather(*(self(keys, args) for keys, args in calls))


def connect(
    url: str, *, username: str | None, password: str | None, cafile: str | None, cluster: bool, timeout_s: float
) -> Redis | RedisCluster:
    """A client with retries off and a bound on each call. `url` is redis://, or rediss:// for checked TLS."""
    kind = _SSLConnection if url.startswith("rediss://") else _Connection
    options: dict[str, Any] = {
        "username": username,
        "password": password,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "decode_responses": False,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": _CONNECTIONS,
    }
    if url.startswith("rediss://") and cafile:
        options["ssl_ca_certs"] = cafile
    # Neither takes a kind of connection where the URL, or being a cluster, names another.
    if not cluster:
        client = Redis.from_url(url, **options)
        client.connection_pool.connection_class = kind
        return client
    found = RedisCluster.from_url(url, **options)
    found.connection_kwargs["connection_class"] = kind  # of the nodes that it hears of
    for node in found.startup_nodes:
        node.connection_class = kind
    return found


def _chunks(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    return (items[start : start + _ROOMS_PER_CALL] for start in range(0, len(items), _ROOMS_PER_CALL))


class _Connection(Connection):
    """Packs commands in C, since a checkpoint has thousands of arguments, and says so if it was closed."""

    def pack_command(self, *args: Any) -> list[bytes]:
        return [hiredis.pack_command((*args[0].split(), *args[1:]))]  # a name may be two words: CONFIG GET

    async def _send_packed_command(self, command: Iterable[bytes]) -> None:
        try:
            await super()._send_packed_command(command)
        except (AttributeError, TypeError) as error:  # how redis-py 8.1 and asyncio tell it (redis-py issue 4287)
            raise RedisConnectionError("the connection was closed meanwhile") from error


class _SSLConnection(_Connection, SSLConnection):
    pass


def _refusal(write: Checkpoint, reply: _Reply) -> Written:
    doubt = _doubt(reply)
    if doubt is Written.REWOUND and reply[1] and int(reply[1]) == write.offset:
        return Written.APPLIED  # an earlier attempt was applied although its outcome looked otherwise
    return doubt


def _doubt(reply: _Reply) -> Written:
    held = reply[1]
    if reply[0] == -1:
        return Written.FENCED if held else Written.LOST
    return Written.TORN if held == _TORN else Written.REWOUND


async def _served(call: Awaitable[_T]) -> _T:
    try:
        return await call
    except _REFUSALS as error:
        raise StoreUnavailable(f"Redis cannot serve now: {error}") from error
    except OSError as error:
        raise StoreUnavailable(f"Redis cannot be reached: {error}") from error


def _awaitable(call: Any) -> Awaitable[Any]:
    """redis-py types its asynchronous calls as maybe synchronous."""
    return cast("Awaitable[Any]", call)


def _sha1(source: str) -> str:
    return hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
