import asyncio
import contextlib

import pytest

from scorer.tasks import end, within


async def stubborn(swallows: int) -> None:
    """Ends at the cancellation after so many."""
    for _ in range(swallows):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
    await asyncio.Event().wait()


async def test_a_task_that_swallows_cancellations_is_ended() -> None:
    tasks = [asyncio.create_task(stubborn(swallows)) for swallows in range(3)]
    await asyncio.sleep(0)
    await end(tasks)
    assert all(task.cancelled() for task in tasks)


async def test_what_goes_well_has_nothing_to_say() -> None:
    assert await within(5, asyncio.sleep(0)) is None


async def test_what_takes_too_long_is_ended() -> None:
    assert isinstance(await within(0.01, stubborn(1)), TimeoutError)


async def test_what_fails_says_with_what() -> None:
    async def fail() -> None:
        raise ValueError("a bug")

    assert isinstance(await within(5, fail()), ValueError)


async def test_what_cancels_itself_does_not_cancel_its_caller() -> None:
    async def cancel_itself() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    assert isinstance(await within(5, cancel_itself()), asyncio.CancelledError)


async def test_a_caller_that_is_cancelled_leaves_nothing_running() -> None:
    ended = asyncio.Event()

    async def close() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    caller = asyncio.create_task(within(5, close()))
    await asyncio.sleep(0.01)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()
