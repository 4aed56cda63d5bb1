"""Whether Kafka is there, and if not, why: for the probe, which a person or a platform reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from scorer.kafka.refusal import Refusal

_GRACE_S: Final = 2.0  # a coordinator that moves is no outage
_AGAIN_S: Final = 10.0  # between two questions why


class Contact:
    """Turns "nothing comes" into a reason. `ask` finds it out; `clock` is monotonic, in seconds."""

    def __init__(self, ask: Callable[[], Awaitable[Refusal]], clock: Callable[[], float]) -> None:
        self._ask = ask
        self._clock = clock
        self._since: float | None = None
        self._asked: float | None = None
        self._words = ""

    async def lost(self, silent: bool) -> str | None:
        """To be called about once a second with whether a client of ours is cut off; why, once it has lasted."""
        now = self._clock()
        if not silent:
            self._since = self._asked = None
            return None
        if self._since is None:
            self._since = now
        if now - self._since < _GRACE_S:
            return None
        if self._asked is None or now - self._asked >= _AGAIN_S:
            self._words = (await self._ask()).words
            self._asked = self._clock()
        return self._words
