"""Ports for servers that must be told theirs before they start, and that keep it when they start again."""

from __future__ import annotations

import random
import socket
from typing import Final

__all__ = ["LISTENING", "free_port"]

# Below what Linux gives to outgoing connections (32768 and up; macOS and Windows begin at 49152). A port out of that
# range may become some connection's own end between the moment it is found free and the moment its server binds it, or
# while its server is down; on a busy machine that happens.
LISTENING: Final = range(10_000, 32_768)

_TRIES: Final = 1000
_given: set[int] = set()  # by this process: what it gave away may not be listened on yet


def free_port(*, beside: int = 0) -> int:
    """Give a port of 127.0.0.1 that nobody listens on and no outgoing connection will take; never the same one twice.

    With `beside`, the port that lies so far above it is given with it.

    Raises:
        OSError: as many ports as were tried were all in use.

    """
    # Not the shared generator: who seeds it (as tests do) would get one and the same row of ports in every process.
    for port in random.SystemRandom().sample(LISTENING, _TRIES):
        wanted = {port, port + beside}
        if all(each in LISTENING and each not in _given and _free(each) for each in wanted):
            _given.update(wanted)
            return port
    raise OSError(f"{_TRIES} ports of 127.0.0.1 from {LISTENING.start} to {LISTENING.stop - 1} are all in use.")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
