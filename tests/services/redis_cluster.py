"""A Redis Cluster of real servers: primaries that share the slots, and a replica for each."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from redis import Redis as Client
from redis.crc import key_slot
from redis.exceptions import RedisError

from scorer.ports import free_port
from tests.services.redis import Redis

PRIMARIES: Final = 3
_SLOTS: Final = 16_384
_PATIENCE_S: Final = 60.0
_TALK: Final = 10_000  # how far above its port a node listens for the others

PATIENT_MS: Final = 5_000
"""Silence after which a primary is replaced: more than a busy machine makes."""

SETTINGS: Final[Mapping[str, str]] = {
    "cluster-enabled": "yes",
    "cluster-node-timeout": str(PATIENT_MS),
    "cluster-replica-validity-factor": "0",  # a replica takes over however busy the machine has kept it
    "databases": "1",
    "repl-diskless-sync-delay": "0",
}


class RedisCluster:
    """Six servers on 127.0.0.1 with their files in `folder`; use it as a context.

    `replicas=False` leaves the replicas out, for tests in which nothing fails over.
    """

    def __init__(self, folder: Path, *, replicas: bool = True, settings: Mapping[str, str] | None = None) -> None:
        """Nothing runs yet."""
        self._met = 0.0
        self.nodes = []
        for i in range(PRIMARIES * (2 if replicas else 1)):
            at = folder / f"node-{i}"
            at.mkdir(parents=True)
            self.nodes.append(Redis(at, port=free_port(beside=_TALK), settings={**SETTINGS, **(settings or {})}))

    @property
    def url(self) -> str:
        """Address of one of the servers; it tells where the others are."""
        return self.nodes[0].url

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                node.start()
            self._join()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for node in self.nodes:
            if node.child:
                node.child.signal(signal.SIGCONT)
                node.child.kill()
            shutil.rmtree(node.folder, ignore_errors=True)

    def _join(self) -> None:
        for i, node in enumerate(self.nodes[:PRIMARIES]):
            ask(node, "CLUSTER", "ADDSLOTSRANGE", i * _SLOTS // PRIMARIES, (i + 1) * _SLOTS // PRIMARIES - 1)
        self._meet()
        self.until(self._acquainted)
        for i, node in enumerate(self.nodes[PRIMARIES:]):
            ask(node, "CLUSTER", "REPLICATE", self.id(self.nodes[i]))
        self.settle()

    def _meet(self) -> None:
        first, *others = self.nodes
        for node in others:
            ask(node, "CLUSTER", "MEET", "127.0.0.1", first.port)
        self._met = time.monotonic()

    def _acquainted(self) -> bool:
        """Whether everybody knows everybody; introduced again, as that lapses after a second on a busy machine."""
        if all(len(self.seen_by(node)) == len(self.nodes) for node in self.nodes):
            return True
        if time.monotonic() - self._met > 3:
            self._meet()
        return False

    def seen_by(self, node: Redis) -> dict[str, str]:
        """Who a server knows that has been met for good: id -> flags."""
        lines = [line.split() for line in _info(node, "CLUSTER", "NODES").splitlines()]
        return {line[0]: line[2] for line in lines if "handshake" not in line[2]}

    def id(self, node: Redis) -> str:
        """Name of a server within the cluster."""
        return str(ask(node, "CLUSTER", "MYID"))

    def primaries(self) -> list[Redis]:
        """Those that hold slots now."""
        return list(dict.fromkeys(primary for _, _, primary, _ in self._slots()))

    def owner(self, key: str) -> Redis:
        """The primary that holds the key's slot now."""
        slot = key_slot(key.encode())
        return next(primary for first, last, primary, _ in self._slots() if first <= slot <= last)

    def replica(self, primary: Redis) -> Redis:
        """The server that takes over from a primary; waited for, as the servers tell each other of it in time."""
        known: list[Redis] = []

        def told() -> bool:
            known[:] = [replica for _, _, found, replicas in self._slots() if found is primary for replica in replicas]
            return bool(known)

        self.until(told)
        return known[0]

    def _slots(self) -> list[tuple[int, int, Redis, list[Redis]]]:
        """Ranges of slots with their primary and its replicas, as the first server that answers sees them."""
        by_port = {node.port: node for node in self.nodes}
        for node in self.nodes:
            try:
                ranges = ask(node, "CLUSTER", "SLOTS")
            except (RedisError, OSError):
                continue
            return [
                (first, last, by_port[primary[1]], [by_port[replica[1]] for replica in replicas])
                for first, last, primary, *replicas in ranges
            ]
        raise AssertionError("no server of the cluster answers")

    def move(self, key: str, to: Redis, meanwhile: Callable[[str], None] = lambda _: None) -> None:
        """Move the key's slot to another primary, key by key, as `redis-cli --cluster reshard` does.

        `meanwhile` is called with the name of each moment at which the slot is in two places.
        """
        slot, source = key_slot(key.encode()), self.owner(key)
        ask(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id(source))
        ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id(to))
        meanwhile("begun")
        while keys := ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 10):
            ask(source, "MIGRATE", "127.0.0.1", to.port, "", 0, 5_000, "KEYS", *keys)
            meanwhile("moving")
        for node in (to, source):
            ask(node, "CLUSTER", "SETSLOT", slot, "NODE", self.id(to))
        meanwhile("told")
        for node in self.primaries():
            ask(node, "CLUSTER", "SETSLOT", slot, "NODE", self.id(to))

    def replace_after(self, silence_ms: int) -> None:
        """Have a primary that is silent for so long replaced; all servers must run."""
        for node in self.nodes:
            ask(node, "CONFIG", "SET", "cluster-node-timeout", silence_ms)

    def hand_over(self, replica: Redis) -> None:
        """Make a replica the primary with the help of the one that it follows; asked again, as a busy one gives up."""
        asked = 0.0
        while replica not in self.primaries():
            if time.monotonic() - asked > 6:
                asked = time.monotonic()
                ask(replica, "CLUSTER", "FAILOVER")
            time.sleep(0.02)

    def settle(self) -> None:
        """Wait until every server runs and agrees, and every primary has a replica that follows."""
        self.until(lambda: all("cluster_state:ok" in _info(node, "CLUSTER", "INFO") for node in self.nodes))
        self.until(lambda: all("master_link_status:down" not in _info(node, "INFO") for node in self.nodes))
        if len(self.nodes) > PRIMARIES:
            self.until(lambda: all(len(found) > 3 for node in self.nodes for found in ask(node, "CLUSTER", "SLOTS")))

    def until(self, true: Callable[[], bool]) -> None:
        """Wait until the servers have told each other."""
        deadline = time.monotonic() + _PATIENCE_S
        while not true():
            assert time.monotonic() < deadline, _info(self.nodes[0], "CLUSTER", "NODES")
            time.sleep(0.02)


def ask(node: Redis, *command: Any) -> Any:
    """One command to one server, wherever its keys belong."""
    with Client(port=node.port, decode_responses=True, socket_timeout=5) as client:
        client.response_callbacks.clear()  # texts as they are, no dictionaries made of them
        return client.execute_command(*command)


def _info(node: Redis, *command: str) -> str:
    return str(ask(node, *command))
