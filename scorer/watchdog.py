"""Notices what no error tells: an event loop that does not turn, a service that reads nothing although much waits.

Client libraries are known to stop silently after a long run or a rejoin. The cure is a restart, which the supervisor or
the platform does once the process ends; exactly-once state makes that cheap.
"""

import asyncio
from collections.abc import Callable

_TICK_S = 0.02


class Stuck(Exception):
    """Nothing moves although records wait."""


async def measure_loop_lag(clock: Callable[[], float], observe: Callable[[float], None]) -> None:
    """Tick for ever and report, in seconds, how late each tick was. `clock` is monotonic, in seconds."""
    while True:
        due = clock() + _TICK_S
        await asyncio.sleep(_TICK_S)
        observe(max(0.0, clock() - due))


class ProgressWatch:
    """Raises Stuck when records have waited for `patience_s` while none was taken."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._consumed = -1
        self._since_s: float | None = None

    def check(self, now_s: float, consumed: int, waiting: int) -> None:
        """Look once; `now_s` is monotonic."""
        if consumed != self._consumed or waiting == 0 or self._since_s is None:
            self._consumed = consumed
            self._since_s = now_s
        elif now_s - self._since_s > self._patience_s:
            raise Stuck(
                f"{waiting} records wait, and none was read for {now_s - self._since_s:.0f} s. Ending the process so "
                "that it is started anew; its state and position are safe."
            )
