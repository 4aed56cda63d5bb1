"""Calls that take long, away from the event loop, which do not keep a process that ends from ending."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def background(call: Callable[[], _T]) -> _T:
    """Run a call in a thread of its own and return what it returns, or raise what it raises.

    Unlike asyncio's own threads, nobody waits for this one when the process ends.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def deliver(value: _T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)  # type: ignore[arg-type]  # None is a _T where there is no error

    def run() -> None:
        value, failure = None, None
        try:
            value = call()
        except BaseException as error:  # whoever waits decides
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(deliver, value, failure)

    threading.Thread(target=run, name="background", daemon=True).start()
    return await future
