"""Ending what client libraries run: they swallow cancellations, wait for ever, and cancel themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks for good, and wait until they have ended; how is all the same.

    A cancellation may be swallowed, as by redis-py in the middle of a command; a later one is not.
    """
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=0.1)
    await asyncio.gather(*tasks, return_exceptions=True)


async def within(seconds: float, closing: Coroutine[Any, Any, object]) -> BaseException | None:
    """Give it so long. Returns what it failed with; a cancellation that is its own, and not our caller's, included."""
    task = asyncio.create_task(closing)
    try:
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            return TimeoutError(f"not done within {seconds:g} s")
        return asyncio.CancelledError() if task.cancelled() else task.exception()
    finally:
        await end([task])
