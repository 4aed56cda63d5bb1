"""What a Redis looks like from outside: for `tipstream check`, never on the serving path."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from redis.exceptions import NoPermissionError, NoScriptError, RedisClusterException, RedisError, ResponseError

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

#: All that the store's user must be allowed, and nothing more: what follows `ACL SETUSER NAME`.
RIGHTS = (
    *("~ts:*", "+ping", "+hello", "+select", "+command", "+cluster|slots", "+eval", "+evalsha"),
    *("+hget", "+hmget", "+hset", "+hgetall", "+set", "+get", "+del", "+unlink", "+expire", "+scan"),
)

# By right, a call that takes it, on a key of the form of the store's; in this order nothing of it stays.
_CALLS = {
    "+hset": "'HSET', KEYS[1], 'epoch', '1'",
    "+hget": "'HGET', KEYS[1], 'epoch'",
    "+hmget": "'HMGET', KEYS[1], 'epoch'",
    "+hgetall": "'HGETALL', KEYS[1]",
    "+expire": "'EXPIRE', KEYS[1], 60",
    "+set": "'SET', KEYS[1], '1', 'EX', 60",
    "+get": "'GET', KEYS[1]",
    "+del": "'DEL', KEYS[1]",
    "+unlink": "'UNLINK', KEYS[1]",
    "+scan": "'SCAN', '0', 'MATCH', KEYS[1], 'COUNT', '1'",
}


class RedisAccessError(Exception):
    """Redis does not answer, or does not let us in."""


class Node(NamedTuple):
    """One server. `settings` holds those of SETTINGS that it has, or is None where it does not let us read them."""

    name: str
    version: str | None
    settings: Mapping[str, str] | None


class Deployment(NamedTuple):
    """What was seen. `missing` are those of RIGHTS that our user lacks.

    `denied` is what Redis said when it refused a command of the store's for another reason, else empty.
    """

    nodes: Sequence[Node]
    denied: str
    missing: Sequence[str] = ()


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
        missing, denied = await _refused(client)
        return Deployment(nodes, denied, missing)
    except RedisClusterException as error:  # the client says so, too, when it may not ask about the cluster
        raise RedisAccessError(f"{error}; if it is one, our user may lack +command or +cluster|slots") from error
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


async def _refused(client: Any) -> tuple[list[str], str]:
    """The rights that our user lacks, and what else Redis says to the store's commands."""
    key = f"ts:{{check}}:{uuid.uuid4().hex}"
    missing: list[str] = []
    for right, call in _CALLS.items():
        script = f"return redis.call({call})"
        try:
            await client.eval(script, 1, key)
        except NoPermissionError as error:
            lacking = _lacking(error, "+eval")
        except ResponseError as error:
            if "user executing the script" not in str(error):
                return missing, str(error)
            lacking = _lacking(error, right)
        else:
            continue
        missing.append(lacking)
        if lacking != right:
            return missing, ""  # nothing can be tried without
    try:
        await client.evalsha(hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest(), 1, key)
    except NoPermissionError:
        missing.append("+evalsha")
    except NoScriptError:  # another node's: the right is there
        pass
    return missing, ""


def _lacking(error: ResponseError, right: str) -> str:
    return "~ts:*" if "key" in str(error) else right


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
