"""Python's cyclic garbage collector, kept off the path to the score.

By default it runs whenever some hundreds of containers are new, which is every few events, and now and then it looks
through all viewers in memory, which takes tens of milliseconds. Rows and events hold no cycles and go when nothing
refers to them; what does form cycles (tasks, exceptions) is young. So: nothing automatic, the young once a second, all
of it only when the group rebalances anyhow.
"""

import asyncio
import gc

_EVERY_S = 1.0


def take_over() -> None:
    """Stop automatic collections; what lives now (modules, compiled code) is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.disable()


async def collect_young() -> None:
    """Collect what is young, once a second, for ever."""
    while True:
        await asyncio.sleep(_EVERY_S)
        gc.collect(1)


def collect_all() -> None:
    """Collect everything; for a moment when nobody waits for a score."""
    gc.collect()
