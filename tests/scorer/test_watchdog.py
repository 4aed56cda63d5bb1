import asyncio

import pytest

from scorer.watchdog import ProgressWatch, Stuck, measure_loop_lag


def test_records_that_wait_while_none_is_read_mean_stuck() -> None:
    watch = ProgressWatch(60)
    watch.check(0, 100, 5)
    watch.check(59, 100, 7)
    with pytest.raises(Stuck, match="7 records wait"):
        watch.check(61, 100, 7)


@pytest.mark.parametrize(("consumed", "waiting"), [(101, 5), (100, 0)])
def test_progress_and_idleness_begin_anew(consumed: int, waiting: int) -> None:
    watch = ProgressWatch(60)
    watch.check(0, 100, 5)
    watch.check(50, consumed, waiting)
    watch.check(100, consumed, 5)
    with pytest.raises(Stuck):
        watch.check(111, consumed, 5)


async def test_lag_is_how_late_a_tick_is() -> None:
    now, lags = 0.0, list[float]()
    done = asyncio.Event()

    def clock() -> float:
        nonlocal now
        now += 0.5  # each look at the clock is half a second after the one before
        return now

    def observe(seconds: float) -> None:
        lags.append(seconds)
        done.set()

    ticking = asyncio.create_task(measure_loop_lag(clock, observe))
    await done.wait()
    ticking.cancel()
    assert lags == [pytest.approx(0.48)]
