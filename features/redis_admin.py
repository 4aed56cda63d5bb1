"""What a Redis looks like from outside: for `tipstream check`, never on the serving path."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from features.redis_store import connect

#: Settings that decide whether state survives and how much memory it takes.
SETTINGS = (
    "maxmemory",
    "maxmemory-policy",
    "appendonly",
    "appendfsync",
    "hash-max-listpack-value",  # from Redis 7
    "hash-max-ziplist-value",  # before
)

# The commands that the store's scripts use, on one key of the same form as theirs.
_SCRIPT = """
redis.call('HSET', KEYS[1], 'epoch', ARGV[1])
redis.call('HMGET', KEYS[1], 'epoch')
redis.call('EXPIRE', KEYS[1], 60)
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'EX', 60)
redis.call('GET', KEYS[1])
redis.call('DEL', KEYS[1])
return 1
"""


class RedisAccessError(Exception):
    """Redis does not answer, or does not let us in."""


class Node(NamedTuple):
    """One server. `settings` holds those of SETTINGS that it has, or is None where it does not let us read them."""

    name: str
    version: str | None
    settings: Mapping[str, str] | None


class Deployment(NamedTuple):
    """What was seen. `denied` is what Redis said when it refused a command that the store needs, else empty."""

    nodes: Sequence[Node]
    denied: str


async def look(
    url: str, *, username: str | None, password: str | None, cafile: str | None, cluster: bool, timeout_s: float
) -> Deployment:
    """Ask each server about itself and try the store's commands on a key that is deleted again.

    Raises RedisAccessError.
    """
    client: Any = connect(
        url, username=username, password=password, cafile=cafile, cluster=cluster, timeout_s=timeout_s
    )
    try:
        await client.ping()
        places: list[dict[str, Any]] = [{}]
        if cluster:
            places = [{"target_nodes": node} for node in client.get_primaries()]
        nodes = [await _node(client, place) for place in places]
        return Deployment(nodes, await _denied(client))
    except (RedisError, OSError) as error:
        raise RedisAccessError(str(error) or type(error).__name__) from error
    finally:
        await client.aclose()


async def _node(client: Any, place: dict[str, Any]) -> Node:
    node = place.get("target_nodes")
    name = "Redis" if node is None else node.name
    try:
        info = await client.info("server", **place)
    except NoPermissionError:
        info = {}
    try:
        found: dict[Any, Any] = {}
        for setting in SETTINGS:
            found |= await client.config_get(setting, **place)
    except NoPermissionError:
        return Node(name, info.get("redis_version"), None)
    return Node(name, info.get("redis_version"), {_text(key): _text(value) for key, value in found.items()})


async def _denied(client: Any) -> str:
    key = f"ts:{{check}}:{uuid.uuid4().hex}"
    try:
        await client.eval(_SCRIPT, 1, key, "1")
        await client.hset(key, "0", b"1")
        await client.expire(key, 60)
        await client.hgetall(key)
        await client.eval("return redis.call('DEL', KEYS[1])", 1, key)
    except ResponseError as error:
        return str(error)
    return ""


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
