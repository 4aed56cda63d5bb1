"""Long calls away from the loop."""

import asyncio
import threading

import pytest

from engines.background import background


async def test_it_gives_what_the_call_gives_from_another_thread() -> None:
    assert await background(threading.get_ident) != threading.get_ident()


async def test_it_raises_what_the_call_raises() -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await background(fail)


def test_a_loop_that_ends_does_not_wait_for_it() -> None:
    gate, ended = threading.Event(), threading.Event()

    def call() -> None:
        gate.wait(10)
        ended.set()

    async def leave() -> None:
        task = asyncio.create_task(background(call))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leave())
    assert not ended.is_set()
    gate.set()
    assert ended.wait(10)
